"""What is measured of a row."""

from __future__ import annotations

from typing import Any

import pytest

from distviz.data.rows import Content, check_text, content_of
from distviz.errors import RequestError

HI = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a"}, Content("a")),
        ({"messages": [HI], "date": 1}, Content(messages=(("user", "Hi"),), ignored=("date",))),
        ({"question": "q", "answer": "a"}, Content(messages=(("user", "q"), ("assistant", "a")))),
        ({"text": " ", "question": "q"}, Content(messages=(("user", "q"),))),
        ({"text": " "}, Content()),
        ({"question": " ", "answer": "a"}, Content(ignored=("answer",))),
        ({"messages": []}, Content()),
    ],
)
def test_content(row: dict[str, Any], expected: Content) -> None:
    assert content_of(row, "row") == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "q", "answer": "a"}, Content("a", ignored=("question",))),
        ({"answer": [HI]}, Content(messages=(("user", "Hi"),))),
        ({"answer": None, "x": 1}, Content(ignored=("x",))),
        ({"answer": "", "text": "t"}, Content(ignored=("text",))),
    ],
)
def test_a_field_by_name(row: dict[str, Any], expected: Content) -> None:
    assert content_of(row, "row", "answer") == expected


@pytest.mark.parametrize("row", [{"answer": 5}, {"answer": {"text": "a"}}, {"text": "a"}, {}])
def test_a_field_that_is_no_text(row: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"row has no field|neither a text nor"):
        content_of(row, "row", "answer")


def test_half_a_character_is_no_text() -> None:
    assert check_text("a", "here") == "a"
    with pytest.raises(RequestError, match="here has a lone surrogate"):
        check_text("\ud83d", "here")
