"""Runs with a table of measured formats."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from distviz.results.run import Run
from support.synthetic_comparisons import make
from support.synthetic_runs import place

KINDS = [("none", "nvfp4"), ("none", "int8-token"), ("hadamard", "nvfp4")]


def with_formats(layers: int = 4) -> Run:
    """A run whose SQNR is 10 + 10 * kind + layer dB, and within tokens 1 dB less."""
    rows = [
        place(layer, "before")._asdict()
        | {"format": name, "rotation": rotation, "sqnr_db": 10.0 + 10 * number + layer}
        | {"error_share": 10 ** -(1.0 + number + layer / 10)}
        | {"token_error_share": 10 ** -(0.9 + number + layer / 10)}
        | {"zeroed": layer / 10, "clipped": 0.0, "count": 100, "error": 1.0}
        | {"max_p1": 1.0, "max_p50": 2.0, "max_p99": 3.0, "max_p100": 4.0}
        for layer in range(layers)
        for number, (rotation, name) in enumerate(KINDS)
    ]
    return replace(make(1, layers=layers).run, formats=pd.DataFrame(rows))
