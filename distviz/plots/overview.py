"""All layers at a glance: near-zero share, spread, inequality and distance, by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.plots import style
from distviz.plots.headings import Heading, Line
from distviz.plots.layout import fit_left, legend_above, legend_height, panel_title, panels
from distviz.results import arm_layers, arm_settings, change_name, layer_axis, model_name
from distviz.stats import statistics

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import Run
    from distviz.sites import SiteKey

__all__ = ["LayerSeries", "layer_series", "overview"]

_QUANTITIES = {
    "near_zero": "near-zero share",
    "std": "standard deviation",
    "gini": "Gini coefficient of |x|",
    "distance": "Wasserstein distance / std before",
}
_LOG_SPAN = 30.0
_MANY = 48
_LOOKS: dict[str, dict[str, Any]] = {
    "before": {
        "color": style.LIGHT["before"],
        "linewidth": 2.2,
        "marker": "o",
        "markersize": 3.6,
        "markerfacecolor": style.LINE["before"],
        "markeredgecolor": style.LINE["before"],
    },
    "after": {
        "color": style.LINE["after"],
        "linewidth": 0.9,
        "marker": "D",
        "markersize": 5.2,
        "markerfacecolor": "none",
        "markeredgewidth": 0.9,
    },
}
"""Where the two coincide, both can be seen."""


@dataclass(frozen=True)
class LayerSeries:
    """One line of the overview: the same module in every layer.

    Attributes
    ----------
    name
        Path of the module, its layer's index replaced by ``*``.
    layers
        Ascending.
    values
        By quantity and phase, one number a layer; NaN where a phase was not measured.
    """

    name: str
    layers: NDArray[np.int64]
    values: dict[tuple[str, str], NDArray[np.float64]]


def layer_series(run: Run, site: str = "act") -> list[LayerSeries]:
    """Compute what `overview` draws, one series a kind of module.

    Raises
    ------
    RequestError
        If the site was not observed.
    """
    places: dict[str, list[SiteKey]] = {}
    for key in run.places():
        if key.site == site:
            name = f"{key.stack}:{key.module.replace(f'.{key.layer}.', '.*.', 1)}"
            places.setdefault(name, []).append(key)
    if not places:
        known = ", ".join(dict.fromkeys(key.site for key in run.keys))
        raise RequestError(f"the run holds no site '{site}'", f"it has {known or 'none'}")
    return [_series(run, name, sorted(keys)) for name, keys in places.items()]


def _series(run: Run, name: str, keys: list[SiteKey]) -> LayerSeries:
    values: dict[tuple[str, str], NDArray[np.float64]] = {}
    for phase in ("before", "after"):
        rows = [_measure(run, key, phase) for key in keys]
        for quantity in _QUANTITIES:
            values[quantity, phase] = np.array([row.get(quantity, math.nan) for row in rows])
    return LayerSeries(name, np.array([key.layer for key in keys]), values)


def _measure(run: Run, place: SiteKey, phase: str) -> dict[str, float]:
    key = place._replace(phase=phase)
    if key not in run.merged:
        return {}
    sketch, before = run.merged[key], run.merged.get(place._replace(phase="before"))
    row = {
        "near_zero": statistics.near_zero(sketch, run.bands[key]),
        "std": sketch.std(),
        "gini": statistics.gini(sketch),
    }
    if phase == "after" and before is not None:
        spread = before.std()
        distance = statistics.wasserstein(before, sketch)
        row["distance"] = distance / spread if spread > 0 else math.nan
    return row


def overview(run: Run, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the main numbers of every layer, before and after, ARM's layers marked.

    Parameters
    ----------
    run
        What was measured.
    site
        One of the sites that it holds.
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.

    Raises
    ------
    RequestError
        If the site was not observed.
    """
    series = layer_series(run, site)
    quantities = list(_QUANTITIES)
    if not any(np.isfinite(one.values["distance", "after"]).any() for one in series):
        quantities.remove("distance")
    marked = arm_layers(run)
    with style.styled(width) as sheet:
        inches = sheet.or_width(7.2)
        labels = [*_LOOKS, f"layer with {change_name(run)}"]
        figure, axes = panels(
            _heading(run, site, marked, inches),
            [0.9 if sheet.is_narrow else 1.25] * len(quantities),
            width=inches,
            left=0.79,
            above=0.28 + legend_height(labels, inches - 0.95),
        )
        for ax, quantity in zip(axes, quantities, strict=True):
            _draw(ax, series, quantity, marked)
        for ax in axes[:-1]:
            ax.tick_params(labelbottom=False)
        axes[-1].set_xlabel(layer_axis(run))
        fit_left(figure, axes)
        legend_above(axes[0], *_legend(axes[0], change_name(run)), columns=3)
        return figure


def _heading(run: Run, site: str, marked: list[int], width: float) -> Heading:
    settings = arm_settings(run) if marked else ""
    caption = f"{change_name(run)}: {settings}" if settings else "ARM off" if not marked else ""
    title = Line.title(f"{model_name(run)} · all layers · {site}")
    return Heading([title, Line(caption)], width)


def _draw(ax: Axes, series: list[LayerSeries], quantity: str, marked: list[int]) -> None:
    for layer in marked:
        ax.axvspan(
            layer - 0.5,
            layer + 0.5,
            color=style.BAND,
            alpha=0.55,
            linewidth=0,
            zorder=0.3,
            gid="arm",
        )
    crowded = len(series) > 3
    for one in series:
        many = one.layers.size > _MANY or crowded
        for phase, look in _LOOKS.items():
            values = one.values[quantity, phase]
            if np.isfinite(values).any():
                size = 0.6 if many else style.sheet().marks
                ax.plot(
                    one.layers,
                    values,
                    label=phase,
                    gid=f"{quantity}-{phase}",
                    alpha=0.4 if crowded else 1.0,
                    clip_on=False,
                    zorder=3,
                    **look | {"markersize": size * look["markersize"]},
                )
    layers = np.concatenate([one.layers for one in series])
    spare = 0.5 if layers.size > 1 else 1.5
    ax.set_xlim(layers.min() - spare, layers.max() + spare)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    panel_title(ax, _QUANTITIES[quantity])
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)
    _limit(ax, series, quantity)


def _limit(ax: Axes, series: list[LayerSeries], quantity: str) -> None:
    """Start at zero, or take a logarithmic scale where the layers differ by orders."""
    values = np.concatenate(
        [one.values[quantity, phase] for one in series for phase in ("before", "after")]
    )
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size else 1.0
    positive = finite[finite > 0]
    if quantity in ("std", "distance") and positive.size and top > _LOG_SPAN * positive.min():
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylim(float(positive.min()) / 1.5, top * 1.5)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        panel_title(ax, f"{_QUANTITIES[quantity]} (log)")
        return
    ax.set_ylim(0, top * 1.12 or 1.0)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    if quantity == "near_zero":
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))


def _legend(ax: Axes, change: str) -> tuple[list[Artist], list[str]]:
    """One entry a phase, and one for the mark of ARM's layers."""
    found: dict[str, Artist] = {}
    for handle in ax.get_lines():
        found.setdefault(str(handle.get_label()), handle)
    for patch in ax.patches:
        if patch.get_gid() == "arm":
            found.setdefault(f"layer with {change}", patch)
    return list(found.values()), list(found)
