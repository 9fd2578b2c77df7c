"""An allocation of made-up numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from distviz.results import Allocation

LAYERS = 5


def allocation_of(
    *,
    formats: bool = False,
    saved: tuple[float, float] = (0.001, 0.003),
    budget: float | None = 0.05,
) -> Allocation:
    """Return an allocation of zeros at two sites, or of two formats at one."""
    sites = ["product"] if formats else ["mlp_in", "product"]
    where = [(layer, site) for layer in range(LAYERS) for site in sites]
    base = pd.DataFrame(where, columns=["layer", "site"]).assign(values=1000)
    shares = np.linspace(0.1, 0.9, len(base))
    tables = []
    for own in (shares, np.full(len(base), 0.5)):
        if formats:
            is_low = np.arange(len(base)) % 2 == (own is shares)
            names = np.where(is_low, "nvfp4", "fp8-token")
            one = base.assign(format=names, bits=np.where(is_low, 4.5, 8.0))
        else:
            one = base.assign(threshold=own / 2, zeros=own, promised=own)
        tables.append(one.assign(kl_alone=1e-3 * own))
    costs = _costs(base, tables[0], formats=formats)
    curve = _curve(saved, formats=formats)
    return Allocation(_manifest(formats=formats, budget=budget), *tables, costs, curve)


def _cost(kl: Any) -> dict[str, Any]:
    low_high = {"kl_low": 0.8 * kl, "kl_high": 1.2 * kl}
    loss = {"loss_change": kl / 2, "loss_change_low": 0 * kl, "loss_change_high": kl}
    top = {
        "top1_agreement": 1 - kl,
        "top1_agreement_low": 1 - 2 * kl,
        "top1_agreement_high": 1 - kl,
    }
    return {"loss_before": 2.0, "kl": kl} | low_high | loss | top | {"documents": 9}


def _costs(base: pd.DataFrame, table: pd.DataFrame, *, formats: bool) -> pd.DataFrame:
    names = ["format", "bits"] if formats else ["threshold", "zeros"]
    kl = np.linspace(1e-4, 2e-3, len(base))
    own = base.drop(columns="values").assign(**{name: table[name] for name in names})
    return (
        own.assign(**_cost(kl))
        .drop(columns="loss_before")
        .assign(step=[1.0, *[np.nan] * (len(base) - 1)])
    )


def _curve(saved: tuple[float, float], *, formats: bool) -> pd.DataFrame:
    means = np.array([8.0, 7.0, 6.0]) if formats else np.array([0.2, 0.4, 0.5])
    rows = []
    for kind, scale in (("allocated", 1.0), ("uniform", 1.3)):
        one = pd.DataFrame({"kind": kind, "steps": [1, 2, 3], "mean": means})
        one = one.assign(
            is_chosen=[False, False, True], **_cost(scale * np.array([0.002, 0.01, 0.02]))
        )
        if kind == "allocated":
            for name in ("kl", "loss"):
                one = one.assign(**{f"{name}_saved": 0.002, f"{name}_saved_low": saved[0]})
                one = one.assign(**{f"{name}_saved_high": saved[1]})
        rows.append(one)
    rows[1] = rows[1].reindex(columns=rows[0].columns)
    return pd.concat(rows, ignore_index=True)


def _manifest(*, formats: bool, budget: float | None) -> dict[str, Any]:
    return {
        "schema_version": 3, "kind": "allocation", "unit": "bits" if formats else "zeros",
        "asked": {"allocate": "fp8-token,nvfp4" if formats else "50%", "arm_layers": None},
        "target": None if formats else 0.5, "budget_kl": budget, "layers": f"0-{LAYERS - 1}",
        "at": "product" if formats else "mlp_in,product", "places": LAYERS * (2 - formats),
        "model": {"name": "tiny", "source": "some models/tiny", "layers": LAYERS},
        "text": {"tokens": 2048, "documents": 9},
    }  # fmt: skip
