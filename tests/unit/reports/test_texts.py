"""The text that was measured, in the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from support.html_pages import EVIL, elements, strict, texts_of
from support.synthetic_runs import Synthetic

from distviz.reports.page import Facts, Fold, Page, Part, Prose, Section
from distviz.reports.rendering import render
from distviz.reports.texts import text_section


def section_of(synthetic: Synthetic, texts: list[dict[str, Any]] | None) -> Section | None:
    return text_section(replace(synthetic.run, texts=texts, documents=pd.DataFrame()))


def pairs_of(section: Section | None) -> list[tuple[str, str]]:
    assert section is not None
    (fold, *_) = section.blocks
    assert isinstance(fold, Fold)
    (facts,) = fold.blocks
    assert isinstance(facts, Facts)
    return facts.pairs


@pytest.mark.parametrize("texts", [None, []])
def test_texts_that_were_not_kept_are_not_shown(
    synthetic: Synthetic, texts: list[dict[str, Any]] | None
) -> None:
    assert section_of(synthetic, texts) is None


def test_each_kind_of_document_can_be_read(synthetic: Synthetic) -> None:
    shown = pairs_of(
        section_of(
            synthetic,
            [
                {"id": "story", "text": "One line,\n  another."},
                {"id": "", "system": "Be brief.", "question": "Why?"},
                {"messages": [{"role": "user", "content": "Hi"}]},
            ],
        )
    )
    assert shown == [
        ("story", "One line, another."),
        ("1", "Be brief. / Why?"),
        ("2", "user: Hi"),
    ]


def test_only_what_was_measured_is_shown(synthetic: Synthetic) -> None:
    documents = pd.DataFrame({"document": [0, 1, 0, 1]})
    texts = [{"id": str(number), "text": "t"} for number in range(5)]
    section = text_section(replace(synthetic.run, texts=texts, documents=documents))
    assert [name for name, _ in pairs_of(section)] == ["0", "1"]
    assert section is not None
    assert section.blocks[-1] == Prose("Not measured: 3 further documents.")


def test_a_long_text_does_not_make_the_page_long(synthetic: Synthetic) -> None:
    section = section_of(synthetic, [{"id": "x" * 999, "text": "word " * 100_000}] * 1000)
    assert section is not None
    pairs = pairs_of(section)
    assert len(pairs) == 40
    assert all(len(name) <= 49 and len(text) <= 241 for name, text in pairs)
    assert pairs[0][1].endswith("…")
    assert section.blocks[-1] == Prose("documents.jsonl has 960 more documents.")


def test_foreign_text_is_text(synthetic: Synthetic) -> None:
    section = section_of(synthetic, [{"id": EVIL, "text": EVIL + "\x1b[31m\u202e\x00"}])
    assert section is not None
    page = render(Page("t", [Part("t", "", "", [section])]))
    strict(page)
    assert not elements(page, "img")
    (shown,) = [texts_of(one) for one in elements(page, "dd")]
    assert shown == EVIL + "\\x1b[31m\\u202e\\x00"
