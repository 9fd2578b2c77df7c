"""What the channels of each place are: dead, always on, the largest, the most persistent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from distviz.sites import SiteKey

if TYPE_CHECKING:
    from distviz.results.run import Run

PLACE = ["stack", "layer", "site", "module"]
_NEEDED = {*PLACE, "phase", "channel", "absmax"}


def channels_before(run: Run) -> pd.DataFrame:
    """Return the rows of ``channels.parquet`` before ARM; empty if it lacks the largest values."""
    channels = run.channels
    if not set(channels) >= _NEEDED:
        return pd.DataFrame()
    return channels[channels["phase"] == "before"]


def channel_energies(run: Run) -> dict[SiteKey, tuple[int, float]]:
    """Return the channel with the largest sum of x^2 and its share of all, by key of the run.

    Keys without finite energy, or with a single channel, are left out.
    """
    columns = {*SiteKey._fields, "channel", "count", "mean", "std"}
    found: dict[SiteKey, tuple[int, float]] = {}
    groups = run.channels.groupby(list(SiteKey._fields)) if set(run.channels) >= columns else ()
    for place, own in groups:
        energy = (own["count"] * (own["mean"] ** 2 + own["std"] ** 2)).to_numpy(float)
        whole = float(np.nansum(energy))
        if len(own) > 1 and 0 < whole < math.inf:
            index = int(np.nanargmax(energy))
            channel = int(own["channel"].to_numpy()[index])
            found[SiteKey._make(place)] = channel, float(energy[index]) / whole
    return found


def channel_summary(run: Run) -> pd.DataFrame:
    """Return a row per place, before ARM, in the order of the run.

    Columns: stack, layer, site, module; ``channels``, their number; ``dead`` and ``always_on``,
    how many have only zeros and only values above 0 (NaN where they were not counted);
    ``largest``, the channel of largest abs(x), ``absmax``, and ``ratio``, to the median of all
    channels; ``persistent``, the channel that is the largest of most tokens, and ``share``, of the
    tokens (with ``--channels``; NaN without).
    """
    groups = channels_before(run).groupby(PLACE, sort=False) if len(channels_before(run)) else ()
    rows = [dict(zip(PLACE, place, strict=True)) | _described(own) for place, own in groups]
    return pd.DataFrame(rows)


def _described(own: pd.DataFrame) -> dict[str, Any]:
    absmax = own["absmax"].to_numpy(dtype=float)
    numbers, known = own["channel"].to_numpy(), np.isfinite(absmax)
    found: dict[str, Any] = {"channels": len(own), "dead": math.nan, "always_on": math.nan}
    found |= {"largest": None, "absmax": math.nan, "ratio": math.nan}
    found |= {"persistent": None, "share": math.nan}
    if {"count", "zeros", "positive"} <= set(own):
        count = own["count"].to_numpy()
        found["dead"] = int(((own["zeros"] == count) & (count > 0)).sum())
        found["always_on"] = int(((own["positive"] == count) & (count > 0)).sum())
    if known.any():
        place, median = int(np.where(known, absmax, -1).argmax()), float(np.median(absmax[known]))
        found |= {"largest": int(numbers[place]), "absmax": float(absmax[place])}
        found["ratio"] = float(absmax[place]) / median if median > 0 else math.nan
    if "top" in own and own["top"].sum() > 0:
        top = own["top"].to_numpy()
        place = int(top.argmax())
        found |= {"persistent": int(numbers[place]), "share": float(top[place] / top.sum())}
    return found
