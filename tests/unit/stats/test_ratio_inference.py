"""Ratios of sums over documents: brute force, equal weights, coverage, what is left out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from distviz.errors import RequestError
from distviz.stats.inference import COVERAGE, infer_means
from distviz.stats.ratio_inference import Floats, infer_ratio, infer_sqnr

RNG = np.random.default_rng(3)
TOKENS = RNG.integers(5, 90, 12).astype(float)
VALUES = RNG.normal(0.3, 0.2, 12)


def test_estimate_and_interval_are_those_of_a_jackknife_in_plain_loops() -> None:
    row = infer_ratio(VALUES * TOKENS, TOKENS, "loss_difference").iloc[0]
    total = sum(v * n for v, n in zip(VALUES, TOKENS, strict=True)) / sum(TOKENS)
    left_out = []
    for out in range(12):
        kept = [i for i in range(12) if i != out]
        left_out.append(sum(VALUES[i] * TOKENS[i] for i in kept) / sum(TOKENS[i] for i in kept))
    center = sum(left_out) / 12
    error = math.sqrt(11 / 12 * sum((one - center) ** 2 for one in left_out))
    effective = sum(TOKENS) ** 2 / sum(n**2 for n in TOKENS)
    half = stats.t.ppf(0.975, effective - 1) * error
    found = row[["estimate", "ci_low", "ci_high"]].to_numpy(float)
    np.testing.assert_allclose(found, [total, total - half, total + half], rtol=1e-12)
    log = infer_ratio(VALUES * TOKENS, TOKENS, "kl", is_log=True).iloc[0]
    low, high = total * math.exp(-half / total), total * math.exp(half / total)
    np.testing.assert_allclose(log[["ci_low", "ci_high"]].to_numpy(float), [low, high], rtol=1e-12)
    assert math.isnan(log["p_value"])


def test_documents_of_one_length_give_the_paired_test_of_means() -> None:
    same = np.full(12, 7.0)
    found = infer_ratio(VALUES * same, same, "loss_difference").iloc[0]
    zero = np.zeros((1, 12))
    expected = infer_means(zero, VALUES[None], "loss_difference", paired=True).iloc[0]
    for name in ("estimate", "ci_low", "ci_high", "p_value", "effect_size"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name


def test_places_are_corrected_together_and_documents_without_tokens_are_left_out() -> None:
    top = np.stack([VALUES * TOKENS, -VALUES * TOKENS])
    bottom = np.stack([TOKENS, np.where(np.arange(12) < 3, 0, TOKENS)])
    rows = infer_ratio(top, bottom, "loss_difference")
    assert rows["documents"].tolist() == [12, 9]
    alone = infer_ratio(top[1, 3:], TOKENS[3:], "loss_difference").iloc[0]
    assert rows.iloc[1]["ci_low"] == pytest.approx(alone["ci_low"], rel=1e-12)
    assert (rows["p_adjusted"] >= rows["p_value"]).all()


@pytest.mark.parametrize("is_log", [False, True])
def test_equal_sides_have_an_interval_of_exactly_zero(is_log: bool) -> None:
    row = infer_ratio(np.zeros(9), TOKENS[:9], "kl", is_log=is_log).iloc[0]
    assert (row["estimate"], row["ci_low"], row["ci_high"]) == (0, 0, 0)
    assert not row["approximate"]


def test_few_documents_have_no_interval() -> None:
    row = infer_ratio(VALUES[:5] * 2, np.full(5, 2.0), "kl", is_log=True).iloc[0]
    assert math.isnan(row["ci_low"])
    assert row["reason"] == "interval withheld: fewer than 8 documents"
    one = infer_ratio([3.0], [2.0], "loss_difference").iloc[0]
    assert one["estimate"] == 1.5
    assert math.isnan(one["p_value"])


def test_shapes_and_signs_are_checked() -> None:
    for top, bottom in (([1.0, 2.0], [1.0]), ([1.0], [-1.0])):
        with pytest.raises(RequestError, match="need equal shapes, denominators no sign"):
            infer_ratio(top, bottom, "kl")


@pytest.mark.parametrize("quantity", ["loss_difference", "kl"])
def test_the_coverage_that_is_stated(quantity: str) -> None:
    rng = np.random.default_rng(5)
    tokens = np.exp(rng.normal(4, 0.8, (800, 20)))
    values = rng.gamma(4, 0.25, (800, 20))
    rows = infer_ratio(values * tokens, tokens, quantity, is_log=quantity == "kl", resamples=1)
    hit = (rows["ci_low"] <= 1) & (rows["ci_high"] >= 1)
    assert COVERAGE[quantity, True][20] - 0.03 < hit.mean() < 0.98


# Signal-to-noise ratio ------------------------------------------------------------------------


def _sqnr_by_hand(error: Floats, energy: Floats) -> tuple[float, float, float]:
    """Return the ratio in dB and its interval: the jackknife on the log scale, Student's t."""
    n = len(error)
    without = [(error.sum() - error[i]) / (energy.sum() - energy[i]) for i in range(n)]
    spread = math.sqrt((n - 1) / n * sum((one - np.mean(without)) ** 2 for one in without))
    degrees = energy.sum() ** 2 / (energy**2).sum() - 1
    ratio = error.sum() / energy.sum()
    half = stats.t.ppf(0.975, degrees) * spread / ratio * 10 / math.log(10)
    center = -10 * math.log10(ratio)
    return center, center - half, center + half


