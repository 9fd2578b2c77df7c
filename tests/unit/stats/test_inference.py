"""Documents as the unit: against scipy, brute force, hand computation and small simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from benchmarks import interval_coverage as simulation
from scipy import stats
from support.document_values import LOG, NEAR, two_sides

from distviz.errors import RequestError
from distviz.stats.inference import (
    COVERAGE,
    QUANTITIES,
    DocumentValues,
    coverage,
    infer,
    infer_means,
)
from distviz.stats.verdict import verdict


def _of(frame, quantity):
    return frame[frame["quantity"] == quantity].reset_index(drop=True)


def _measured(side, quantity):
    return np.log(side.std**2) if quantity == LOG else side.near_zero


# --- against scipy and brute force ---


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_paired_is_students_t(quantity):
    a, b = two_sides()
    found = _of(infer(a, b, paired=True), quantity)
    d = _measured(b, quantity) - _measured(a, quantity)
    low, high = stats.ttest_1samp(d, 0, axis=1).confidence_interval(0.95)
    np.testing.assert_allclose(found["estimate"], d.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found["ci_low"], low, rtol=1e-10)
    np.testing.assert_allclose(found["ci_high"], high, rtol=1e-10)
    np.testing.assert_allclose(found["effect_size"], d.mean(1) / d.std(1, ddof=1), rtol=1e-10)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_unpaired_is_welchs_t_and_hedges_g(quantity):
    a, b = two_sides(n=11, m=17)
    found = _of(infer(a, b, paired=False), quantity)
    x, y = _measured(a, quantity), _measured(b, quantity)
    low, high = stats.ttest_ind(y, x, axis=1, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(found["ci_low"], low, rtol=1e-10)
    np.testing.assert_allclose(found["ci_high"], high, rtol=1e-10)
    pooled = np.sqrt((10 * x.var(1, ddof=1) + 16 * y.var(1, ddof=1)) / 26)
    g = (y.mean(1) - x.mean(1)) / pooled * (1 - 3 / 103)
    np.testing.assert_allclose(found["effect_size"], g, rtol=1e-10)
    assert found[["documents", "documents_a", "documents_b"]].values.tolist() == [[11, 11, 17]] * 3


@pytest.mark.parametrize("n", [2, 5, 8, 10])
def test_few_pairs_are_enumerated(n):
    a, b = two_sides(n=n, places=2)
    found = infer(a, b, paired=True)
    for quantity in QUANTITIES:
        d = _measured(b, quantity) - _measured(a, quantity)
        for row, p in zip(d, _of(found, quantity)["p_value"], strict=True):
            sums = [abs(np.dot(s, row)) for s in itertools.product((1, -1), repeat=n)]
            expected = np.mean([total >= abs(row.sum()) - 1e-12 for total in sums])
            assert p == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("unit", [1 / 70, 0.1 / 3, 1 / 4099])
def test_tied_differences_are_enumerated_as_ties(unit):
    rng = np.random.default_rng(2)
    counts = rng.integers(-3, 4, (20, 10))
    a = DocumentValues(np.ones((20, 10)), 3 * unit + rng.integers(0, 9, (20, 10)) * unit)
    b = DocumentValues(np.ones((20, 10)), a.near_zero + counts * unit)
    signs = np.array(list(itertools.product((1, -1), repeat=10)))
    expected = np.mean(np.abs(signs @ counts.T) >= np.abs(counts.sum(axis=1)), axis=0)
    found = _of(infer(a, b, paired=True), NEAR)["p_value"]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_few_unpaired_documents_are_enumerated():
    a, b = two_sides(n=4, m=6, places=2)
    found = _of(infer(a, b, paired=False), LOG)["p_value"]
    for x, y, p in zip(_measured(a, LOG), _measured(b, LOG), found, strict=True):
        pooled = np.concatenate([x, y])
        sizes = []
        for chosen in itertools.combinations(range(10), 4):
            rest = np.delete(pooled, chosen)
            sizes.append(abs(stats.ttest_ind(pooled[list(chosen)], rest, equal_var=False)[0]))
        observed = abs(stats.ttest_ind(x, y, equal_var=False)[0])
        assert p == pytest.approx(np.mean(np.array(sizes) >= observed - 1e-9), abs=1e-12)


def test_many_pairs_agree_with_the_t_test():
    a, b = two_sides(n=60, places=5, shift=0.01, seed=3)
    d = _measured(b, LOG) - _measured(a, LOG)
    found = _of(infer(a, b, paired=True, resamples=20_000), LOG)["p_value"]
    np.testing.assert_allclose(found, stats.ttest_1samp(d, 0, axis=1).pvalue, atol=0.012)


def test_correction_by_hand():
    a, b = two_sides(places=4, shift=0.03, seed=5)
    found = _of(infer(a, b, paired=True), LOG)
    p = found["p_value"].to_numpy()
    order = np.argsort(p)
    adjusted, running = np.empty(4), 1.0
    for rank in range(4, 0, -1):
        running = min(running, p[order[rank - 1]] * 4 / rank)
        adjusted[order[rank - 1]] = running
    assert len(set(p)) == 4
    np.testing.assert_allclose(found["p_adjusted"], adjusted, rtol=1e-12)


# --- laws ---


@pytest.mark.parametrize(("paired", "m"), [(True, None), (False, 12), (False, 9), (False, 15)])
def test_swapping_sides_negates(paired, m):
    a, b = two_sides(n=12, m=m, shift=0.05)
    forth, back = infer(a, b, paired=paired), infer(b, a, paired=paired)
    for name in ("estimate", "effect_size"):
        np.testing.assert_array_equal(forth[name], -back[name])
    np.testing.assert_allclose(forth["ci_low"], -back["ci_high"], rtol=1e-12)
    for name in ("p_value", "p_adjusted", "documents", "approximate"):
        np.testing.assert_array_equal(forth[name], back[name])


def test_identical_sides_are_exactly_zero():
    a, _ = two_sides()
    found = infer(a, a, paired=True)
    for name in ("estimate", "ci_low", "ci_high", "effect_size"):
        assert (found[name] == 0).all()
    assert (found["p_value"] == 1).all()
    assert (found["p_adjusted"] == 1).all()
    assert not found["approximate"].any()
    apart = infer(a, a, paired=False)
    assert (apart["estimate"] == 0).all()
    assert (apart["p_value"] == 1).all()
    assert (apart["ci_low"] < 0).all()


def test_equal_differences_have_a_point_interval():
    a, _ = two_sides(n=12)
    found = _of(infer(a, DocumentValues(2 * a.std, a.near_zero), paired=True), LOG)
    np.testing.assert_allclose(found[["estimate", "ci_low", "ci_high"]], math.log(4), rtol=1e-12)
    assert np.isposinf(found["effect_size"]).all()
    assert (found["p_value"] < 0.002).all()
    ones = DocumentValues(np.ones((1, 9)), np.full((1, 9), 0.1))
    apart = infer(ones, DocumentValues(3 * ones.std, ones.near_zero * 3), paired=False)
    assert np.isposinf(apart["effect_size"]).all()
    assert (apart["p_value"] < 0.002).all()


def test_same_seed_same_numbers():
    a, b = two_sides(n=30, shift=0.02)
    first, second = infer(a, b, paired=True, seed=4), infer(a, b, paired=True, seed=4)
    pd.testing.assert_frame_equal(first, second)
    other = infer(a, b, paired=True, seed=5)
    assert (first["p_value"] != other["p_value"]).any()
    np.testing.assert_array_equal(first["ci_low"], other["ci_low"])


def test_a_lone_layer_among_many_can_be_found():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.1, (150, 20))
    noise = rng.normal(0, 0.1, (150, 20))
    noise[17] += 1
    share = np.full((150, 20), 0.1)
    sides = (DocumentValues(np.exp(x), share) for x in (base, base + noise))
    found = infer(*sides, paired=True).query("p_adjusted < 0.05")
    assert found["place"].tolist() == [17]


def test_means_of_any_quantity():
    a, b = two_sides(n=15)
    x, y = _measured(a, LOG), _measured(b, LOG)
    found = infer_means(x, y, LOG, paired=True)
    whole = _of(infer(a, b, paired=True), LOG).drop(columns=["place", "quantity"])
    pd.testing.assert_frame_equal(found, whole)
    gini = infer_means(x, y, "gini_difference", paired=True)
    assert gini["approximate"].all()
    assert coverage("gini_difference", 100, paired=False) == COVERAGE[NEAR, False][100]
    with pytest.raises(RequestError, match="side A has 3 places, side B has 2"):
        infer_means(x, y[:2], LOG, paired=False)


# --- what is left out ---


def test_missing_documents_go_by_pairs_and_by_place():
    a, b = two_sides(places=3, n=14)
    a.std[1, 2] = np.nan
    a.near_zero[1, 2] = np.nan
    b.std[1, 5] = np.nan
    found = infer(a, b, paired=True)
    assert _of(found, LOG)["documents"].tolist() == [14, 12, 14]
    assert _of(found, NEAR)["documents"].tolist() == [14, 13, 14]
    keep = np.delete(np.arange(14), [2, 5])
    alone = infer(
        DocumentValues(a.std[1:2, keep], a.near_zero[1:2, keep]),
        DocumentValues(b.std[1:2, keep], b.near_zero[1:2, keep]),
        paired=True,
    )
    names = ["estimate", "ci_low", "ci_high", "effect_size"]
    np.testing.assert_array_equal(_of(found, LOG).loc[1, names], _of(alone, LOG).loc[0, names])


@pytest.mark.parametrize("paired", [True, False])
def test_documents_without_variance_leave_the_ratio(paired):
    a, b = two_sides(n=14)
    a.std[0, 3] = b.std[0, 3] = b.std[2, 4] = 0
    found = infer(a, b, paired=paired)
    assert _of(found, LOG)["zero_variance"].tolist() == ([1, 0, 1] if paired else [2, 0, 1])
    assert _of(found, LOG)["documents"].tolist() == [13, 14, 13]
    assert _of(found, NEAR)["documents"].tolist() == [14] * 3
    assert np.isfinite(found["estimate"]).all()
    assert "documents of zero variance left out: 1" in _of(found, LOG)["reason"][2]


def test_a_place_without_any_variance():
    a, b = two_sides(n=8)
    a.std[0], b.near_zero[1:] = 0, np.nan
    found = infer(a, b, paired=True)
    assert found["documents"].tolist() == [0, 8, 8, 0, 8, 0]
    assert found["p_adjusted"].isna().tolist() == (found["documents"] == 0).tolist()
    assert "variance" in verdict(found)
    assert "the largest differences: variance" in verdict(found, alpha=1e-4)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8])
@pytest.mark.parametrize("paired", [True, False])
def test_few_documents(n, paired):
    a, b = two_sides(n=n, m=None if paired else n)
    found = infer(a, b, paired=paired)
    assert (found["documents"] == n).all()
    assert found["ci_low"].notna().all() == (n >= 8)
    assert found["p_value"].notna().all() == (n >= 2)
    assert found["reason"].str.contains("withheld: fewer than 8 documents").all() == (n < 8)
    assert isinstance(verdict(found), str)


def test_published_coverage():
    of_ratios = {("loss_difference", True), ("kl", True), ("sqnr_db", True)}
    assert set(COVERAGE) == {*itertools.product(QUANTITIES, (True, False)), *of_ratios}
    assert all([*row] == [8, 12, 20, 40, 100] for row in COVERAGE.values())
    assert math.isnan(coverage(LOG, 7, paired=True))
    assert coverage(LOG, 12, paired=True) == COVERAGE[LOG, True][12]
    middle = (COVERAGE[LOG, True][20] + COVERAGE[LOG, True][40]) / 2
    assert coverage(LOG, 30, paired=True) == pytest.approx(middle)
    assert coverage(NEAR, 999, paired=False) == COVERAGE[NEAR, False][100]


@pytest.mark.parametrize("n", [8, 20, 40])
@pytest.mark.parametrize("paired", [True, False])
def test_low_coverage_marks_an_interval(n, paired):
    found = infer(*two_sides(n=n), paired=paired)
    for quantity, rows in found.groupby("quantity"):
        low = coverage(quantity, n, paired=paired) < 0.93
        assert (rows["approximate"] == low).all()
        assert rows["reason"].str.startswith("interval approximate: it covers ").eq(low).all()
    assert ("intervals are approximate" in verdict(found)) == found["approximate"].any()
    assert found["approximate"].any() == (paired and n < 40)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"std": np.ones(3), "near_zero": np.ones(3)}, r"std has shape \(3,\)"),
        ({"std": np.ones((1, 3)), "near_zero": np.ones((1, 4))}, "not equal"),
        ({"std": -np.ones((1, 3)), "near_zero": np.ones((1, 3))}, "std holds a negative"),
        ({"std": np.ones((1, 3)), "near_zero": np.full((1, 3), np.inf)}, "near_zero holds"),
    ],
)
def test_bad_values(change, match):
    with pytest.raises(RequestError, match=match):
        DocumentValues(**change)


def test_sides_that_do_not_fit():
    a, b = two_sides(n=9, m=8)
    with pytest.raises(RequestError, match="side A has 9 documents, side B has 8"):
        infer(a, b, paired=True)
    with pytest.raises(RequestError, match="3 places, side B has 2"):
        infer(a, two_sides(places=2)[0], paired=False)
    with pytest.raises(RequestError, match="2 names for 3 places"):
        infer(a, b, paired=False, places=pd.DataFrame({"layer_a": [0, 1]}))


def test_columns_and_order():
    a, b = two_sides(places=2)
    places = pd.DataFrame({"layer_a": [0, 5], "layer_b": [0, 9], "site": "act"}, index=[7, 8])
    found = infer(a, b, paired=True, places=places)
    expected = "layer_a layer_b site quantity estimate ci_low ci_high p_value p_adjusted"
    expected += " effect_size documents paired documents_a documents_b zero_variance approximate"
    assert [*found] == [*expected.split(), "reason"]
    assert found["layer_b"].tolist() == [0, 0, 9, 9]
    assert found["quantity"].tolist() == [*QUANTITIES] * 2
    assert found["paired"].dtype == bool
    assert found["documents"].dtype == np.int64


# --- simulations: the full ones are in tests/benchmarks/interval_coverage.py ---


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [8, 20])
def test_intervals_cover(paired, n):
    case = {"paired": paired, "effect": "even", "values": "lognormal"}
    true = simulation.truth(draws=4, **case)
    found = simulation.results(n, 600, **case)
    for quantity, rows in found.groupby("quantity"):
        hit = (rows["ci_low"] <= true[quantity]) & (true[quantity] <= rows["ci_high"])
        assert 0.925 <= hit.mean() <= 0.975


@pytest.mark.parametrize(("paired", "other"), [(True, 0), (False, 0), (False, 24)])
def test_size_without_a_difference(paired, other):
    case = {"paired": paired, "effect": "none", "values": "gamma", "other": other}
    found = simulation.results(12, 1000, **case)
    size = (found["p_value"] < 0.05).groupby(found["quantity"]).mean()
    assert size.between(0.03, 0.07).all()
