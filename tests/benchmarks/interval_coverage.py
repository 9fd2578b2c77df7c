"""Coverage and size of distviz.stats.inference, by simulation; prints the tables of COVERAGE.

    python tests/benchmarks/interval_coverage.py [repetitions]   (3,000: six minutes)

A document has 12 to 600 effectively independent values (log-normal lengths, median 60) and a scale
of its own; its values are squared normals (gamma) or log-normal, so its variance is skewed. Paired
sides share lengths and scales, and their values correlate (.95 as normals). Near-zero shares are
beta-binomial around a share of the document's own (mean 5 %). B differs from A by an effect that is
even (normal over documents), uneven (gamma, skewness 1.4; in real runs up to 1.1 was seen), or rare
(a tenth of the documents carry it, skewness 2.7): log variance + effect, share * (1 + effect).
Truth is the mean over 400,000 documents.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from distviz.stats.inference import QUANTITIES, DocumentValues, infer

Floats = NDArray[np.float64]

DOCUMENTS = (8, 12, 20, 40, 100)
EFFECTS = ("even", "uneven", "rare")
VALUES = ("gamma", "lognormal")
PLACES = 50
"""Places a call: a repetition is a place, and calls differ in their seed."""


def simulate(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    paired: bool,
    effect: str,
    values: str,
    other: int = 0,
    spread: float = 1.0,
) -> tuple[DocumentValues, DocumentValues]:
    """Draw two sides of (places, documents); side A has ``other`` documents if that is given.

    ``spread`` multiplies how much the scales and shares of B's documents vary (unpaired only).
    """
    shape_a = (shape[0], other or shape[1])
    lengths = _lengths(rng, shape_a)
    scale, share = _scales(rng, shape_a, 1.0), _shares(rng, shape_a, 1.0)
    normal = rng.standard_normal(lengths.sum())
    side_a = DocumentValues(_std(normal, values, lengths, scale), _observed(rng, share, lengths))
    if paired:
        normal = 0.95 * normal + np.sqrt(1 - 0.95**2) * rng.standard_normal(normal.size)
    else:
        lengths = _lengths(rng, shape)
        scale, share = _scales(rng, shape, spread), _shares(rng, shape, spread)
        normal = rng.standard_normal(lengths.sum())
    change = _effect(rng, shape, effect)
    side_b = DocumentValues(
        _std(normal, values, lengths, scale * np.exp(change / 2)),
        _observed(rng, share * (1 + change), lengths),
    )
    return side_a, side_b


def _lengths(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.clip(np.exp(rng.normal(np.log(60), 0.8, shape)), 12, 600).astype(np.int64)


def _scales(rng: np.random.Generator, shape: tuple[int, int], spread: float) -> Floats:
    return np.exp(rng.normal(0, 0.3 * spread, shape))


def _shares(rng: np.random.Generator, shape: tuple[int, int], spread: float) -> Floats:
    precision = 80 / spread**2
    return rng.beta(0.05 * precision, 0.95 * precision, shape)


def _effect(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> Floats | float:
    if kind == "none":
        return 0.0
    if kind == "even":
        return rng.normal(0.2, 0.2, shape)
    if kind == "uneven":
        return rng.gamma(2.0, 0.3, shape)
    return np.where(rng.random(shape) < 0.1, 1.5, 0.0)


def _std(normal: Floats, values: str, lengths: NDArray[np.int64], scale: Floats) -> Floats:
    counts = lengths.ravel()
    x = (normal**2 if values == "gamma" else np.exp(normal)) * np.repeat(scale.ravel(), counts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    mean = np.add.reduceat(x, starts) / counts
    return np.sqrt(np.add.reduceat(x**2, starts) / counts - mean**2).reshape(lengths.shape)


def _observed(rng: np.random.Generator, share: Floats, lengths: NDArray[np.int64]) -> Floats:
    share = np.clip(share, 1e-6, 0.95)
    counts = 5 * lengths
    return rng.binomial(counts, rng.beta(300 * share, 300 * (1 - share))) / counts


def results(n: int, repetitions: int, seed: int = 0, **case: object) -> pd.DataFrame:
    """Infer from ``repetitions`` data sets of ``n`` documents; a row each and quantity."""
    rng = np.random.default_rng([seed, n, len(str(case["values"]))])
    paired = bool(case["paired"])
    parts = []
    for call in range(-(-repetitions // PLACES)):
        a, b = simulate(rng, (PLACES, n), **case)
        parts.append(infer(a, b, paired=paired, seed=call))
    return pd.concat(parts)


def truth(draws: int = 20, **case: object) -> dict[str, float]:
    """Return both quantities over ``draws`` times 20,000 documents."""
    rng = np.random.default_rng(1)
    found: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for _ in range(draws):
        a, b = simulate(rng, (1, 20_000), **case)
        found[QUANTITIES[0]].append(2 * float(np.mean(np.log(b.std)) - np.mean(np.log(a.std))))
        found[QUANTITIES[1]].append(float(b.near_zero.mean() - a.near_zero.mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def coverage_rows(repetitions: int) -> Iterator[dict[str, object]]:
    """Yield the coverage of every effect, kind of values and number of documents."""
    for paired in (True, False):
        for effect in EFFECTS:
            for values in VALUES:
                case = {"paired": paired, "effect": effect, "values": values}
                true = truth(**case)
                for n in DOCUMENTS:
                    for quantity, rows in results(n, repetitions, **case).groupby("quantity"):
                        target = true[str(quantity)]
                        hit = (rows["ci_low"] <= target) & (target <= rows["ci_high"])
                        yield {
                            "quantity": quantity,
                            "paired": paired,
                            "effect": effect,
                            "values": values,
                            "documents": n,
                            "coverage": hit.mean(),
                            "power": (rows["p_value"] < 0.05).mean(),
                        }


def size_rows(repetitions: int) -> Iterator[dict[str, object]]:
    """Yield the share of significant tests where there is nothing to find."""
    cases = (
        ("paired", {"paired": True}, 0),
        ("unpaired, n and n", {"paired": False}, 1),
        ("unpaired, 2n and n", {"paired": False}, 2),
        ("unpaired, 2n and n, B varies twice as much", {"paired": False, "spread": 2.0}, 2),
    )
    for name, case, times in cases:
        for values in VALUES:
            for n in DOCUMENTS:
                other = times * n if times > 1 else 0
                found = results(n, repetitions, effect="none", values=values, other=other, **case)
                for quantity, rows in found.groupby("quantity"):
                    share = (rows["p_value"] < 0.05).mean()
                    yield {
                        "quantity": quantity,
                        "sides": name,
                        "values": values,
                        "documents": n,
                        "significant": share,
                    }


def alternative_rows(repetitions: int) -> Iterator[dict[str, object]]:
    """Yield what other intervals do on the paired log variance ratio, and on skewed samples."""
    for effect in EFFECTS:
        case = {"paired": True, "effect": effect, "values": "gamma"}
        true = truth(**case)[QUANTITIES[0]]
        for n in DOCUMENTS[:-1]:
            a, b = simulate(np.random.default_rng([7, n]), (repetitions, n), **case)
            d = 2 * np.log(b.std / a.std)
            skewed = np.abs(stats.skew(d, axis=1)) > 1.5
            for name, (low, high) in _intervals(d).items():
                hit = (low <= true) & (true <= high)
                row = {"effect": effect, "documents": n}
                width = np.median(high - low)
                yield row | {"interval": name, "coverage": hit.mean(), "median_width": width}
                if name == "t" and skewed.any():
                    yield row | {"interval": "t, skewed samples", "coverage": hit[skewed].mean()}
                    yield row | {"interval": "t, the others", "coverage": hit[~skewed].mean()}


def _intervals(d: Floats) -> dict[str, tuple[Floats, Floats]]:
    n = d.shape[1]
    student = stats.ttest_1samp(d, 0, axis=1).confidence_interval()
    bca = stats.bootstrap((d,), np.mean, n_resamples=2000, axis=1, batch=50, rng=0)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 2000) / n
    mean, error = d.mean(axis=1), d.std(axis=1, ddof=1) / np.sqrt(n)
    centered = d - mean[:, None]
    means = centered @ weights.T
    spread = np.maximum(centered**2 @ weights.T - means**2, 1e-12)
    t = means / np.sqrt(spread / (n - 1))
    lower, upper = np.quantile(t, [0.025, 0.975], axis=1)
    both = np.quantile(np.abs(t), 0.95, axis=1)
    return {
        "t": (student.low, student.high),
        "BCa": (bca.confidence_interval.low, bca.confidence_interval.high),
        "studentized bootstrap": (mean - upper * error, mean - lower * error),
        "the same, symmetric": (mean - both * error, mean + both * error),
    }


def main() -> None:
    """Print the tables in markdown."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    covered = pd.DataFrame(coverage_rows(repetitions))
    sizes = pd.DataFrame(size_rows(repetitions))
    index = ["quantity", "paired", "effect", "values"]
    for value in ("coverage", "power"):
        _print(f"{value}, by documents", covered.pivot_table(value, index, "documents"))
    index = ["quantity", "sides", "values"]
    _print(
        "significant at 5 %, no difference", sizes.pivot_table("significant", index, "documents")
    )
    index = ["quantity", "paired"]
    lowest = covered.pivot_table("coverage", index, "documents", aggfunc="min")
    _print("COVERAGE, the lowest of these", lowest)
    others = pd.DataFrame(alternative_rows(repetitions))
    index = ["effect", "interval"]
    for value in ("coverage", "median_width"):
        title = f"log variance ratio of gamma values, paired: {value}"
        _print(title, others.pivot_table(value, index, "documents"))


def _print(title: str, table: pd.DataFrame) -> None:
    names = [*table.index.names, *(str(n) for n in table.columns)]
    lines = [f"\n**{title}**\n", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for key, row in zip(table.index, table.to_numpy(), strict=True):
        lines.append(f"| {' | '.join([*map(str, key), *(f'{x:.3f}' for x in row)])} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
