"""The record of an option: its help, its check, and that adding one needs only the record."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from distviz.errors import RequestError
from distviz.option import HEADINGS, Option, records_of, setting


@dataclasses.dataclass
class Settings:
    """Two settings and a field that is none."""

    steps: int = setting(4, "N", "Number of steps", HEADINGS[0], minimum=1)
    kinds: list[str] = setting(["a"], "LIST", "Kinds: {choices}", HEADINGS[0], choices=("a", "b"))
    other: int = 0


def test_records_are_those_of_the_fields() -> None:
    records = records_of(Settings)
    assert list(records) == ["steps", "kinds"]
    assert (records["steps"].type, records["kinds"].type) == (int, list[str])
    first, second = Settings(), Settings()
    first.kinds.append("b")
    assert (second.steps, second.kinds) == (4, ["a"])


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"default": 4}, "Text [default: 4]."),
        ({"default": 10.0}, "Text [default: 10]."),
        ({"default": 0.13}, "Text [default: 0.13]."),
        ({"default": ["png", "svg"]}, "Text [default: png,svg]."),
        ({"default": None}, "Text."),
        ({"default": ...}, "Text."),
        ({"default": 0}, "Text [default: 0]."),
        ({"default": False}, "Text."),
        ({"default": True, "flags": "--yes/--no"}, "Text [default: --yes]."),
        ({"default": False, "flags": "--yes/--no"}, "Text [default: --no]."),
        ({"default": None, "shown": "as --layers"}, "Text [default: as --layers]."),
        ({"default": "b", "text": "One of {choices}", "choices": ("a", "b")},
         "One of a, b [default: b]."),
    ],
    ids=str,
)  # fmt: skip
def test_help_has_choices_and_default(record: dict[str, Any], expected: str) -> None:
    assert Option(**{"text": "Text", "name": "x"} | record).help == expected


def test_spellings() -> None:
    assert Option(name="max_length").spellings == ["--max-length"]
    assert Option(name="out", flags="--out -o").spellings == ["--out", "-o"]


def test_values_are_checked() -> None:
    number = Option(name="save_every", minimum=0)
    for value in (None, 0, 3.5):
        number.check(value)
    for value in (-1, float("nan"), float("inf")):
        with pytest.raises(RequestError, match=f"--save-every is {value}, it must be at least 0"):
            number.check(value)
    word = Option(name="kind", choices=("repeat", "random"))
    word.check("random")
    with pytest.raises(RequestError, match=r"layer\.kind is 'repaet' \(did you mean 'repeat'\?\)"):
        word.check("repaet", "layer.kind")
    Option(name="kind", choices=("repeat",), is_open=True).check("other")
    Option(name="kind", choices=("repeat",), is_list=True).check("repeat,other")
