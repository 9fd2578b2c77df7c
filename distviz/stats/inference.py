"""Confidence intervals and permutation tests of differences, with documents as the unit.

Tokens of one document depend on each other, documents do not; so each document gives one number
per side, and the mean of these numbers is tested. Guarantee: under exchangeable sides the p-values
are exact (up to the resamples drawn), and the intervals have the coverage of :data:`COVERAGE`.
Failure case: an effect in few documents, which a small sample may miss; the sample does not show
it, so intervals are marked by the number of documents alone. Cost: 0.05 s for 30 layers and 40
documents, 0.3 s for 500. The interval is Student's (Welch's if unpaired) on the log scale, chosen
by simulation (``tests/benchmarks/interval_coverage.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.output import counted
from distviz.stats.arguments import checks_types, to_array

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

QUANTITIES = ("log_variance_ratio", "near_zero_difference")
"""The quantities, log(var B / var A), and the near-zero share of B minus that of A."""
MIN_DOCUMENTS = 8
"""Intervals need this many documents (of the smaller side if unpaired)."""

COVERAGE: dict[tuple[str, bool], dict[int, float]] = {
    ("log_variance_ratio", True): {8: 0.861, 12: 0.873, 20: 0.922, 40: 0.933, 100: 0.946},
    ("log_variance_ratio", False): {8: 0.953, 12: 0.953, 20: 0.943, 40: 0.948, 100: 0.948},
    ("near_zero_difference", True): {8: 0.935, 12: 0.933, 20: 0.941, 40: 0.938, 100: 0.944},
    ("near_zero_difference", False): {8: 0.943, 12: 0.944, 20: 0.945, 40: 0.938, 100: 0.946},
    ("loss_difference", True): {8: 0.729, 12: 0.726, 20: 0.783, 40: 0.849, 100: 0.902},
    ("kl", True): {8: 0.811, 12: 0.793, 20: 0.810, 40: 0.867, 100: 0.901},
    ("sqnr_db", True): {8: 0.598, 12: 0.670, 20: 0.761, 40: 0.825, 100: 0.894},
}
"""By quantity and pairing, the coverage of the 95 % interval for each number of documents, the
lowest of six simulated kinds of data, 3,000 repetitions each (standard error 0.004). The lowest is
that of an effect in a tenth of the documents; without this kind, no number is below 0.935. The last
three are of ``distviz.stats.ratio_inference`` (three kinds; without it, none is below 0.89)."""

_NOMINAL, _APPROXIMATE_BELOW = 0.95, 0.93
_ROUNDING = 1e-12
COLUMNS = (
    *("estimate", "ci_low", "ci_high", "p_value", "p_adjusted", "effect_size"),
    *("documents", "paired", "documents_a", "documents_b", "zero_variance"),
    *("approximate", "reason"),
)


@dataclass(frozen=True, slots=True)
class DocumentValues:
    """The numbers of one side by document; NaN for documents without a value.

    Parameters
    ----------
    std
        Standard deviations, (places, documents); a place is a pair of layers.
    near_zero
        Near-zero shares, each from the document's own eps, of the same shape.

    Raises
    ------
    RequestError
        If the shapes are not two-dimensional and equal, or a value is negative or infinite.
    """

    std: Floats
    near_zero: Floats

    def __post_init__(self) -> None:
        for name in ("std", "near_zero"):
            values = np.asarray(to_array(getattr(self, name), name), dtype=np.float64)
            if values.ndim != 2:
                raise RequestError(f"{name} has shape {values.shape}, not (places, documents)")
            if np.any((values < 0) | np.isinf(values)):
                raise RequestError(f"{name} holds a negative or an infinite value")
            object.__setattr__(self, name, values)
        if self.std.shape != self.near_zero.shape:
            raise RequestError(
                f"std is {self.std.shape}, near_zero is {self.near_zero.shape}: not equal"
            )


@checks_types
def infer(
    a: DocumentValues,
    b: DocumentValues,
    *,
    paired: bool,
    places: pd.DataFrame | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Estimate the differences B - A of all places, with documents as the unit.

    Parameters
    ----------
    a, b
        The two sides, with the same places; if paired, with the same documents in the same order.
    paired
        Whether both sides have the same documents. A document without a value on one side is then
        excluded on both, place by place.
    places
        One row per place; its columns (layer_a, layer_b, site, ...) are the first of the result.
        By default one column, ``place``.
    seed, resamples
        Seed and minimum number of sign flips or relabellings (all, if there are fewer); at least 40
        per place, so that a single layer among many can be significant.

    Returns
    -------
    DataFrame
        Two rows per place, one for each of :data:`QUANTITIES`: estimate, ci_low, ci_high (95 %),
        p_value, p_adjusted (Benjamini-Hochberg over the places of a quantity), effect_size
        (Cohen's d_z if paired, else Hedges' g; infinite if all differences are equal), documents
        (pairs, or the smaller side), paired, documents_a, documents_b, zero_variance (documents
        excluded from the log ratio because a side is constant), approximate (coverage below 93 %),
        reason (why an interval is withheld or approximate, or documents are excluded).

    Notes
    -----
    Paired tests flip the signs of the differences; unpaired ones relabel documents and compare
    Welch's t, which is valid for many documents when only the spreads differ. Two-sided. Sources:

    - Benjamini and Hochberg (1995), J. R. Stat. Soc. B 57, 289-300: the correction.
    - Hedges (1981), J. Educ. Stat. 6, 107-128: the effect size g.
    - Janssen (1997), Stat. Probab. Lett. 36, 9-21; Chung and Romano (2013), Ann. Stat. 41,
      484-507: relabelling and Welch's t.
    """
    names = pd.DataFrame({"place": range(len(a.std))}) if places is None else places
    if len(names) != len(a.std):
        raise RequestError(f"{counted(len(names), 'name')} for {counted(len(a.std), 'place')}")
    parts = []
    for quantity in QUANTITIES:
        (x, zero_x), (y, zero_y) = (_values(side, quantity) for side in (a, b))
        rows = infer_means(x, y, quantity, paired=paired, seed=seed, resamples=resamples)
        zero = (zero_x | zero_y).sum(axis=1) if paired else zero_x.sum(1) + zero_y.sum(1)
        rows["zero_variance"] = zero
        notes = [f"documents of zero variance left out: {n}" if n else "" for n in zero]
        pairs = zip(rows["reason"], notes, strict=True)
        rows["reason"] = ["; ".join(filter(None, pair)) for pair in pairs]
        rows.insert(0, "quantity", quantity)
        parts.append(pd.concat([names.reset_index(drop=True), rows], axis=1))
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)


