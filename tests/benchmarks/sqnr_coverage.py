"""Coverage of the SQNR's interval (distviz.stats.infer_ratio), by simulation.

    python tests/benchmarks/sqnr_coverage.py [repetitions]   (3,000: ten seconds)

A document has 12 to 600 tokens (log-normal, median 60) of skewed energy, and its error is a share
of its energy that varies over documents: even (log-normal, 0.3), uneven (0.8), or rare (a tenth of
the documents has ten times the error). Truth is the ratio of both sums over a million documents.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from distviz.stats import infer_ratio

DOCUMENTS = (8, 12, 20, 40, 100)
KINDS = ("even", "uneven", "rare")


def _draw(
    rng: np.random.Generator, shape: tuple[int, ...], kind: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the energy and the error of each document."""
    lengths = np.clip(np.exp(rng.normal(np.log(60), 0.8, shape)), 12, 600).astype(int)
    energy = rng.gamma(lengths / 4.0, 4.0)
    spread = {"even": 0.3, "uneven": 0.8, "rare": 0.3}[kind]
    share = 1e-3 * np.exp(rng.normal(0, spread, shape))
    if kind == "rare":
        share *= np.where(rng.random(shape) < 0.1, 10.0, 1.0)
    return energy, share * rng.gamma(lengths, 1.0) * energy / lengths


def main() -> None:
    """Print a line for each number of documents."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    rng = np.random.default_rng(0)
    for n in DOCUMENTS:
        found = []
        for kind in KINDS:
            energy, error = _draw(np.random.default_rng(1), (1_000_000,), kind)
            truth = error.sum() / energy.sum()
            energy, error = _draw(rng, (repetitions, n), kind)
            rows = infer_ratio(error, energy, "sqnr_db", is_log=True)
            found.append(np.mean((rows["ci_low"] <= truth) & (truth <= rows["ci_high"])))
        shown = ", ".join(f"{kind} {share:.3f}" for kind, share in zip(KINDS, found, strict=True))
        print(f"{n:4} documents: {shown}")


if __name__ == "__main__":
    main()
