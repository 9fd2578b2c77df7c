"""Formulas as MathML, which browsers draw without scripts, fonts or network.

docutils converts LaTeX to MathML; this extension registers it with Sphinx.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

_BARS = ((r"\lvert", r"\left\lvert"), (r"\rvert", r"\right\rvert"))
"""Bars in pairs are written as fences; otherwise browsers space them like operators."""


def _convert(node: nodes.Element, *, as_block: bool) -> str:
    text = node.astext()
    for bar, paired in _BARS:
        text = text.replace(bar, paired)
    return tex2mathml(text, as_block=as_block)


def _visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_convert(node, as_block=False))
    raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_convert(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Register the renderer under the name that ``conf.py`` chooses."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