def infer_means(
    x: Floats, y: Floats, quantity: str, *, paired: bool, seed: int = 0, resamples: int = 2000
) -> pd.DataFrame:
    """Return the columns of :func:`infer` from ``estimate`` on for any quantity: the mean of y - x.

    ``x`` and ``y`` are (places, documents), logarithms for a ratio, NaN for excluded documents.
    """
    if len(x) != len(y):
        raise RequestError(f"side A has {counted(len(x), 'place')}, side B has {len(y)}")
    if paired and x.shape != y.shape:
        raise RequestError(
            f"side A has {counted(x.shape[1], 'document')}, side B has {y.shape[1]}",
            "paired sides hold the same documents in the same order",
        )
    rows = _by_place(x, y, seed, max(resamples, 40 * len(x)), paired=paired)
    rows["paired"] = paired
    rows["zero_variance"] = 0
    assess_coverage(rows, quantity, paired=paired)
    return rows[list(COLUMNS)].copy()


def log_positive(values: Floats) -> Floats:
    """Return logarithms; NaN for values that are not positive."""
    return np.log(np.where(values > 0, values, np.nan))


@checks_types
def coverage(quantity: str, documents: int, *, paired: bool) -> float:
    """Return the coverage of a 95 % interval, interpolated between the simulated numbers.

    NaN below the smallest number; constant above the largest. Other quantities get the lower
    coverage of the two simulated ones.
    """
    named = [quantity] if (quantity, paired) in COVERAGE else QUANTITIES
    tables = [COVERAGE[name, paired] for name in named]
    return min(
        float(np.interp(documents, [*table], [*table.values()], left=np.nan)) for table in tables
    )


