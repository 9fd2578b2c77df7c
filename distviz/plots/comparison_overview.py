"""A comparison at a glance: how far the sides are apart by depth, and what is more than noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.plots import style
from distviz.plots.headings import COLORS, EDGE, Heading, Line, sides
from distviz.plots.intervals import draw_tested
from distviz.plots.layout import (
    extra_title,
    fit_left,
    legend_above,
    legend_height,
    legend_in_figure,
    panel_title,
    panels,
)
from distviz.results import alignment, layer_axis, number, side_names

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import Comparison

__all__ = ["DepthSeries", "comparison_overview", "depth_series"]

_DISTANCES = {
    "ks": ("KS", "#009e73", "o"),
    "wasserstein_normalized": ("W1 / std A", "#cc79a7", "s"),
    "js_divergence": ("JS divergence (bits)", "#56a0c8", "^"),
}
"""Columns of compare.csv, with a name, a colour of Okabe and Ito (blue darkened), and a marker."""
_TESTED = {
    "log_variance_ratio": "log variance ratio, ln(var B / var A): mean of documents",
    "near_zero_difference": "near-zero difference, B − A in points: mean of documents",
}
_NAMED = 3
_LOG_SPAN = 30.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DepthSeries:
    """What the overview draws, one entry a pair of layers, by layer of A.

    Attributes
    ----------
    layers
        Layers of A.
    values
        ``near_zero_a``, ``near_zero_b`` and the three distances.
    tested
        By quantity: the rows of ``inference.csv``.
    partners
        The layer of B that each layer of A is set against.
    most
        The layers of A whose distributions are furthest apart, with their KS, furthest first;
        none where no distribution differs.
    unique
        Whether there is one pair a layer, so that lines may join them.
    """

    layers: NDArray[np.int64]
    values: dict[str, Floats]
    tested: dict[str, pd.DataFrame]
    partners: dict[int, int]
    most: dict[int, float]
    unique: bool


def depth_series(comparison: Comparison, site: str = "act") -> DepthSeries:
    """Gather what `comparison_overview` draws.

    Raises
    ------
    RequestError
        If the site was not compared.
    """
    table = comparison.table
    rows = table[table["site"] == site].sort_values("layer_a", kind="stable")
    if not len(rows):
        known = ", ".join(table["site"].unique())
        raise RequestError(f"the comparison holds no site '{site}'", f"it has {known or 'none'}")
    names = ("near_zero_a", "near_zero_b", *_DISTANCES)
    ranked = rows[rows["ks"] > 0].sort_values("ks", ascending=False, kind="stable")
    ranked = ranked.drop_duplicates("layer_a")
    tests = comparison.inference
    here = tests[tests["site"] == site] if len(tests) else tests
    return DepthSeries(
        layers=rows["layer_a"].to_numpy(dtype=np.int64),
        values={name: rows[name].to_numpy(dtype=np.float64) for name in names},
        tested={
            name: here[here["quantity"] == name].sort_values("layer_a", kind="stable")
            if len(here)
            else here
            for name in _TESTED
        },
        partners=dict(zip(rows["layer_a"].tolist(), rows["layer_b"].tolist(), strict=True)),
        most=dict(
            list(zip(ranked["layer_a"].tolist(), ranked["ks"].tolist(), strict=True))[:_NAMED]
        ),
        unique=not rows["layer_a"].duplicated().any(),
    )


def comparison_overview(
    comparison: Comparison, site: str = "act", *, width: str | None = None
) -> Figure:
    """Draw one page: near-zero shares, distances and tested differences by depth.

    Filled marks in the lower panels are layers whose adjusted p is below 0.05; bars are 95 %
    intervals, pale where they are approximate, absent where they are withheld. ``width`` is
    ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the site was not compared.
    """
    data = depth_series(comparison, site)
    with style.styled(width) as sheet:
        inches = sheet.or_width(8.0)
        each = 0.8 if sheet.is_narrow else 1.05
        room = inches - 0.95
        legends = [legend_height(words, room) for words in (("A", "B"), _distance_names())]
        over = extra_title(_TESTED.values(), room)
        figure, axes = panels(
            _heading(comparison, site, data, inches),
            [each, 1.2 * each, each, each],
            width=inches,
            left=0.8,
            above=0.3 + legends[0],
            gap=[0.33 + legends[1], 0.33 + over, 0.33 + over],
            below=(0.66 if _is_by_index(data) else 0.78) + (0.3 if sheet.is_narrow else 0.0),
        )
        _draw_shares(axes[0], data)
        _draw_distances(axes[1], data)
        marks: dict[str, Artist] = {}
        for ax, quantity in zip(axes[2:], _TESTED, strict=True):
            panel_title(ax, _TESTED[quantity])
            marks |= draw_tested(ax, data.tested[quantity], quantity, joined=data.unique)
        for ax in axes:
            _frame(ax, data)
        for ax in axes[:-1]:
            ax.tick_params(labelbottom=False)
        _label_layers(axes[-1], data, comparison)
        figure.align_ylabels()
        fit_left(figure, axes)
        for ax in axes[:2]:
            legend_above(ax, *ax.get_legend_handles_labels(), columns=3)
        foot = 0.4 if _is_by_index(data) else 0.52
        top = (1 - axes[-1].get_position().y0) * figure.get_figheight() + foot
        legend_in_figure(figure, list(marks.values()), list(marks), left=EDGE, top=top)
        return figure


def _heading(comparison: Comparison, site: str, data: DepthSeries, width: float) -> Heading:
    """Return both names, how layers are paired, the verdict (a paper says it in its text)."""
    captions = [Line(f"{site} · {alignment(comparison)}")]
    if not style.sheet().is_paper:
        captions.append(Line(_verdict(comparison), "panel", style.INK, gid="verdict"))
    captions.append(Line(_most(data), "panel", style.INK, "bold", gid="most"))
    return sides(side_names(comparison), captions, width)


def _distance_names() -> list[str]:
    return [word for word, _, _ in _DISTANCES.values()]


def _label_layers(ax: Axes, data: DepthSeries, comparison: Comparison) -> None:
    if _is_by_index(data):
        ax.set_xlabel(layer_axis(comparison, "_a"), labelpad=1)
        return

    def both(value: float, _: object = None) -> str:
        layer = round(value)
        return f"{layer}\n{data.partners[layer]}" if layer in data.partners else ""

    ax.xaxis.set_major_formatter(FuncFormatter(both))
    ax.set_xlabel("layer of A, and the layer of B below it", labelpad=1)


def _is_by_index(data: DepthSeries) -> bool:
    return all(a == b for a, b in data.partners.items())


def _most(data: DepthSeries) -> str:
    if not data.most:
        return "No distribution differs."
    words = [f"{layer} ({number(ks)})" for layer, ks in data.most.items()]
    return f"Furthest apart by KS: layer{'s' * (len(words) > 1)} {', '.join(words)}"


def _verdict(comparison: Comparison) -> str:
    return str(comparison.manifest.get("verdict", "")).split("\n")[0]


def _frame(ax: Axes, data: DepthSeries) -> None:
    spare = 0.5 if data.layers.size > 1 else 1.5
    ax.set_xlim(data.layers.min() - spare, data.layers.max() + spare)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    for layer in data.most:
        ax.axvline(layer, color=style.BAND, linewidth=5, alpha=0.55, zorder=0.3, gid="most")


def _draw_shares(ax: Axes, data: DepthSeries) -> None:
    """Both sides on one scale: where they coincide, both can be seen."""
    line = "-" if data.unique else "none"
    for side, marker, size, face in (("A", "o", 4.0, COLORS["A"]), ("B", "D", 5.0, "none")):
        ax.plot(
            data.layers, data.values[f"near_zero_{side.lower()}"], linestyle=line, marker=marker,
            markersize=size * style.sheet().marks, markerfacecolor=face, color=COLORS[side],
            label=side, linewidth=1.6 if side == "A" else 0.9, gid=f"near-zero-{side}",
        )  # fmt: skip
    top = np.nan_to_num([data.values[f"near_zero_{side}"] for side in "ab"]).max()
    ax.set_ylim(0, 1.12 * top or 1.0)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    panel_title(ax, "near-zero share, |x| < ε of A")


def _draw_distances(ax: Axes, data: DepthSeries) -> None:
    line = "-" if data.unique else "none"
    for name, (word, color, marker) in _DISTANCES.items():
        ax.plot(
            data.layers, data.values[name], linestyle=line, marker=marker,
            markersize=4 * style.sheet().marks,
            color=color, linewidth=1.2, label=word, gid=name, clip_on=False,
        )  # fmt: skip
    values = np.concatenate([data.values[name] for name in _DISTANCES])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    title = "distance of the distributions"
    if positive.size and values.max() > _LOG_SPAN * positive.min():
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylim(float(positive.min()) / 1.5, float(positive.max()) * 1.5)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        title += " (log)"
    else:
        ax.set_ylim(0, float(positive.max()) * 1.12 if positive.size else 1.0)
        ax.yaxis.set_major_locator(MaxNLocator(4))
    if not positive.size:
        title += ": 0 everywhere"
    panel_title(ax, title)
