"""The section of two models compared value by value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.html_pages import curves, strict
from support.synthetic_elementwise import comparison_of, values_of

from distviz.reports.elementwise import elementwise_section
from distviz.reports.page import DataTable, Page, Part, Prose
from distviz.reports.rendering import render
from distviz.results.elementwise import rounding_level

if TYPE_CHECKING:
    from distviz.results.comparison import Comparison


def _page(found: Comparison) -> str:
    text = render(Page("c", [Part("c", "", "", list(elementwise_section(found)))]))
    strict(text)
    return text


def _error(pair: tuple[Any, Any]) -> float:
    return float(np.linalg.norm(pair[1] - pair[0]) / np.linalg.norm(pair[0]))


def test_the_chart_has_errors_own_errors_intervals_and_the_level() -> None:
    values = values_of(3, ("act", "residual"), first=1)
    text = _page(comparison_of(values, own=0.5))
    chart = curves(text)["relative error, ‖b − a‖ / ‖a‖"]
    rows = {row["place"]: row for row in chart["data"]["values"]}
    assert rows[0]["v0"] == rows[0]["v1"] == 0
    for layer in (1, 2):
        for at, site in (("v0", "act"), ("v2", "residual")):
            error = _error(values[layer, site])
            assert rows[layer][at] == pytest.approx(error)
            ends = [rows[layer][f"{at}{end}"] for end in ("low", "high")]
            assert ends == pytest.approx([error * 10**-0.025, error * 10**0.025])
        assert rows[layer]["v1"] == pytest.approx(_error(values[layer, "act"]) / 2)
        assert rows[layer]["v4"] == pytest.approx(rounding_level(layer, ["float32"]))
    names = [one.get("name") for one in chart["layer"]]
    assert {"v0", "v1", "v2", "v3", "v4", "v0-interval", "v2-interval"} <= set(names)
    for title in ("act", "act, own", "residual", "rounding explains up to"):
        assert title in text
    assert "Bars are 95 % intervals" in text
    assert "Dashed: the error" in text
    without = _page(comparison_of(values, documents=4))
    assert "Bars" not in without
    assert "Dashed" not in without


def test_the_map_and_the_tables_name_the_worst_channels_and_tokens() -> None:
    values = values_of(2)
    found = comparison_of(values)
    cells = curves(_page(found))["share of the error at residual by channel"]["data"]["values"]
    a, b = values[1, "residual"]
    share = ((b - a) ** 2).sum(0) / ((b - a) ** 2).sum()
    drawn = {int(cell["channel"]): cell["value"] for cell in cells if cell["layer"] == 1}
    assert drawn == pytest.approx({channel: share[channel] for channel in drawn})
    assert int(share.argmax()) in drawn
    (section,) = elementwise_section(found)
    tables = [block for block in section.blocks if isinstance(block, DataTable)]
    assert [len(table.rows) for table in tables] == [8, 24, 24]
    for table in tables:
        assert all(table.meaning(name) for name, _ in table.columns)
    (verdict, *_) = [block.text for block in section.blocks if isinstance(block, Prose)]
    assert verdict.lower() == f"{found.manifest['elementwise']['verdict']}.".lower()


def test_equal_models_and_other_comparisons(comparison: Comparison) -> None:
    (section,) = elementwise_section(comparison_of(values_of(2, first=9)))
    assert [type(block).__name__ for block in section.blocks].count("DataTable") == 1
    table = next(block for block in section.blocks if isinstance(block, DataTable))
    column = [name for name, _ in table.columns].index("sqnr_db")
    assert {row[column].text for row in table.rows} == {"inf"}
    assert list(elementwise_section(comparison)) == []


def test_infinite_errors_are_gaps() -> None:
    values = values_of(2, ("act",))
    values[1, "act"] = (np.zeros((40, 24)), np.ones((40, 24)))
    chart = curves(_page(comparison_of(values)))["relative error, ‖b − a‖ / ‖a‖"]
    assert [row["v0"] is None for row in chart["data"]["values"]] == [False, True]


def test_exact_zeros_have_marks_of_their_own_and_are_said() -> None:
    values = values_of(3, ("act", "residual"), first=1)
    text = _page(comparison_of(values, own=0.5))
    chart = curves(text)["relative error, ‖b − a‖ / ‖a‖"]
    zeros = {one["name"]: one for one in chart["layer"] if one.get("name", "").endswith("-zero")}
    assert set(zeros) == {"v0-zero", "v1-zero", "v2-zero", "v3-zero"}
    for name, one in zeros.items():
        key = name.removesuffix("-zero")
        assert one["transform"] == [{"filter": f"datum.{key} === 0"}]
        assert [row["place"] for row in chart["data"]["values"] if row.get(key) == 0] == [0]
    assert len({one["encoding"]["xOffset"]["value"] for one in zeros.values()}) == 4
    assert "an error of exactly 0; all values are equal in 2 of 6 places" in text
    assert "exactly 0" not in _page(comparison_of(values_of(2)))


def test_equal_models_have_a_title_that_says_so() -> None:
    text = _page(comparison_of(values_of(2, first=9)))
    assert "relative error, ‖b − a‖ / ‖a‖: 0 everywhere" in curves(text)
