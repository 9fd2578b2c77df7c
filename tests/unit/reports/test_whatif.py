"""The sections of what-if results."""

from __future__ import annotations

import numpy as np
import pandas as pd
from support.html_pages import (
    EVIL,
    curves,
    strict,
)

from distviz.reports.page import Page
from distviz.reports.rendering import render
from distviz.reports.whatif import whatif_part
from distviz.results.whatif import COLUMNS, WhatIf

PLACE = {"layer": 0, "site": "act", "phase": "before", "module": EVIL, "stack": "decoder"}


def test_what_if_answers() -> None:
    base = dict.fromkeys(COLUMNS, np.nan) | PLACE | {"format": "", "range": ""}
    rows = [
        base | {"layer": layer, "question": "format", "format": f"int{bits}.x", "range": "max"}
        | {"sqnr_db": 6.0 * bits + layer, "sqnr_rest_db": 5.0 * bits}
        | {"zeroed": 0.1 * layer, "top_energy": 0.3}
        for layer in range(2)
        for bits in range(2, 10)
    ]  # fmt: skip
    rows += [
        base | {"layer": layer, "question": "sparsity", "level": 0.5, "l2_kept": 0.9 - 0.1 * layer}
        for layer in range(2)
    ]
    manifest = {"schema_version": 3, "kind": "whatif", "model": {"name": EVIL}}
    text = render(Page("w", [whatif_part(WhatIf(manifest, pd.DataFrame(rows)))]))
    strict(text)
    shown = curves(text)
    noise = "SQNR (error of the values, not a cost), dB"
    kept = "share of the energy kept"
    rest = "SQNR, dB, without the largest 0.01 % of the values"
    zeroed = "share of the values that become zero"
    held = "share of the energy in the largest 0.01 % of the values"
    titles = [noise, rest, zeroed, held, kept]
    assert set(shown) == {*titles, *(f"{title}, by layer" for title in titles)}
    drawn = shown[f"{noise}, by layer"]["data"]["values"]
    assert [(row["place"], row["v6"], row["v7"]) for row in drawn] == [(0, 48, 54), (1, 49, 55)]
    cells = {(row["layer"], row["answer"]): row["value"] for row in shown[noise]["data"]["values"]}
    assert cells == {(n, f"int{b}.x max"): 6 * b + n for n in range(2) for b in range(2, 10)}
