"""The record of an option: its help, its check, and that adding one needs only the record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distviz.errors import RequestError
from distviz.option import (
    HEADINGS,
    Option,
    check_table,
    read_options,
    records_of,
    setting,
)


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


def test_amounts_have_a_unit() -> None:
    share = Option(HEADINGS[0], name="fraction", metavar="SHARE")
    percent = Option(HEADINGS[0], name="p", metavar="PERCENT")
    assert (share.parse("50%"), share.parse("0.5"), share.parse(0.5)) == (0.5, 0.5, 0.5)
    assert (percent.parse("99.5%"), percent.parse("99.5"), percent.parse(0.5)) == (99.5, 99.5, 0.5)
    with pytest.raises(RequestError, match=r"--p 0\.5 may be 50% or 0\.5%"):
        percent.parse("0.5")
    assert percent.words(0.5) == ["--p", "0.5%"]
    assert percent.parse(percent.words(0.5)[1]) == 0.5
    assert Option(HEADINGS[0], name="c", metavar="NUMBER").number("0.5") == 0.5
    with pytest.raises(RequestError, match="--c '5%' is not a number"):
        Option(HEADINGS[0], name="c", metavar="NUMBER").number("5%")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", ["--b-steps"]),
        ("--x/--no-x", ["--b-x/--no-b-x"]),
        ("--steps --n", ["--b-steps", "--b-n"]),
    ],
)
def test_an_option_of_one_side(flags: str, expected: list[str]) -> None:
    option = Option(HEADINGS[0], name="steps", type=int, default=4, text="Steps", flags=flags)
    found = option.of_side("b", "Side B alone")
    assert found.spellings == expected
    assert (found.name, found.default, found.type) == ("b_steps", None, int | None)
    assert found.help == f"{option.spellings[0]} of B."


def test_amounts_in_a_file(tmp_path: Path) -> None:
    records = {
        name: Option(name=name, metavar=metavar)
        for name, metavar in {"a": "SHARE", "b": "PERCENT", "c": "NUMBER"}.items()
    }
    path = tmp_path / "x.toml"
    path.write_text('a = "25%"\nb = "0.5%"\nc = 3\n')
    assert read_options(path, records) == {"a": 0.25, "b": 0.5, "c": 3}
    for text, readings in (("b = 0.9", "'b' 0.9 may be 90% or"), ("a = 5", "'a' 5 may be 5%")):
        path.write_text(text)
        with pytest.raises(RequestError, match=f"x.toml: {readings}"):
            read_options(path, records)
    path.write_text("a = true")
    assert read_options(path, records) == {"a": True}


@dataclass
class Inner:
    """A table in a table."""

    size: int = 1


@dataclass
class Outer:
    """A table."""

    share: float = 0.5
    names: list[str] = field(default_factory=list)
    inner: Inner | None = None
    secret: int = field(default=0, compare=False)


def test_values_become_those_of_the_fields() -> None:
    given = {"share": 1, "names": "one", "inner": {"size": 3}}
    assert check_table(given, Outer, "x.toml") == {
        "share": 1.0, "names": ["one"], "inner": Inner(3),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shar": 1}, r"x\.toml: unknown key 'shar' \(did you mean 'share'\?\)"),
        ({"secret": 1}, "unknown key 'secret'"),
        ({"inner": {"siz": 1}}, r"unknown key 'inner\.siz'"),
        ({"inner": {"size": "1"}}, r"'inner\.size' is '1', expected a whole number"),
        ({"inner": 1}, "'inner' is 1, expected a table or nothing"),
        ({"names": [1]}, "expected a list of strings"),
        ({"share": True}, "expected a number"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_table(given, Outer, "x.toml")
