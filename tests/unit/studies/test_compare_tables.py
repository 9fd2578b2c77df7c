"""The tables of a comparison, against every value and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from support.synthetic_comparisons import EVERY, Made, eps_of, make
from support.synthetic_runs import place, run_of

from distviz.results.comparison import Comparison, pair_keys
from distviz.results.run import Run
from distviz.studies import comparison as comparing
from distviz.studies.compare_tables import channel_changes, distances

# Distances ----------------------------------------------------------------------------------


def _by_hand(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    x, y = np.sort(x.ravel()), np.sort(y.ravel())
    values = np.unique(np.concatenate([x, y]))
    below = [np.searchsorted(side, values, side="right") / side.size for side in (x, y)]
    shares = [np.diff(np.concatenate([[0.0], side])) for side in below]
    middle = (shares[0] + shares[1]) / 2
    js = 0.0
    for share in shares:
        kept = share > 1e-15
        js += 0.5 * float((share[kept] * np.log2(share[kept] / middle[kept])).sum())
    eps, moved = eps_of(x), float((np.abs(below[0] - below[1])[:-1] * np.diff(values)).sum())
    marks = [0.01, 0.5, 0.99]
    shifts = np.quantile(y, marks) - np.quantile(x, marks)
    return {
        "ks": float(np.abs(below[0] - below[1]).max()),
        "wasserstein": moved,
        "wasserstein_normalized": moved / x.std(),
        "js_divergence": js,
        "std_ratio": y.std() / x.std(),
        "near_zero_a": float((np.abs(x) < eps).mean()),
        "near_zero_b": float((np.abs(y) < eps).mean()),
        "p1_shift": shifts[0],
        "p50_shift": shifts[1],
        "p99_shift": shifts[2],
    }


def test_distances_equal_brute_force(comparison: Comparison, first: Made, second: Made) -> None:
    assert list(comparison.table["layer_a"]) == [0, 1, 2]
    for row in comparison.table.to_dict("records"):
        expected = _by_hand(first.raw[row["layer_a"]], second.raw[row["layer_b"]])
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name


def test_distances_equal_scipy(comparison: Comparison, first: Made, second: Made) -> None:
    for row in comparison.table.to_dict("records"):
        x, y = first.raw[row["layer_a"]].ravel(), second.raw[row["layer_b"]].ravel()
        assert row["ks"] == pytest.approx(stats.ks_2samp(x, y).statistic, rel=1e-12)
        assert row["wasserstein"] == pytest.approx(stats.wasserstein_distance(x, y), rel=1e-10)


def test_a_side_without_values_has_no_distance() -> None:
    empty = run_of({place(0, "before"): np.zeros(0, np.float32)})
    full = run_of({place(0, "before"): np.ones(3, np.float32)})
    row = distances(pair_keys(full, empty, "before", "before"), full, empty).iloc[0]
    assert row[["ks", "wasserstein", "js_divergence", "near_zero_b"]].isna().all()


# Channels and classes -----------------------------------------------------------------------


def test_channel_changes_equal_brute_force(first: Made, second: Made) -> None:
    found = comparing.compare_runs(first.run, second.run).channels
    for layer in range(3):
        rows = found[found["layer_a"] == layer]
        x, y = (made.raw[layer].reshape(-1, 24) for made in (first, second))
        change = np.stack(
            [
                np.abs(np.log(y.std(axis=0) / x.std(axis=0))),
                np.abs(y.mean(axis=0) - x.mean(axis=0)) / x.std(axis=0),
                np.abs(np.log(np.abs(y).max(axis=0) / np.abs(x).max(axis=0))),
            ]
        ).max(axis=0)
        order = np.argsort(-change, kind="stable")
        assert list(rows["channel"]) == list(order)
        np.testing.assert_allclose(rows["change"], change[order], rtol=1e-12)
        for side, values in (("a", x), ("b", y)):
            peaks = np.abs(values).max(axis=0)
            np.testing.assert_allclose(rows[f"std_{side}"], values.std(axis=0)[order], rtol=1e-12)
            expected = (peaks / np.median(peaks))[order]
            np.testing.assert_allclose(rows[f"outlier_{side}"], expected, rtol=1e-12)


def test_the_fifty_most_changed_channels(first: Made) -> None:
    wide = [make(seed, channels=80) for seed in (3, 4)]
    found = comparing.compare_runs(wide[0].run, wide[1].run).channels
    assert (found.groupby("layer_a").size() == 50).all()
    assert found.groupby("layer_a")["change"].is_monotonic_decreasing.all()


def test_other_widths_have_no_channels(first: Made) -> None:
    other = make(2, channels=30)
    found = comparing.compare_runs(first.run, other.run)
    assert found.channels.empty
    assert len(found.table) == 3


def test_a_channel_that_was_dead_comes_first(first: Made) -> None:
    run = first.run
    dead = run.channels.copy()
    dead.loc[dead["channel"] == 7, ["std", "mean", "absmax"]] = 0.0
    found = channel_changes(
        pair_keys(run, run, "before", "before"), Run(run.manifest, run.sketches, channels=dead), run
    )
    assert (found.groupby("layer_a").first()["channel"] == 7).all()
    assert np.isinf(found["change"]).sum() == 3


def test_classes_use_the_eps_of_a(comparison: Comparison, first: Made, second: Made) -> None:
    rows = comparison.classes.set_index(["layer_a", "token_class"])
    for layer in range(3):
        eps = eps_of(first.raw[layer])
        is_digit = np.arange(60) % EVERY == 0
        for side, made in (("a", first), ("b", second)):
            x = np.abs(made.raw[layer].reshape(60, -1))
            for name, chosen in (("digits", is_digit), ("other", ~is_digit)):
                row = rows.loc[(layer, name)]
                assert row[f"near_zero_{side}"] == pytest.approx((x[chosen] < eps).mean())
                assert row[f"tokens_{side}"] == chosen.sum()
    whole = comparison.table.set_index("layer_a")
    parts = comparison.classes.assign(weight=lambda t: t["near_zero_b"] * t["tokens_b"] / 60)
    np.testing.assert_allclose(parts.groupby("layer_a")["weight"].sum(), whole["near_zero_b"])
