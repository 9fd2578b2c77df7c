"""Values of documents on two sides, from seeded numbers."""

from __future__ import annotations

import numpy as np

from distviz.stats.inference import (
    QUANTITIES,
    DocumentValues,
)

LOG, NEAR = QUANTITIES


def two_sides(places=3, n=12, m=None, seed=0, shift=0.1):
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.3, (places, n))
    a = DocumentValues(np.exp(base), rng.beta(4, 76, (places, n)))
    other = base if m is None else rng.normal(0, 0.3, (places, m))
    std = np.exp(other + shift + rng.normal(0, 0.1, other.shape))
    return a, DocumentValues(std, rng.beta(4, 60, other.shape))
