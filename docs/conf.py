"""How the documentation is built: ``sphinx-build -W -n docs docs/_build``; no network is needed."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "distviz"
release = version = version_of("distviz")
html_title = f"distviz {release}"
project_copyright = "the distviz authors; Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "architecture_table",
    "command_pages",
    "mathml",
    "short_names",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "extensions", "static"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Furo reads well on any width, light and dark, and loads nothing from the network.
html_theme = "furo"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["distviz.css"]
html_copy_source = False
html_show_sphinx = False

# Single backticks in docstrings name Python objects.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_default_options = {"no-value": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = False

# Names of other projects, whose documentation is on the network; unions that a parameter's text
# spells out; and what autodoc makes of nested generics.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|np|numpy|pd|pandas|matplotlib|nn|collections|contextlib|pathlib)\..*"),
    (
        "py:.*",
        r"(Any|Path|Figure|DataFrame|Series|NDArray|ArrayLike|Iterable|Iterator|Sequence|Tensor|dtype|device|u?(int|float)\d+)",
    ),
    (
        "py:class",
        r"(Layers|ChannelDim|tuple\[Any|CheckpointFolder|distviz\.measure\.resume\.CheckpointFolder|dict\[str|frozenset\[tuple\[str)",
    ),
    ("py:class", r"distviz\.(sites|models\.architectures\.mlp)\.(Mlp|HookPoint|LayerOrder)"),
    (
        "py:class",
        r"(Checked|HasMagnitudes|FirstOutputs|PairedOutputs|distviz\.stats\.magnitudes\.\w+|distviz\.results\.token_rows\.\w+)",
    ),
]
