"""Intervals and tests of a ratio of sums over documents, such as a mean over the tokens of a text.

A document gives a numerator and a denominator (its tokens, or the energy of its values), so long
documents count more, as they do in the ratio itself. The standard error is the jackknife's over
documents; Student's t has the degrees of freedom of the effective number of documents, (sum of
weights)² / sum of squares; a positive ratio has its interval on the log scale. Both were chosen by
simulation (``tests/benchmarks/ratio_coverage.py``). Failure case: as in `distviz.stats.inference`,
an effect in few documents.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from distviz.errors import RequestError
from distviz.stats.inference import COLUMNS, Floats, assess_coverage, flip_signs, half_width


def infer_ratio(
    numerators: Floats,
    denominators: Floats,
    quantity: str,
    *,
    is_log: bool = False,
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Return the columns of `infer`, from ``estimate`` on, for sums of numerators / denominators.

    Parameters
    ----------
    numerators, denominators
        (places, documents), float64; denominators are 0 or more, and a document of 0 is left out.
    quantity
        Its name, for the coverage.
    is_log
        Whether the ratio is positive: the interval is on the log scale, and there is no p-value,
        as a ratio of 0 is no hypothesis to test.
    seed, resamples
        As of `infer`: documents' numerators change their sign.

    Raises
    ------
    RequestError
        If the shapes differ, or a denominator is negative.
    """
    top, bottom = (np.atleast_2d(np.asarray(one, float)) for one in (numerators, denominators))
    if top.shape != bottom.shape or np.any(bottom < 0):
        raise RequestError("numerators and denominators need equal shapes, denominators no sign")
    used = np.isfinite(top) & (bottom > 0)
    top, bottom = np.where(used, top, 0.0), np.where(used, bottom, 0.0)
    n = used.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole, weight = top.sum(axis=1), bottom.sum(axis=1)
        ratio, error = whole / weight, _jackknife(top, bottom, used)
        effective = weight**2 / (bottom**2).sum(axis=1)
        half = half_width(np.maximum(effective - 1, 1)) * error
        if is_log:
            factor = np.exp(np.where(half > 0, half / ratio, 0.0))
            low, high = ratio / factor, ratio * factor
        else:
            low, high = ratio - half, ratio + half
        effect = np.where(ratio == 0, 0.0, ratio / (error * np.sqrt(n)))
    few = n < 2
    columns = {"estimate": ratio, "ci_low": low, "ci_high": high, "effect_size": effect}
    rows = pd.DataFrame({name: np.where(few, np.nan, values) for name, values in columns.items()})
    rows["estimate"] = ratio
    rows["p_value"] = np.nan
    if is_log:
        rows["effect_size"] = np.nan
    elif (~few).any():
        rows.loc[~few, "p_value"] = flip_signs(top[~few], seed, max(resamples, 40 * len(top)))
    rows["documents"] = rows["documents_a"] = rows["documents_b"] = n
    rows["paired"], rows["zero_variance"] = True, 0
    assess_coverage(rows, quantity, paired=True)
    return rows[list(COLUMNS)].copy()


def infer_sqnr(
    errors: Floats, energies: Floats, levels: Floats, *, seed: int = 0, resamples: int = 2000
) -> pd.DataFrame:
    """Return the columns of `infer`, from ``estimate`` on, of a signal-to-noise ratio in dB.

    Parameters
    ----------
    errors, energies
        Sums of squared differences, and of squares of the signal: (places, documents), float64.
    levels
        (places,), float64: the p-value is that of a relative error of at most this much, by
        flipping the signs of errors - levels² energies; 1 where the error is below its level.
    seed, resamples
        As of `infer`.

    Raises
    ------
    RequestError
        As `infer_ratio`.
    """
    rows = infer_ratio(errors, energies, "sqnr_db", is_log=True)
    allowed = np.square(np.asarray(levels, float))[:, None] * energies
    tested = infer_ratio(errors - allowed, energies, "sqnr_db", seed=seed, resamples=resamples)
    ratios = rows[["estimate", "ci_high", "ci_low"]].to_numpy(float)
    with np.errstate(divide="ignore"):
        decibels = -10 * np.log10(ratios)
    rows["estimate"] = decibels[:, 0]
    rows[["ci_low", "ci_high"]] = np.where(np.isfinite(decibels[:, 1:]), decibels[:, 1:], np.nan)
    is_above = (tested["estimate"] > 0).to_numpy()
    rows["p_value"] = np.where(is_above | tested["p_value"].isna(), tested["p_value"], 1.0)
    assess_coverage(rows, "sqnr_db", paired=True)
    return rows[list(COLUMNS)].copy()


def _jackknife(top: Floats, bottom: Floats, used: np.ndarray) -> Floats:
    """Return the standard error of the ratio of sums: each document is left out once."""
    n = used.sum(axis=1)
    rest_top, rest = top.sum(axis=1, keepdims=True) - top, bottom.sum(1, keepdims=True) - bottom
    left_out = np.where(used, rest_top / rest, 0.0)
    mean = left_out.sum(axis=1, keepdims=True) / n[:, None]
    squares = np.where(used, (left_out - mean) ** 2, 0.0).sum(axis=1)
    is_flat = np.sqrt(squares / n) <= 1e-12 * np.abs(mean[:, 0])  # rounding alone
    return np.where(is_flat, 0.0, np.sqrt(squares * (n - 1) / n))
