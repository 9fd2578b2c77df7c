"""Overview of a run: near-zero share, spread, inequality and distance, by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.output import counted
from distviz.plots import style
from distviz.plots.heatmaps import MOST_LINES
from distviz.plots.layout import Heading, Line, arrange, legend_above, panel_title, stacked
from distviz.plots.scales import fit_y, layers_on_x, log_if_wide, percent_ticks, share_x_labels
from distviz.results import (
    Run,
    arm_layers,
    arm_settings,
    change_name,
    chosen_layers,
    layer_axis,
    layer_names,
    massive_lines,
    model_name,
    output_verdict,
    series_names,
)
from distviz.stats import checks_types, statistics

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.sites import SiteKey

_QUANTITIES = {
    "near_zero": "near-zero share",
    "std": "standard deviation",
    "gini": "Gini coefficient of |x|",
    "distance": "Wasserstein distance / std before",
}
_MANY = 48
_LOOKS: dict[str, dict[str, Any]] = {
    "before": {
        "color": style.LIGHT["before"], "linewidth": 2.2, "marker": "o", "markersize": 3.6,
        "markerfacecolor": style.LINE["before"], "markeredgecolor": style.LINE["before"],
    },
    "after": {
        "color": style.LINE["after"], "linewidth": 0.9, "marker": "D", "markersize": 5.2,
        "markerfacecolor": "none", "markeredgewidth": 0.9,
    },
}  # fmt: skip
"""Both can be seen where they coincide."""


@dataclass(frozen=True)
class LayerSeries:
    """One line of the overview: the same module in every layer.

    Attributes
    ----------
    name
        Path of the module, with the index of its layer replaced by ``*``.
    layers
        Ascending.
    values
        By quantity and phase, one number per layer; NaN where a phase was not measured.
    """

    name: str
    layers: NDArray[np.int64]
    values: dict[tuple[str, str], NDArray[np.float64]]


def layer_series(run: Run, site: str = "act") -> list[LayerSeries]:
    """Compute what `overview` draws, one series for each kind of module.

    Raises
    ------
    RequestError
        If the site was not observed.
    """
    places: dict[str, list[SiteKey]] = {}
    for key, name in series_names(key for key in run.places() if key.site == site).items():
        places.setdefault(f"{key.stack}:{name}", []).append(key)
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


@checks_types
def overview(run: Run, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the main numbers of every layer, before and after; layers with ARM are marked.

    Parameters
    ----------
    run
        The run.
    site
        One of its sites.
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
    shown = np.concatenate([one.layers for one in series])
    marked = [layer for layer in arm_layers(run) if layer in shown]
    with style.styled(width) as page:
        heights = [0.9 if page.is_narrow else 1.25] * len(quantities)
        inches = page.or_width(7.2)
        figure, axes = stacked(inches, heights)
        for ax, quantity in zip(axes, quantities, strict=True):
            _shade(ax, marked)
            draw = _draw_range if len(series) > MOST_LINES // len(_LOOKS) else _draw
            draw(ax, series, quantity)
            layers_on_x(ax, shown)
            _scale(ax, series, quantity)
        share_x_labels(axes, layer_axis(run))
        is_paired = any(key.phase == "after" for key in run.keys)
        handles = _legend(axes[0], f"{change_name(run)}: {layer_names(marked)}")
        if is_paired:
            legend_above(axes[0], list(handles.values()), list(handles))
        arrange(figure, _heading(run, site, shown, inches), heights)
        return figure


def _heading(run: Run, site: str, layers: NDArray[np.int64], width: float) -> Heading:
    acting, settings = arm_layers(run), arm_settings(run)
    caption = f"{change_name(run)} in {layer_names(acting)}: {settings}" if acting else "ARM off"
    title = f"{model_name(run)} · {chosen_layers(run, layers.tolist())} · {site}"
    lines = [Line.title(title), Line(caption.removesuffix(": "))]
    massive = map(style.drawable, massive_lines(run, site))
    lines += [Line(f"massive activations at {one}", gid="massive") for one in massive]
    verdict = output_verdict(run)
    if verdict is not None and verdict.is_kept is False:
        lines.insert(1, Line(verdict.text, "panel", style.DARK["after"], "bold", gid="verdict"))
    return Heading(lines, width)


def _shade(ax: Axes, marked: list[int]) -> None:
    """Shade the layers with ARM."""
    band: dict[str, Any] = {"color": style.BAND, "alpha": 0.55, "linewidth": 0, "zorder": 0.3}
    for layer in marked:
        ax.axvspan(layer - 0.5, layer + 0.5, gid="arm", **band)


def _draw(ax: Axes, series: list[LayerSeries], quantity: str) -> None:
    """Draw a line for each module and phase."""
    for one in series:
        size = 0.6 if one.layers.size > _MANY else style.page_format().marks
        for phase, look in _LOOKS.items():
            values = one.values[quantity, phase]
            if np.isfinite(values).any():
                ax.plot(
                    one.layers, values, label=phase, gid=f"{quantity}-{phase}", clip_on=False,
                    zorder=3, **look | {"markersize": size * look["markersize"]},
                )  # fmt: skip


def _draw_range(ax: Axes, series: list[LayerSeries], quantity: str) -> None:
    """Draw the median of many modules, and the range of all."""
    for phase, look in _LOOKS.items():
        rows = [
            pd.Series(one.values[quantity, phase], index=one.layers, dtype=float) for one in series
        ]
        table = pd.concat(rows, axis=1).sort_index()
        if not table.notna().any(axis=None):
            continue
        layers, middle = table.index.to_numpy(), table.median(axis=1)
        label = f"{phase}: median and range of {counted(len(series), 'module')}"
        ax.fill_between(
            layers, table.min(axis=1), table.max(axis=1), color=look["color"], alpha=0.25,
            linewidth=0, gid=f"{quantity}-{phase}-range",
        )  # fmt: skip
        size = style.page_format().marks * look["markersize"]
        ax.plot(
            layers, middle, label=label, gid=f"{quantity}-{phase}", zorder=3,
            **look | {"markersize": size},
        )  # fmt: skip


def _scale(ax: Axes, series: list[LayerSeries], quantity: str) -> None:
    """Start at zero, or use a logarithmic scale if the layers differ by orders of magnitude."""
    values = np.concatenate([one.values[quantity, phase] for one in series for phase in _LOOKS])
    title = _QUANTITIES[quantity]
    if quantity in ("std", "distance") and log_if_wide(ax, values):
        title += " (log)"
    else:
        fit_y(ax, values)
    if quantity == "near_zero":
        percent_ticks(ax.yaxis)
    panel_title(ax, title)


def _legend(ax: Axes, shaded: str) -> dict[str, Artist]:
    """Return a handle for each phase, and one for the shaded layers."""
    found: dict[str, Artist] = {}
    for handle in ax.get_lines():
        found.setdefault(str(handle.get_label()), handle)
    for patch in ax.patches:
        found.setdefault(shaded, patch)
    return found
