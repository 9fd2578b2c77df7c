"""Overview of a comparison: distances of the sides by layer, and which are significant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.output import listed
from distviz.plots import layout, style
from distviz.plots.intervals import draw_tested
from distviz.plots.scales import fit_y, layers_on_x, log_if_wide, percent_ticks, share_x_labels
from distviz.results import Comparison, alignment, layer_axis, number, side_names
from distviz.stats import checks_types

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DISTANCES = {
    "ks": ("KS", "#009e73", "o"),
    "wasserstein_normalized": ("W1 / std A", "#cc79a7", "s"),
    "js_divergence": ("JS divergence (bits)", "#56a0c8", "^"),
}
"""Columns of compare.csv: name, colour of Okabe and Ito (blue darkened), and marker."""
_TESTED = {
    "log_variance_ratio": "log variance ratio, ln(var B / var A)",
    "near_zero_difference": "near-zero share, B − A in points",
}
_NAMED = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DepthSeries:
    """What the overview draws, one entry for each pair of layers, by layer of A.

    Attributes
    ----------
    layers
        Layers of A.
    values
        ``near_zero_a``, ``near_zero_b`` and the three distances.
    tested
        By quantity: the rows of ``inference.csv``.
    partners
        The layer of B that each layer of A is compared with.
    most
        The layers of A whose distributions differ most, with their KS, largest first; empty if
        no distribution differs.
    unique
        Whether there is one pair for each layer, so that lines may join them.
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


@checks_types
def comparison_overview(
    comparison: Comparison, site: str = "act", *, width: str | None = None
) -> Figure:
    """Draw one page: near-zero shares, distances and tested differences by layer.

    Filled marks in the lower panels are layers whose adjusted p is below 0.05; bars are 95 %
    intervals: dotted where they are approximate, absent where they are withheld. ``width`` is
    ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the site was not compared.
    """
    data = depth_series(comparison, site)
    with style.styled(width) as page:
        inches = page.or_width(8.0)
        each = 0.8 if page.is_narrow else 1.05
        heights = [each, 1.2 * each, each, each]
        figure, axes = layout.stacked(inches, heights)
        _draw_shares(axes[0], data)
        _draw_distances(axes[1], data)
        marks: dict[str, Artist] = {}
        for ax, quantity in zip(axes[2:], _TESTED, strict=True):
            layout.panel_title(ax, _TESTED[quantity])
            marks |= draw_tested(ax, data.tested[quantity], quantity, joined=data.unique)
        for ax in axes:
            layers_on_x(ax, data.layers)
            for layer in data.most:
                ax.axvline(layer, color=style.BAND, linewidth=5, alpha=0.55, zorder=0.3, gid="most")
        _label_layers(axes, data, comparison)
        for ax in axes[:2]:
            layout.legend_above(ax, *ax.get_legend_handles_labels())
        layout.legend_in_figure(figure, list(marks.values()), list(marks), "outside lower left")
        layout.arrange(figure, _heading(comparison, site, data, inches), heights)
        return figure


def _heading(comparison: Comparison, site: str, data: DepthSeries, width: float) -> layout.Heading:
    """Return both names, how layers are paired, and the verdict (a paper states it in its text)."""
    captions = [layout.Line(f"{site} · {alignment(comparison)}")]
    if not style.page_format().is_paper:
        verdict = str(comparison.manifest.get("verdict", "")).split("\n")[0]
        captions.append(layout.Line(verdict, "panel", style.INK, gid="verdict"))
    most = "No distribution differs."
    if data.most:
        words = [f"{layer} ({number(ks)})" for layer, ks in data.most.items()]
        most = f"Furthest apart by KS: {listed('layer', ', '.join(words))}"
    captions.append(layout.Line(most, "panel", style.INK, "bold", gid="most"))
    return layout.side_heading(side_names(comparison), captions, width)


def _label_layers(axes: list[Axes], data: DepthSeries, comparison: Comparison) -> None:
    """Label the layers of A, and those of B below them where they differ."""
    if all(a == b for a, b in data.partners.items()):
        share_x_labels(axes, layer_axis(comparison, "_a"))
        return

    def both(value: float, _: object = None) -> str:
        layer = round(value)
        return f"{layer}\n{data.partners[layer]}" if layer in data.partners else ""

    axes[-1].xaxis.set_major_formatter(FuncFormatter(both))
    share_x_labels(axes, "layer of A, and the layer of B below it")


def _draw_shares(ax: Axes, data: DepthSeries) -> None:
    """Draw both sides on one scale; both can be seen where they coincide."""
    line = "-" if data.unique else "none"
    for side, marker, size, linewidth in (("A", "o", 4.0, 1.6), ("B", "D", 5.0, 0.9)):
        color = layout.SIDE_COLORS[side]
        ax.plot(
            data.layers, data.values[f"near_zero_{side.lower()}"], linestyle=line, marker=marker,
            markersize=size * style.page_format().marks, linewidth=linewidth, color=color,
            markerfacecolor=color if side == "A" else "none", label=side, gid=f"near-zero-{side}",
        )  # fmt: skip
    fit_y(ax, np.concatenate([data.values[f"near_zero_{side}"] for side in "ab"]))
    percent_ticks(ax.yaxis)
    layout.panel_title(ax, "near-zero share, |x| < ε of A")


def _draw_distances(ax: Axes, data: DepthSeries) -> None:
    for name, (word, color, marker) in _DISTANCES.items():
        ax.plot(
            data.layers, data.values[name], linestyle="-" if data.unique else "none",
            marker=marker, markersize=4 * style.page_format().marks, color=color, linewidth=1.2,
            label=word, gid=name, clip_on=False,
        )  # fmt: skip
    values = np.concatenate([data.values[name] for name in _DISTANCES])
    top = float(values[np.isfinite(values)].max(initial=0.0))
    title = "distance of the distributions"
    if log_if_wide(ax, values):
        title += " (log)"
    else:
        fit_y(ax, values)
    layout.panel_title(ax, title if top else f"{title}: 0 everywhere")
