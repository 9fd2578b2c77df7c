"""Coverage of distviz.stats.ratio_inference, by simulation; prints the rows of COVERAGE.

    python tests/benchmarks/ratio_coverage.py [repetitions]   (3,000: one minute)

Documents have the lengths and the effects of ``interval_coverage.py``. A document's loss difference
is the effect and the mean of its tokens' noise (Student's t of 5 degrees of freedom); its KL
divergence is a scale of its own times exp(effect) times a gamma variable with the spread of a mean
of log-normal tokens (sigma 1.2). Truth is the ratio of sums over 400,000 documents.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from interval_coverage import DOCUMENTS, EFFECTS, PLACES, Floats, _effect, _lengths, _scales

from distviz.stats.ratio_inference import infer_ratio

QUANTITIES = ("loss_difference", "kl")


def draw(
    rng: np.random.Generator, shape: tuple[int, int], quantity: str, effect: str
) -> tuple[Floats, Floats]:
    """Return numerators and denominators, (places, documents)."""
    tokens = _lengths(rng, shape)
    change = _effect(rng, shape, effect)
    if quantity == "kl":
        spread = (np.exp(1.2**2) - 1) / tokens
        mean = _scales(rng, shape, 1.0) * np.exp(change)
        values = rng.gamma(1 / spread, mean * spread)
    else:
        values = change + rng.standard_t(5, shape) / np.sqrt(tokens)
    return values * tokens, tokens.astype(float)


def coverage_rows(repetitions: int) -> Iterator[dict[str, object]]:
    """Yield the coverage of every quantity, effect and number of documents."""
    for quantity in QUANTITIES:
        for effect in EFFECTS:
            top, bottom = draw(np.random.default_rng(1), (1, 400_000), quantity, effect)
            target = top.sum() / bottom.sum()
            for n in DOCUMENTS:
                rng, calls = np.random.default_rng([0, n]), range(-(-repetitions // PLACES))
                drawn = (draw(rng, (PLACES, n), quantity, effect) for _ in calls)
                parts = [infer_ratio(*one, quantity, is_log=quantity == "kl") for one in drawn]
                rows = pd.concat(parts)
                hit = (rows["ci_low"] <= target) & (target <= rows["ci_high"])
                yield {"quantity": quantity, "effect": effect, "documents": n} | {
                    "coverage": hit.mean()
                }


def main() -> None:
    """Print coverage by effect, and the lowest."""
    rows = pd.DataFrame(coverage_rows(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
    table = rows.pivot_table(index=["quantity", "effect"], columns="documents", values="coverage")
    print(table.round(3).to_string())
    print(table.groupby("quantity").min().round(3).to_string())


if __name__ == "__main__":
    main()