def _values(side: DocumentValues, quantity: str) -> tuple[Floats, Bools]:
    """Return the numbers to average, NaN for excluded documents, and where the variance is 0."""
    if quantity == "near_zero_difference":
        return side.near_zero, np.zeros(side.near_zero.shape, dtype=bool)
    zero = side.std == 0
    return 2.0 * np.log(np.where(zero, np.nan, side.std)), zero


def _by_place(x: Floats, y: Floats, seed: int, draws: int, *, paired: bool) -> pd.DataFrame:
    """Estimate all places, together those with the same documents."""
    names = ("estimate", "ci_low", "ci_high", "p_value", "effect_size")
    found = {name: np.full(len(x), np.nan) for name in names}
    documents = np.zeros((2, len(x)), dtype=np.int64)
    if paired:
        x, y = np.zeros_like(x), y - x  # a pair is one document, with its difference
        x[np.isnan(y)] = np.nan
    masks, member = np.unique(~np.isnan(np.hstack([x, y])), axis=0, return_inverse=True)
    for index, mask in enumerate(masks):
        rows = np.flatnonzero(member.reshape(-1) == index)
        a, b = x[np.ix_(rows, mask[: x.shape[1]])], y[np.ix_(rows, mask[x.shape[1] :])]
        documents[:, rows] = np.array([[a.shape[1]], [b.shape[1]]])
        if min(a.shape[1], b.shape[1]) >= 2:
            study = _paired(b, seed, draws) if paired else _unpaired(a, b, seed, draws)
            for name, values in zip(names, study, strict=True):
                found[name][rows] = values
    counts = {"documents_a": documents[0], "documents_b": documents[1]}
    return pd.DataFrame({**found, "documents": documents.min(axis=0), **counts})


def half_width(degrees: int | Floats) -> Floats:
    """Return the half width of an interval in standard errors (Student's t)."""
    from scipy import stats  # type: ignore[import-untyped]  # slow to import

    return np.asarray(stats.t.ppf((1 + _NOMINAL) / 2, degrees))


def _paired(d: Floats, seed: int, draws: int) -> tuple[Floats, ...]:
    n = d.shape[1]
    mean, variance = _moments(d)
    half = half_width(n - 1) * np.sqrt(variance / n)
    p = flip_signs(d, seed, draws)
    return mean, mean - half, mean + half, p, _ratio(mean, np.sqrt(variance))


def _unpaired(a: Floats, b: Floats, seed: int, draws: int) -> tuple[Floats, ...]:
    n, m = a.shape[1], b.shape[1]
    (mean_a, var_a), (mean_b, var_b) = _moments(a), _moments(b)
    estimate, se_a, se_b = mean_b - mean_a, var_a / n, var_b / m
    lower = se_a**2 / (n - 1) + se_b**2 / (m - 1)
    # Welch-Satterthwaite; any number if neither side varies
    degrees = np.where(lower > 0, (se_a + se_b) ** 2 / np.where(lower > 0, lower, 1.0), 1.0)
    half = half_width(degrees) * np.sqrt(se_a + se_b)
    pooled = np.sqrt(((n - 1) * var_a + (m - 1) * var_b) / (n + m - 2))
    effect = _ratio(estimate, pooled) * (1 - 3 / (4 * (n + m - 2) - 1))
    p = _relabel(a, b, seed, draws)
    return estimate, estimate - half, estimate + half, p, effect


def _moments(x: Floats) -> tuple[Floats, Floats]:
    """Return mean and variance (n - 1) of each row; a spread within rounding counts as 0."""
    spread = np.ptp(x, axis=1) > _ROUNDING * np.abs(x).max(axis=1)
    return x.mean(axis=1), np.where(spread, x.var(axis=1, ddof=1), 0.0)


