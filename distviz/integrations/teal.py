"""``histograms/``: the histograms of TEAL.

A file ``layer-N/mlp/histograms.pt`` and ``layer-N/self_attn/histograms.pt`` for each layer: a dict
of float32 tensors (10000,), the counts ``h1`` (input of the first projections) and ``h2`` (of the
last) with the centres of their bins, ``h1_centers`` and ``h2_centers``. As in TEAL's own
calibration, the outermost two bins hold the lowest and the highest 1 % of the values, the others
have equal widths between.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.integrations.linear_places import need_sites
from distviz.results import Run
from distviz.stats import Sketch

FOLDER = "histograms"
BINS = 10_000
_ONE_IN = 100
"""The outermost bins hold one value in so many, each."""
_PARTS = {"mlp": ("mlp_in", "product"), "self_attn": ("attn_in", "attention")}

Floats = NDArray[np.float64]


def write_histograms(run: Run, out: Path) -> list[str]:
    """Write ``histograms/`` into a folder.

    Raises
    ------
    RequestError
        If the run lacks a site in one of its layers, or has no values there.
    """
    import torch

    need_sites(run, "teal")
    before = {
        (key.layer, key.site): key
        for key in run.keys
        if key.phase == "before" and key.stack == "decoder"
    }
    for layer in sorted({layer for layer, _ in before}):
        for part, sites in _PARTS.items():
            content = {}
            for name, site in zip(("h1", "h2"), sites, strict=True):
                if (layer, site) not in before:
                    raise RequestError(f"teal needs site {site}, which layer {layer} does not have")
                centers, counts = histogram(run.merged[before[layer, site]])
                content[name] = torch.from_numpy(counts).to(torch.float32)
                content[f"{name}_centers"] = torch.from_numpy(centers).to(torch.float32)
            place = out / FOLDER / f"layer-{layer}" / part
            place.mkdir(parents=True)
            torch.save(content, place / "histograms.pt")
    return []


def histogram(sketch: Sketch) -> tuple[Floats, NDArray[np.int64]]:
    """Return the centres of TEAL's bins and the counts of the values, both (10000,).

    Raises
    ------
    RequestError
        If there are fewer than 100 values.
    """
    values, counts = sketch.pairs()
    running = np.cumsum(counts)
    if not running.size or running[-1] < _ONE_IN:
        raise RequestError("a histogram of TEAL needs at least 100 values", "measure more text")
    outside = int(running[-1]) // _ONE_IN
    ends = np.searchsorted(running, [outside, int(running[-1]) - outside], side="right")
    low, high = values[ends]
    inner = np.linspace(low, high, BINS - 1)
    edges = np.concatenate([[sketch.min], inner, [sketch.max]])
    # The last bin includes its upper edge, all others exclude it.
    bins = np.clip(np.searchsorted(edges, sketch.clip(values), side="right") - 1, 0, BINS - 1)
    found = np.bincount(bins, counts, BINS).astype(np.int64)
    return (edges[:-1] + edges[1:]) / 2, found
