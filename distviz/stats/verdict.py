"""The result of an inference in words: which layers differ, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from distviz.output import counted, listed
from distviz.stats.inference import MIN_DOCUMENTS

ALPHA = 0.05
"""The false discovery rate: a difference is significant where the adjusted p is below."""


_RATIOS = {"log_variance_ratio": "variance", "log_absmax_ratio": "largest abs(x)"}


def verdict(frame: pd.DataFrame, alpha: float = ALPHA) -> str:
    """Return sentences that say which layers differ, by how much, and how that was tested.

    Parameters
    ----------
    frame
        The result of :func:`infer`. Layers are named by ``layer_a`` (else ``place``); several
        stacks, sites or phases have a line each.
    alpha
        The false discovery rate: a layer differs if its p_adjusted is below.
    """
    if frame.empty:
        return "nothing to compare"
    columns = [c for c in ("stack", "site", "phase_a", "phase_b") if c in frame]
    columns = [c for c in columns if len(frame[c].unique()) > 1]
    if not columns:
        lines = [_findings(frame, alpha)]
    else:
        groups = frame.groupby(columns, sort=False, dropna=False)
        lines = [f"{' '.join(map(str, key))}: {_findings(rows, alpha)}" for key, rows in groups]
    return "\n".join([*lines, _basis(frame, alpha)])


def _findings(frame: pd.DataFrame, alpha: float) -> str:
    name = "layer_a" if "layer_a" in frame else "place"
    layers = set(frame[name])
    if frame["p_value"].isna().all():
        return "nothing can be said: fewer than 2 documents"
    found = frame[frame["p_adjusted"] < alpha]
    if found.empty:
        return _nothing(frame, name, alpha)
    changed = set(found[name])
    parts = []
    for quantity, rows in found.groupby("quantity"):
        most = _largest(rows)
        where = f" at layer {most[name]}" if len(changed) > 1 else ""
        if set(rows[name]) != changed:
            where += " only" if len(rows) == 1 else f" (in {_ranges(rows[name])})"
        parts.append(_amount(str(quantity), most) + where)
    verb = " differs: " if len(changed) == 1 else " differ; the largest: "
    text = f"{_ranges(changed)}{verb}{', '.join(parts)}"
    if changed == layers:
        return text
    if max(changed) < max(layers):
        return f"{text}; no layer after layer {max(changed)} is shown to differ"
    return f"{text}; the other layers are not shown to differ"


def _nothing(frame: pd.DataFrame, name: str, alpha: float) -> str:
    n_layers = len(frame[name].unique())
    n, m = (int(frame[f"documents_{side}"].max()) for side in "ab")
    if frame["paired"].all() and (frame["effect_size"].dropna() == 0).all():
        return "no layer differs: both sides are equal in every document"
    text = f"no layer is shown to differ (smallest adjusted p {frame['p_adjusted'].min():.2g})"
    floor = 2.0 ** (1 - n) if frame["paired"].all() else (1 + (n == m)) / math.comb(n + m, n)
    if floor * n_layers >= alpha:
        text += f"; so few documents allow no p below {floor:.2g}, so that no single layer of "
        text += f"{n_layers} can be significant; the largest differences: "
        measured = frame[frame["p_value"].notna()].groupby("quantity")
        largest = [_largest(rows) for _, rows in measured]
        text += ", ".join(_amount(str(r["quantity"]), r) + f" at layer {r[name]}" for r in largest)
    return text


def _largest(rows: pd.DataFrame) -> pd.Series:
    return rows.iloc[int(rows["estimate"].abs().to_numpy().argmax())]


def _basis(frame: pd.DataFrame, alpha: float) -> str:
    low, high = frame["documents"].min(), frame["documents"].max()
    number = str(low) if low == high else f"{low} to {high}"
    if frame["paired"].all():
        size = f"{counted(number, 'pair')} of documents"
    else:
        size = f"{counted(number, 'document')} on the smaller side"
    text = f"The unit is the document ({size}); Benjamini-Hochberg at {100 * alpha:g} %"
    if "layer_b" in frame and (frame["layer_a"] != frame["layer_b"]).any():
        text += "; layers are named as in A"
    withheld = frame["documents"] < MIN_DOCUMENTS
    if withheld.any():
        which = "" if withheld.all() else "where there are fewer "
        text += f"; intervals are withheld {which}(they need {MIN_DOCUMENTS} documents)"
    if frame["approximate"].any():
        share = frame["approximate"].mean()
        text += f"; {'the' if share == 1 else 'some'} 95 % intervals are approximate"
    elif not withheld.all():
        text += "; 95 % intervals"
    zero = int(frame["zero_variance"].max())
    if zero:
        text += f"; variance ratios leave out up to {counted(zero, 'document')} of zero variance"
    return text + "."


def _amount(quantity: str, row: pd.Series) -> str:
    """Write ``variance +8 % [6, 11]`` or ``near-zero +2.1 points [1.8, 2.4]``."""
    values = row[["estimate", "ci_low", "ci_high"]].to_numpy(dtype=np.float64)
    unit, name = " points", "near-zero"
    scaled, sign = 100 * values, "+"
    if quantity in _RATIOS:
        unit, name = " %", _RATIOS[quantity]
        scaled = 100 * np.expm1(values)
        if values[0] >= math.log(2):
            unit, sign, name, scaled = "", "", f"{name} ×", np.exp(values)
    width = scaled[2] - scaled[1] if np.isfinite(scaled).all() else abs(scaled[0])
    digits = min(max(-math.floor(math.log10(width / 2)), 0), 4) if width > 0 else 2
    first, low, high = (
        f"{value:{plus}z.{digits}f}".replace("-", "−")
        for value, plus in zip(scaled, (sign, "", ""), strict=True)
    )
    interval = "" if np.isnan(scaled[1]) else f" [{low}, {high}]"
    return f"{name} {first}{unit}{interval}".replace("× ", "×")


def _ranges(layers: Iterable[int]) -> str:
    """Write ``layer 3``, or several with their ranges joined by an en dash."""
    ordered = sorted(set(layers))
    runs: list[list[int]] = []
    for layer in ordered:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    return listed("layer", ", ".join(words))