def _ratio(difference: Floats, spread: Floats) -> Floats:
    """Divide; 0 if the difference is 0, infinite if only the spread is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / spread)


def flip_signs(d: Floats, seed: int, draws: int) -> Floats:
    """Return p-values of sign flips, the same documents at all places."""
    scale = np.abs(d).max(axis=1, keepdims=True)
    weights = d.T / np.where(scale > 0, scale, 1.0).T / d.shape[1]

    def size(signs: Floats, axis: int) -> Floats:  # noqa: ARG001
        return np.asarray(np.abs(signs @ weights).round(12))  # ties stay ties

    return _permute((np.ones(d.shape[1]),), size, "samples", seed, draws)


def _relabel(a: Floats, b: Floats, seed: int, draws: int) -> Floats:
    """Return p-values of relabelling, the same documents at all places; A and B may be swapped."""
    if a.shape[1] > b.shape[1]:
        a, b = b, a
    elif a.shape[1] == b.shape[1]:
        turned = (a.mean(axis=1) > b.mean(axis=1))[:, None]
        a, b = np.where(turned, b, a), np.where(turned, a, b)
    n, m = a.shape[1], b.shape[1]
    pooled = np.hstack([a, b])
    mean, variance = _moments(pooled)
    scale = np.sqrt(variance)[:, None]
    values = np.where(scale > 0, (pooled - mean[:, None]) / np.where(scale > 0, scale, 1.0), 0.0).T
    squares = values**2
    total, total_squares = values.sum(axis=0), squares.sum(axis=0)

    def size(first: NDArray[np.intp], second: NDArray[np.intp], axis: int) -> Floats:  # noqa: ARG001
        chosen = np.zeros((*first.shape[:-1], n + m))
        np.put_along_axis(chosen, first, 1.0, axis=-1)
        sums, sums_of_squares = chosen @ values, chosen @ squares
        mean_a, mean_b = sums / n, (total - sums) / m
        var_a = (sums_of_squares / n - mean_a**2) / (n - 1)
        var_b = ((total_squares - sums_of_squares) / m - mean_b**2) / (m - 1)
        error = np.sqrt(np.maximum(var_a + var_b, 1e-12))
        return np.asarray((np.abs(mean_b - mean_a) / error).round(6))  # ties stay ties

    return _permute((np.arange(n), np.arange(n, n + m)), size, "independent", seed, draws)


def _permute(
    data: tuple[NDArray[Any], ...], size: Callable[..., Floats], kind: str, seed: int, draws: int
) -> Floats:
    from scipy import stats

    found = stats.permutation_test(
        data,
        size,
        permutation_type=kind,
        vectorized=True,
        n_resamples=draws,
        batch=max(1, 2**21 // sum(side.size for side in data)),
        alternative="greater",
        axis=-1,
        rng=np.random.default_rng(seed),
    )
    return np.asarray(found.pvalue)


def assess_coverage(rows: pd.DataFrame, quantity: str, *, paired: bool) -> None:
    """Adjust p-values, withhold or mark intervals, and state the reasons."""
    tested = rows["p_value"].notna().to_numpy()
    rows["p_adjusted"] = np.nan
    if tested.any():
        from scipy import stats

        p = rows.loc[tested, "p_value"].to_numpy()
        rows.loc[tested, "p_adjusted"] = stats.false_discovery_control(p)
    few = (rows["documents"] < MIN_DOCUMENTS).to_numpy()
    rows.loc[few, ["ci_low", "ci_high"]] = np.nan
    covered = [coverage(quantity, n, paired=paired) for n in rows["documents"].tolist()]
    varies = (rows["ci_low"] < rows["ci_high"]).to_numpy()
    approximate = varies & (np.array(covered) < _APPROXIMATE_BELOW)
    rows["approximate"] = approximate
    withheld = f"interval withheld: fewer than {MIN_DOCUMENTS} documents"
    worst = [f"{100 * share:.0f} % in the worst simulation" for share in covered]
    rows["reason"] = [
        withheld if is_few else f"interval approximate: it covers {share}" if is_rough else ""
        for is_few, is_rough, share in zip(few, approximate, worst, strict=True)
    ]
