"""Massive activations: few values that are thousands of times as large as the others of a layer.

Sun, Chen, Kolter & Liu, Massive Activations in Large Language Models (2024): abs(x) > 100 and
> 1,000 times the median of abs(x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.output import counted, listed, visible
from distviz.results.labels import number, series_names
from distviz.sites import SiteKey

if TYPE_CHECKING:
    from distviz.results.run import Run

LEAST, LEAST_RATIO = 100.0, 1000.0
"""Magnitude, and its ratio to the median magnitude, that a massive activation exceeds."""
DEFINITION = f"|x| > {LEAST:g} and > {LEAST_RATIO:,.0f} times the median |x|"
_NAMED = 3
_NEEDED = {"value", "ratio", "channel", "position", "token", "document", "phase", "rank"}


@dataclass(frozen=True)
class MassiveChannel:
    """A channel of one site that has massive activations before ARM.

    Attributes
    ----------
    stack, site, module
        The module is named without its layer.
    channel
        Its index.
    rows
        The rows of ``extremes.csv`` that are massive, the largest first.
    layers
        Where they are, ascending.
    next_layer
        The first measured layer after the last of them; None if there is none.
    next_row
        The row of the channel there, if it is among the largest of that layer.
    """

    stack: str
    site: str
    module: str
    channel: int
    rows: pd.DataFrame
    layers: tuple[int, ...]
    next_layer: int | None
    next_row: dict[str, Any] | None

    @property
    def largest(self) -> dict[str, Any]:
        """The row of the largest magnitude."""
        return _plain(self.rows)


def is_massive(table: pd.DataFrame) -> pd.Series:
    """Return for each row of ``extremes.csv`` whether it is a massive activation."""
    return (table["value"].abs() > LEAST) & (table["ratio"] > LEAST_RATIO)


def massive_channels(run: Run) -> list[MassiveChannel]:
    """Return the channels with massive activations, by site, the largest first."""
    table = run.extremes
    if table.empty or not set(table) >= _NEEDED:
        return []
    table = table[table["phase"] == "before"]
    keys = [SiteKey(*row) for row in table[list(SiteKey._fields)].itertuples(index=False)]
    names = series_names(dict.fromkeys(keys))
    table = table.assign(series=[names[key] for key in keys], size=table["value"].abs())
    table = table.sort_values("size", ascending=False, kind="stable")
    found = []
    for _, place in table.groupby(["stack", "site", "series"], sort=False):
        for channel, rows in place[is_massive(place)].groupby("channel", sort=False):
            found.append(_channel(channel, rows, place))
    order = list(dict.fromkeys((key.stack, key.site) for key in run.keys))
    return sorted(found, key=lambda one: order.index((one.stack, one.site)))


def _channel(channel: Any, rows: pd.DataFrame, place: pd.DataFrame) -> MassiveChannel:
    first = rows.iloc[0]
    layers = sorted({int(layer) for layer in rows["layer"]})
    later = sorted({int(layer) for layer in place["layer"] if layer > layers[-1]})
    next_layer = later[0] if later else None
    after = place[(place["layer"] == next_layer) & (place["channel"] == channel)]
    return MassiveChannel(
        stack=str(first["stack"]),
        site=str(first["site"]),
        module=str(first["series"]),
        channel=int(channel),
        rows=rows,
        layers=tuple(layers),
        next_layer=next_layer,
        next_row=None if after.empty else _plain(after),
    )


def _plain(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the first row."""
    return {str(name): value for name, value in rows.iloc[0].items()}


def massive_lines(run: Run, site: str | None = None) -> list[str]:
    """Return a sentence for each site (or only one) with massive activations."""
    chosen = [one for one in massive_channels(run) if site in (None, one.site)]
    groups = groupby(chosen, key=lambda one: (one.stack, one.site, one.module))
    return [_sentence([*channels]) for _, channels in groups]


def _sentence(channels: Sequence[MassiveChannel]) -> str:
    first, *others = channels
    where = first.site if first.stack == "decoder" else f"{first.site} ({first.stack})"
    text = f"{where}: channel {first.channel}{_layers(first.layers)}, "
    text += f"up to {_amount(first.largest)}, {_positions(first.rows)}"
    if first.next_row is not None:
        text += f"; in layer {first.next_layer}: {_amount(first.next_row)}"
    elif first.next_layer is not None:
        text += f"; no longer in layer {first.next_layer}"
    if others:
        named = [
            f"channel {one.channel}{_layers(one.layers)}, up to {number(abs(one.largest['value']))}"
            for one in others[:_NAMED]
        ]
        more = f"; and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        text += f". Also {'; '.join(named)}{more}"
    return f"{text}."


def _layers(layers: Sequence[int]) -> str:
    """Write `` from layer 11 to layer 27`` or `` in layers 2, 5``; empty outside the layers."""
    if layers[0] < 0:
        return ""
    if len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1:
        return f" from layer {layers[0]} to layer {layers[-1]}"
    return f" in {listed('layer', ', '.join(map(str, layers)))}"


def _amount(row: dict[str, Any]) -> str:
    is_finite = math.isfinite(row["ratio"])
    ratio = f"{counted(whole(row['ratio']), 'time')} the median" if is_finite else "the median is 0"
    return f"{whole(abs(row['value']))} ({ratio})"


def whole(value: float) -> str:
    """Format a number of at least 100 without decimals."""
    return f"{value:,.0f}" if 100 <= value < 1e6 else number(value)


def _positions(rows: pd.DataFrame) -> str:
    """Say at which positions of their windows, and at which tokens."""
    places = sorted({int(position) for position in rows["position"]})
    text = listed("position", _few(list(map(str, places))))
    tokens = [f"“{visible(token)}”" for token in dict.fromkeys(rows["token"]) if token]
    return f"at {text}" + (f" ({listed('token', _few(tokens))})" if tokens else "")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + ", …" * (len(names) > _NAMED)


def massive_at(run: Run, key: SiteKey) -> str:
    """Return the massive activations of one place as a caption; empty without any."""
    table = run.extremes
    if table.empty or not set(table) >= _NEEDED:
        return ""
    here = table[
        (table[list(SiteKey._fields)] == list(key._replace(phase="before"))).all(axis=1)
        & is_massive(table)
    ]
    if here.empty:
        return ""
    largest = here["value"].abs().sort_values(ascending=False, kind="stable").index
    rows = here.loc[largest].drop_duplicates("channel").to_dict("records")
    named = [
        f"channel {row['channel']}: {whole(abs(row['value']))}"
        + (f" at “{visible(row['token'])}”" if row["token"] else "")
        + f", position {row['position']}"
        for row in rows[:_NAMED]
    ]
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"massive activations: {'; '.join(named)}{more}"
