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
        | {"sqnr_db": 6.0 * bits + layer}
        for layer in range(2)
        for bits in range(2, 10)
    ]  # fmt: skip
    rows += [
        base | {"layer": layer, "question": "sparsity", "level": 0.5, "l2_kept": 0.9 - 0.1 * layer}
        for layer in range(2)
    ]
    manifest = {"schema_version": 2, "kind": "whatif", "model": {"name": EVIL}}
    text = render(Page("w", [whatif_part(WhatIf(manifest, pd.DataFrame(rows)))]))
    strict(text)
    shown = curves(text)
    noise = "signal over quantization noise, dB, before"
    assert set(shown) == {
        f"{noise} (1 of 2)",
        f"{noise} (2 of 2)",
        "share of the energy kept, before",
    }
    drawn = shown[f"{noise} (2 of 2)"]["data"]["values"]
    assert [(row["place"], row["v0"], row["v1"]) for row in drawn] == [(0, 48, 54), (1, 49, 55)]
