"""The sections of a sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd
from support.html_pages import (
    EVIL,
    curves,
    elements,
    strict,
)

from distviz.reports.page import Page
from distviz.reports.rendering import render
from distviz.reports.sweep import sweep_part
from distviz.results.sweep import NAMED, SWEEP_QUANTITIES, Sweep


def test_a_sweep() -> None:
    base = dict.fromkeys([*NAMED, "seeds", *SWEEP_QUANTITIES], np.nan)
    base |= {"redistribution": "arm", "layers": "0", "mode": "replace", "preset": "", "seeds": 1}
    rows = [
        base | {"c": c, "p1": p1, "kl": c * p1 / 1000, "near_zero_removed": c / 4}
        | {"loss_before": 2.0, "loss_after": 2.0 + c / 10, "fraction_moved": c / 3}
        | {"near_zero_before": 0.3, "near_zero_after": 0.3 - c / 4}
        for c in (0.1, 0.2, 0.4)
        for p1 in (75.0, 99.5)
    ]  # fmt: skip
    manifest = {"schema_version": 3, "kind": "sweep", "budget_kl": 0.016, "by_layer": False}
    swept = Sweep(
        manifest | {"model": {"name": EVIL, "source": EVIL}}, pd.DataFrame(rows), pd.DataFrame(rows)
    )
    text = render(Page("s", [sweep_part(swept)]))
    strict(text)
    assert not elements(text, "img")
    shown = curves(text)
    heat = shown["near-zero share removed"]["data"]["values"]
    assert [row["value"] for row in heat] == [row["near_zero_removed"] for row in rows]
    assert [row["chosen"] for row in heat] == [False, False, True, False, False, False]
    (trade,) = [spec for title, spec in shown.items() if "against KL" in title]
    front = [row["front"] for row in trade["data"]["values"]]
    assert front == [True, False, True, False, True, False]
    layers = [row | {"layers": str(n), "p1": 75.0, "c": 0.1} for n, row in enumerate(rows[:3])]
    by_layer = Sweep(
        swept.manifest | {"by_layer": True}, pd.DataFrame(layers), pd.DataFrame(layers)
    )
    spec = curves(render(Page("s", [sweep_part(by_layer)])))["KL divergence, nats"]
    assert [row["v0"] for row in spec["data"]["values"]] == [row["kl"] for row in layers]
