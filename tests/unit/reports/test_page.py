"""Every kind of block of a page is rendered with its texts."""

from __future__ import annotations

from support.html_pages import elements, strict, texts_of

from distviz.reports.page import (
    Cell,
    Command,
    DataTable,
    Drawing,
    Facts,
    Fold,
    Page,
    Part,
    Prose,
    Section,
)
from distviz.reports.rendering import render


def test_blocks_have_kinds_of_their_own() -> None:
    from typing import get_args

    from distviz.reports.page import Block

    kinds = [kind.kind for kind in get_args(Block)]
    assert len(set(kinds)) == len(kinds) == 9


def test_every_text_of_a_page_is_rendered() -> None:
    blocks = [
        Prose("prose one\nprose two"),
        Drawing("described", [("piece", "seen"), ("moved", "change")]),
        Facts([("term", "meaning")]),
        DataTable(
            "a table", [("name", False), ("number", True)], [[Cell("x", "x"), Cell("1", "1.0")]]
        ),
        Command("distviz run demo"),
        Fold("folded", [Prose("inside")]),
    ]
    part = Part(
        "the part", "the subtitle", "the verdict", [Section("the section", blocks)], ["beware"]
    )
    html = render(Page("the page", [part]))
    strict(html)
    text = " ".join(map(texts_of, elements(html, "html")))
    for expected in (
        "prose one", "prose two", "piece", "moved", "term", "meaning", "a table", "number",
        "distviz run demo", "folded", "inside", "the part", "the subtitle", "the verdict",
        "the section", "beware",
    ):  # fmt: skip
        assert expected in text
