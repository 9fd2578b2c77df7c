"""Tables against dataclasses: names, types, nested tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distviz.config_file import check_table, read_toml
from distviz.errors import RequestError


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


def test_hyphens_are_underscores(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("max-length = 3\n")
    assert read_toml(path) == {"max_length": 3}
