"""What changed between snapshots: estimates and intervals by hand, and the sentences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from support.synthetic_runs import place
from support.synthetic_trainings import activations, snapshot, training

from distviz.results import Training
from distviz.results.drift import COLUMNS, drift, nonfinite_line

FIRST, LAST = 0, 30


@pytest.fixture(scope="module")
def trained() -> Training:
    return training().training


def row(table: pd.DataFrame, layer: int, quantity: str) -> pd.Series:
    (index,) = np.flatnonzero((table["layer"] == layer) & (table["quantity"] == quantity))
    return table.iloc[int(index)]


def by_hand(layer: int, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """One number a document, of the first and of the last snapshot."""
    found = []
    for step in (FIRST, LAST):
        x = activations(step, layer).astype(np.float64)
        if quantity == "log_absmax_ratio":
            found.append(np.log(np.abs(x).max(axis=(1, 2))))
        else:
            found.append(np.log(x.var(axis=(1, 2))))
    return found[0], found[1]


@pytest.mark.parametrize("quantity", ["log_variance_ratio", "log_absmax_ratio"])
@pytest.mark.parametrize("layer", range(4))
def test_estimates_and_intervals_are_those_of_welch(
    trained: Training, layer: int, quantity: str
) -> None:
    a, b = by_hand(layer, quantity)
    own = row(trained.drift, layer, quantity)
    expected = scipy_stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    # The values of a document are rounded to bf16, so are its largest ones.
    assert own["estimate"] == pytest.approx(b.mean() - a.mean(), abs=4e-3)
    assert own["ci_low"] == pytest.approx(expected.low, abs=8e-3)
    assert own["ci_high"] == pytest.approx(expected.high, abs=8e-3)
    assert (own["documents_a"], own["documents_b"], own["paired"]) == (10, 10, False)


def test_p_values_are_corrected_over_the_layers(trained: Training) -> None:
    for _, rows in trained.drift.dropna(subset="p_value").groupby("quantity"):
        expected = scipy_stats.false_discovery_control(rows["p_value"])
        np.testing.assert_allclose(rows["p_adjusted"], expected)
        assert len(rows) == 4


def test_dead_channels_are_counted_and_not_tested(trained: Training) -> None:
    rows = [row(trained.drift, layer, "dead_channels_difference") for layer in range(4)]
    assert [one["estimate"] for one in rows] == [0, 0, 6, 0]
    assert all(np.isnan(one["p_value"]) and "not tested" in one["reason"] for one in rows)
    assert [row(trained.drift, 2, name)["step_b"] for name in ("log_absmax_ratio",)] == [LAST]


def test_the_verdict_names_layers_and_unit(trained: Training) -> None:
    start, found, basis, dead = trained.verdict.split("\n")
    assert start == "From step 0 to step 30:"
    assert found.startswith("layers 1–3 differ; the largest: largest abs(x) ×10 [8, 13] at layer 3")
    assert "variance ×8 [5, 12] at layer 3 (in layers 1, 3)" in found
    assert basis.startswith("The unit is the document (10 documents on the smaller side)")
    assert basis.endswith("; unpaired, as each snapshot saw others.")
    assert dead.endswith("changed in layer 2 (0 → 6).")


def test_a_part_is_corrected_as_the_whole(trained: Training) -> None:
    part = trained.select([1]).select([1])
    whole = trained.drift[trained.drift["layer"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.drift, whole)
    assert part.verdict.split("\n")[1].startswith("layer 1 differs: ")


def test_where_the_first_nonfinite_value_was(trained: Training) -> None:
    assert nonfinite_line(trained.first_nonfinite) == ""
    values = {layer: activations(0, layer) for layer in range(3)}
    bad = {layer: array.copy() for layer, array in values.items()}
    bad[2][3, 4, 5] = np.inf
    found = Training.of({0: snapshot(values), 7: snapshot(bad), 9: snapshot(bad)})
    assert nonfinite_line(found.first_nonfinite) == "first infinity: step 7, layer 2, act"
    first = {
        "step": 6, "layer": 1, "stack": "decoder", "site": "gradient:act", "kind": "nan",
        "document": 3, "position": 4, "token": "so",
    }  # fmt: skip
    assert nonfinite_line(first | {"channel": 0}) == (
        "first NaN: step 6, layer 1, gradient:act, document 3, position 4, token 'so', channel 0"
    )
    outside = {"step": 4, "layer": -1, "stack": "model", "site": "module:m", "module": "m"}
    assert nonfinite_line(outside) == "first NaN or infinity: step 4, m, module:m"


def test_equal_snapshots_do_not_differ() -> None:
    values = {layer: activations(0, layer) for layer in range(2)}
    same = Training.of({0: snapshot(values), 5: snapshot(values)})
    assert "no layer is shown to differ" in same.verdict
    assert (same.drift["estimate"] == 0).all()
    assert "dead" not in same.verdict


def test_values_without_documents_are_not_tested() -> None:
    """As the weights of a parameter: one row for the place, the change of all values."""
    runs = {}
    for step in (FIRST, LAST):
        whole = snapshot({1: activations(step, 1)}, "weight:mlp.down_proj")
        runs[step] = type(whole)(whole.manifest, whole.sketches)
    found = Training.of(runs)
    x, y = (activations(step, 1).astype(np.float64) for step in (FIRST, LAST))
    own = row(found.drift, 1, "log_variance_ratio")
    assert own["estimate"] == pytest.approx(np.log(y.var() / x.var()), rel=1e-4)
    assert np.isnan(own["p_value"])
    assert own["reason"].startswith("not tested: the change of all values together")
    largest = row(found.drift, 1, "log_absmax_ratio")["estimate"]
    assert largest == pytest.approx(np.log(np.abs(y).max() / np.abs(x).max()), rel=1e-6)
    assert found.verdict == "From step 0 to step 30: no place has documents, nothing is tested."


def test_one_snapshot_has_no_drift() -> None:
    alone = Training.of({3: snapshot({0: activations(3, 0)})})
    assert alone.drift.empty
    assert list(alone.drift) == COLUMNS
    assert alone.verdict.startswith("nothing to compare: one snapshot")


def test_snapshots_of_other_places_are_not_compared() -> None:
    runs = {step: snapshot({step: activations(step, step)}) for step in (0, 1)}
    assert Training.of(runs).drift.empty


def test_places_of_both_snapshots_are_compared() -> None:
    runs = {
        0: snapshot({0: activations(0, 0), 1: activations(0, 1)}),
        9: snapshot({1: activations(9, 1), 2: activations(9, 2)}),
    }
    table = drift(Training.of(runs))
    assert set(table["layer"]) == {1}
    assert set(table["module"]) == {place(1, "before").module}
