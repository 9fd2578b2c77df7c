"""Where two models begin to differ, from tables made by hand; the worst of each layer."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from distviz.results.elementwise import (
    ROUNDOFF,
    divergence,
    error_rows,
    rounding_level,
    rows_of,
    worst_of_layers,
    worst_place,
)

FP32 = ["float32", "float32"]


def _table(errors: dict[tuple[int, str], float], **more: dict[tuple[int, str], float]) -> Any:
    rows = [
        {"layer": layer, "site": site, "relative_error": error}
        | {"sqnr_db": -20 * math.log10(error) if error else math.inf}
        | {"sqnr_low": math.nan, "sqnr_high": math.nan, "left_out": 0}
        | {name: values[layer, site] for name, values in more.items()}
        | {"module": f"layers.{layer}", "stack": "decoder"}
        for (layer, site), error in errors.items()
    ]
    return pd.DataFrame(rows)


def test_the_first_place_above_rounding() -> None:
    tiny = ROUNDOFF["float32"]
    found = divergence(
        _table({(0, "act"): 0.0, (0, "residual"): tiny, (1, "act"): 0.01, (1, "residual"): 0.04}),
        FP32,
    )
    assert (found["first"]["layer"], found["first"]["site"]) == (1, "act")
    assert found["first"]["level"] == rounding_level(1, FP32)
    assert found["worst"]["site"] == "residual"
    assert found["jump"]["site"] == "residual"
    assert found["jump"]["factor"] == pytest.approx(0.04 / rounding_level(0, FP32))
    assert found["verdict"].startswith(
        "A and B first differ by more than rounding at layer 1, act (relative error 0.01, rounding"
    )


def test_the_coarser_type_decides() -> None:
    table = _table({(0, "act"): 0.003})
    assert divergence(table, FP32)["first"] is not None
    found = divergence(table, ["float32", "bfloat16"])
    assert found["first"] is found["worst"] is found["jump"] is None
    assert found["verdict"] == "no place differs by more than rounding (relative error up to 0.003)"
    assert rounding_level(3, ["bfloat16"]) == 2 * rounding_level(0, ["bfloat16"])


def test_the_interval_stands_beside_the_lowest_ratio() -> None:
    place = (0, "act")
    table = _table({place: 0.01}, sqnr_low={place: 38.26}, sqnr_high={place: 41.04})
    found = divergence(table, FP32)
    assert "the lowest SQNR is 40.0 dB [38.3, 41.0] at layer 0, act" in found["verdict"]
    assert found["worst"]["sqnr_low"] == 38.26


def test_nothing_differs() -> None:
    assert divergence(_table({(0, "act"): 0.0}), FP32)["verdict"] == "all values are equal"


def test_values_that_are_not_finite_are_named() -> None:
    table = _table({(0, "act"): 0.0, (0, "residual"): 0.0, (1, "residual"): 0.0})
    table["left_out"] = [0, 3, 4]
    found = divergence(table, FP32)
    assert found["left_out"] == {
        "layer": 0, "site": "residual", "module": "layers.0", "pairs": 7,
    }  # fmt: skip
    assert found["verdict"] == (
        "all finite values are equal; 7 pairs of values left out because one is not finite, first "
        "at layer 0, residual"
    )
    table["relative_error"] = table["sqnr_db"] = math.nan
    assert divergence(table, FP32)["verdict"].startswith("no pair of finite values was compared; 7")


def test_a_side_of_zeros_differs_without_limit() -> None:
    table = _table({(0, "act"): 0.5, (1, "act"): 0.5})
    table.loc[1, ["relative_error", "sqnr_db"]] = [math.nan, -math.inf]
    found = divergence(table, FP32)
    assert found["worst"]["sqnr_db"] is None
    assert found["jump"]["factor"] is None
    assert "the error grows most, infinite times" in found["verdict"]


def test_layers_that_amplify_what_they_inherit() -> None:
    errors = {(0, "residual"): 0.01, (1, "residual"): 0.05, (2, "residual"): 0.06}
    own = {(0, "residual"): 0.01, (1, "residual"): 0.0, (2, "residual"): 0.03}
    found = divergence(_table(errors, local_relative_error=own), FP32)
    assert found["amplifying"] == [1]
    assert "an inherited error at least doubles in layer 1" in found["verdict"]


@pytest.mark.parametrize(
    ("dtypes", "layer", "level"),
    [
        (FP32, 0, 4 * 2**-24 * math.sqrt(12)),
        (["bfloat16", "float32"], 3, 4 * 2**-9 * math.sqrt(48)),
        (["float16", "float32"], -1, 4 * 2**-11 * math.sqrt(12)),
        (["unknown", "float64"], 0, 4 * 2**-9 * math.sqrt(12)),
    ],
)
def test_the_level_grows_with_the_root_of_the_depth(
    dtypes: list[str], layer: int, level: float
) -> None:
    assert rounding_level(layer, dtypes) == pytest.approx(level, rel=1e-12)


def test_large_jumps_are_written_as_numbers() -> None:
    errors = {(0, "act"): 1e-8, (1, "act"): 0.01, (2, "act"): 0.5}
    verdict = divergence(_table(errors), FP32)["verdict"]
    assert "grows most, 12,108 times, from layer 0 to 1" in verdict
    assert "lowest SQNR is 6.0 dB at layer 2, act" in verdict


def test_places_without_values_are_left_out_and_infinite_errors_are_infinite() -> None:
    table = _table({(0, "act"): 1e-9, (0, "up"): 1e-9, (1, "act"): 0.0})
    table.loc[0, ["relative_error", "sqnr_db"]] = math.nan
    table.loc[1, ["relative_error", "sqnr_db"]] = [math.nan, -math.inf]
    rows = error_rows(table, FP32)
    assert [(row["layer"], row["site"]) for row in rows] == [(0, "up"), (1, "act")]
    assert rows[0]["relative_error"] == math.inf
    verdict = divergence(table, FP32)["verdict"]
    assert "relative error infinite" in verdict
    assert "A is zero and B is not at layer 0, up" in verdict
    assert divergence(table.head(1), FP32)["verdict"] == "no pair of finite values was compared"


def test_the_worst_of_each_layer() -> None:
    table = _table({(0, "act"): 0.1, (0, "up"): 0.2, (1, "act"): 0.0, (1, "up"): 0.0})
    rows = error_rows(table, FP32)
    assert [row["site"] for row in worst_of_layers(rows)] == ["up", "act"]
    worst = worst_place(rows)
    assert worst is not None
    assert rows_of(table, worst).index.tolist() == [1]
    assert worst_place(rows[2:]) is None
