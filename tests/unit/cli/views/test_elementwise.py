"""A comparison value by value on the terminal."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from support.synthetic_elementwise import comparison_of, values_of
from support.terminal import printed

from distviz.cli.views import comparison as comparison_tables

_shown = partial(printed, comparison_tables.summary)


def test_the_verdict_comes_first_then_a_line_a_layer() -> None:
    values = values_of(4, first=2)
    found = comparison_of(values, own=0.5)
    lines = _shown(found).splitlines()
    verdict = found.manifest["elementwise"]["verdict"]
    shown = " ".join(" ".join(lines).split())
    assert "layer 2, attention" in verdict
    assert shown.index(verdict) < shown.index("The unit is the document")
    table = [line.split() for line in lines if line.startswith((" 0 ", " 1 ", " 2 ", " 3 "))][:4]
    assert [row[1] for row in table] == ["all", "all", "residual", "residual"]
    for row in table[2:]:
        a, b = values[int(row[0]), "residual"]
        error = np.linalg.norm(b - a) / np.linalg.norm(a)
        assert row[2].endswith("*")
        assert float(row[2][:-1]) == pytest.approx(error, rel=5e-3)
        assert float(row[3]) == pytest.approx(error / 2, rel=5e-3)
        assert float(row[4]) == pytest.approx(-20 * np.log10(error), abs=0.05)


def test_the_worst_channels_and_tokens_are_named() -> None:
    values = values_of(3)
    lines = _shown(comparison_of(values)).splitlines()
    a, b = values[2, "residual"]
    errors = ((b - a) ** 2).sum(0)
    start = next(i for i, line in enumerate(lines) if line.startswith("Channels with most"))
    assert lines[start].endswith("layer 2 · residual:")
    named = [int(line.split()[0]) for line in lines[start + 1 : start + 4]]
    assert named == np.argsort(-errors)[:3].tolist()
    assert f"{100 * errors.max() / errors.sum():.1f} % of the error" in lines[start + 1]
    token = int(((b - a) ** 2).sum(1).argmax())
    assert f"{token % 10}/0/{token // 10}  “ word{token}”" in lines[start + 5]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_nothing_is_cut(width: int) -> None:
    found = comparison_of(values_of(3, ("act", "module:model.layers.*.mlp")), own=0.1)
    shown = _shown(found, width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert _shown(found, encoding="ascii").isascii()


def test_what_is_nearly_equal_is_not_shown_as_equal() -> None:
    values = values_of(1, ("act",), noise=1e-7)
    shown = _shown(comparison_of(values, documents=4))
    assert ">.999999" in shown
    assert "interval" not in shown.split("Value by value")[1].split("bold")[0]
    equal = _shown(comparison_of(values_of(2, first=9)))
    assert "Value by value: all values are equal" in equal
    assert "Channels with most of the error" not in equal


def test_zero_against_something_is_infinite() -> None:
    values = values_of(2, ("act",))
    values[1, "act"] = (np.zeros((40, 24)), np.ones((40, 24)))
    found = comparison_of(values)
    assert "A is zero and B is not at layer 1, act" in found.manifest["elementwise"]["verdict"]
    assert "inf*" in _shown(found)


def test_a_comparison_without_it_says_nothing(comparison: object) -> None:
    assert "Value by value" not in _shown(comparison)
