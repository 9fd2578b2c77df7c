"""Where two models begin to differ, from tables made by hand."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from distviz.results.elementwise import ROUNDOFF, divergence, rounding_level

FP32 = ["float32", "float32"]


def _table(errors: dict[tuple[int, str], float], **more: dict[tuple[int, str], float]) -> Any:
    rows = [
        {"layer": layer, "site": site, "relative_error": error}
        | {"sqnr_db": -20 * math.log10(error) if error else math.inf}
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


def test_nothing_differs() -> None:
    assert divergence(_table({(0, "act"): 0.0}), FP32)["verdict"] == "all values are equal"


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
