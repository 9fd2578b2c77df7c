"""Runs with planted extremes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from distviz.results.run import Run
from support.synthetic_comparisons import make
from support.synthetic_runs import place

# (layer, value, ratio, channel, position, token)
PLANTED = [
    (1, -2e4, 5e3, 7, 0, "Why"),
    (1, 1.5e3, 1.5e3, 3, 0, "Why"),
    (1, 99.0, 2e3, 5, 0, "Why"),  # too small
    (2, 2.5e4, 6e3, 7, 4, "\n"),
    (2, 2e4, 5.5e3, 7, 0, "On"),
    (3, 900.0, 8e2, 7, 0, "On"),  # too near the median
    (3, 50.0, 45.0, 3, 0, "On"),
]


def planted(rows: list[Any], layers: int = 5, **columns: Any) -> Run:
    table = pd.DataFrame(
        [
            place(layer, "before")._asdict()
            | {"rank": rank, "value": value, "ratio": ratio, "channel": channel}
            | {"position": position, "token": token, "document": 0, "window": 0}
            for rank, (layer, value, ratio, channel, position, token) in enumerate(rows, 1)
        ]
    )
    return replace(make(1, layers=layers).run, extremes=table.assign(**columns))
