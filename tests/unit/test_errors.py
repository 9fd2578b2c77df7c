"""Errors that a user sees, and what is taken of those of other libraries."""

from __future__ import annotations

import pytest

from distviz.errors import DistvizError, first_line, nearest


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one", "one"),
        ("  \n one \ntwo", "one"),
        ("a heading:\n  its content\nmore", "a heading: its content"),
        ("", "ValueError"),
    ],
)
def test_first_line(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line


def test_a_hint_follows_the_message() -> None:
    assert str(DistvizError("what", "do this")) == "what\ndo this"
    assert str(DistvizError("what")) == "what"


def test_nearest_word() -> None:
    assert nearest("actt", ["act", "gate"]) == " (did you mean 'act'?)"
    assert nearest("zzz", ["act", "gate"]) == ""