def test_an_sqnr_by_hand() -> None:
    rng = np.random.default_rng(4)
    energy, share = rng.gamma(9, 1.0, (2, 10)), rng.gamma(4, 1e-4, (2, 10))
    error = energy * share
    levels = np.sqrt(error.sum(1) / energy.sum(1)) * [0.5, 2.0]
    rows = infer_sqnr(error, energy, levels)
    for place in range(2):
        found = rows.iloc[place][["estimate", "ci_low", "ci_high"]]
        np.testing.assert_allclose(
            found.to_numpy(float), _sqnr_by_hand(error[place], energy[place]), rtol=1e-12
        )
    excess = error[0] - levels[0] ** 2 * energy[0]
    flips = np.array(list(itertools.product((-1, 1), repeat=10))) @ excess
    exact = np.mean(np.abs(flips) >= abs(excess.sum()) * (1 - 1e-12))
    assert rows["p_value"].to_numpy() == pytest.approx([exact, 1.0])
    assert rows["p_adjusted"].to_numpy() == pytest.approx([min(1.0, 2 * exact), 1.0])
    assert rows["approximate"].all()
    assert rows["reason"].str.startswith("interval approximate: it covers 63 %").all()


def test_an_sqnr_without_error_and_with_few_documents() -> None:
    energy = np.full((2, 9), 2.0)
    error = np.array([np.zeros(9), [0.5, *[0.0] * 8]])
    equal, one = infer_sqnr(error, energy, np.full(2, 1e-6)).to_dict("records")
    assert equal["estimate"] == math.inf
    assert equal["p_value"] == 1
    assert math.isnan(equal["ci_low"])
    assert not equal["approximate"]
    assert one["estimate"] == pytest.approx(10 * math.log10(36))
    few = infer_sqnr(error[1:, :7], energy[1:, :7], np.full(1, 1e-6)).iloc[0]
    assert math.isnan(few["ci_low"])
    assert few["reason"] == "interval withheld: fewer than 8 documents"


def test_the_coverage_of_an_sqnr() -> None:
    rng = np.random.default_rng(5)
    energy = np.exp(rng.normal(4, 0.8, (800, 20)))
    rows = infer_sqnr(energy * rng.gamma(4, 0.25, (800, 20)), energy, np.ones(800), resamples=1)
    hit = (rows["ci_low"] <= 0) & (rows["ci_high"] >= 0)
    assert COVERAGE["sqnr_db", True][20] - 0.03 < hit.mean() < 0.98
