"""The bins of the distributions on the page hold the values."""

from __future__ import annotations

import numpy as np
from support.html_pages import (
    browsers,
)
from support.synthetic_runs import Synthetic


def test_bins_of_the_figure_hold_the_values(html: str, synthetic: Synthetic) -> None:
    (data,) = browsers(html)
    (frames,) = data["groups"].values()
    assert [frame["label"] for frame in frames] == ["layer 0 (first)", "layer 1", "layer 2 (last)"]
    for layer, frame in enumerate(frames):
        assert [panel["title"] for panel in frame["panels"]] == ["before", "after"]
        for panel in frame["panels"]:
            edges = np.array(frame["edges"])
            widths = np.diff(edges) / np.median(np.diff(edges))
            counts = panel["columns"]["n"] * widths
            raw = synthetic.raw[layer, panel["title"]]
            # A value on an edge may belong to either bin.
            for edge, running in zip(edges, np.cumsum([0, *counts]), strict=True):
                least = (raw < edge).sum() - (raw <= edges[0]).sum()
                most = (raw <= edge).sum() - (raw < edges[0]).sum()
                # Heights are written with five digits.
                assert least - 0.5 <= running <= most + 0.5
    moved = [sum(panel["columns"]["m"] * widths) for panel in frames[0]["panels"]]
    assert 0 < moved[0] <= 0.5 + synthetic.raw[0, "moved_before"].size
    assert not any(sum(panel["columns"]["m"]) for panel in frames[1]["panels"])
