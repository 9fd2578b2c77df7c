"""The directive ``architectures``: the table of the package, as ``inspect --architectures`` has it.

Its content is ``causal`` or ``others``, and ``supported`` or ``exceptions``.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from distviz.models.architectures import Architecture, load_architectures
from distviz.sites import SITES

_HEADS = {
    "supported": ("type", "activation", "found by", "form", "where", "not offered"),
    "exceptions": ("type", "status", "reason"),
}


class Architectures(SphinxDirective):
    """A table of types: ``{architectures} causal supported``."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        group, part = self.arguments
        rows = load_architectures().group(causal=group == "causal")
        chosen = [one for one in rows if (one.status == "supported") == (part == "supported")]
        cells = [_CELLS[part](one) for one in chosen]
        box = nodes.container("", _table(_HEADS[part], cells), classes=["table-wrapper"])
        return [box]


def _supported(one: Architecture) -> list[list[str]]:
    form = ["gated" if one.gated else "plain"] + (["routed"] if one.routed else [])
    where = dict.fromkeys(path.partition(".N.")[2] or path for path in one.where)
    return [
        [one.type, *([f"needs {one.needs}"] if one.needs else [])],
        list(one.activation),
        list(one.found),
        form,
        list(where),
        [site for site in SITES if site not in one.sites],
    ]


def _exception(one: Architecture) -> list[list[str]]:
    return [[one.type], [one.status], [one.explanation]]


_CELLS = {"supported": _supported, "exceptions": _exception}
_CODE = frozenset(("type", "where", "not offered"))


def _table(heads: tuple[str, ...], rows: list[list[list[str]]]) -> nodes.table:
    group = nodes.tgroup("", *[nodes.colspec(colwidth=1) for _ in heads], cols=len(heads))
    group += nodes.thead("", nodes.row("", *[_cell(head, [head], code=False) for head in heads]))
    group += nodes.tbody(
        "",
        *[
            nodes.row("", *[_cell(head, words, code=head in _CODE) for head, words in pairs])
            for pairs in (zip(heads, row, strict=True) for row in rows)
        ],
    )
    return nodes.table("", group, classes=["architectures"])


def _cell(_head: str, words: list[str], *, code: bool) -> nodes.entry:
    paragraph = nodes.paragraph()
    for index, word in enumerate(words):
        if index:
            paragraph += nodes.Text(", ")
        paragraph += nodes.literal("", word) if code else nodes.Text(word)
    return nodes.entry("", paragraph)


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("architectures", Architectures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
