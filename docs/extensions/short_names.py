"""Short names in docstrings and signatures.

``Run.select`` stands for ``distviz.Run.select``, ``NDArray[float64]`` for what it is an alias of.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes

_SHORTER = (
    (re.compile(r"~(?:\w+\.)+"), ""),
    (re.compile(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)\]\]"), r"NDArray[\1]"),
    (re.compile(r"_Buffer \| .*_NestedSequence\[complex \| bytes \| str\]"), "ArrayLike"),
    (re.compile(r"\b(?:np|pd|torch)\.(?=[A-Za-z])"), ""),
)


def _resolve(app: Any, env: Any, node: nodes.Element, content: nodes.Element) -> Any:
    """Look up a Python name by its last part; the result is used only if it is unique."""
    if node.get("refdomain") != "py":
        return None
    node["refspecific"] = True
    place = node["refdoc"], app.builder, node["reftype"], node["reftarget"]
    return env.domains.python_domain.resolve_xref(env, *place, node, content)


def _shorten(
    _app: Any, _what: str, _name: str, _it: Any, _options: Any, given: str | None, back: str | None
) -> tuple[str | None, str | None]:
    """Return parameters and result of a signature with its types shortened."""
    return _short(given), _short(back)


def _short(text: str | None) -> str | None:
    for pattern, replacement in _SHORTER:
        text = None if text is None else pattern.sub(replacement, text)
    return text


def setup(app: Any) -> dict[str, Any]:
    """Resolve names that Sphinx has not found; shorten signatures before it parses them."""
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
