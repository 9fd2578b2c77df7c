"""A training over its steps: a curve for each layer, and the change of each layer as a heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize

from distviz.errors import RequestError
from distviz.plots import layout, style
from distviz.plots.heatmaps import CHANGE, MOST_LINES, ROW, Floats, diverging_scale, draw_heatmap
from distviz.plots.scales import (
    fit_y,
    integer_ticks,
    log_if_wide,
    percent_ticks,
    share_x_labels,
)
from distviz.results import curve_names, model_name, nonfinite_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import Training
    from distviz.sites import SiteKey

TRAINING_CURVES = {
    "std": "standard deviation",
    "near_zero": "near-zero share, |x| < ε of the snapshot",
    "absmax": "largest |x|",
    "dead_channels": "dead channels (only zeros in the snapshot)",
    "nonfinite": "NaN and infinite values",
}
"""Statistics that are drawn over the steps, and their titles."""
_COUNTS = ("dead_channels", "nonfinite")
"""Drawn only where one is above 0."""
TRAINING_CHANGES = {
    "std": "standard deviation, log2 of the ratio to step {0}",
    "near_zero": "near-zero share, percentage points above step {0}",
    "absmax": "largest |x|, log2 of the ratio to step {0}",
}
"""Statistics whose changes are drawn, and their titles with a place for the first step."""
_DEPTHS = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.88, 256)), "depths")
"""Colours of layers: dark is first."""
_MOST_ROWS = 12
"""Layers of full height in a heatmap; more are drawn lower, without numbers."""


def training_curves(training: Training, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw statistics of a site over the steps, a curve for each layer.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the site was not observed.
    """
    keys = _keys(training, site)
    shown = [name for name in TRAINING_CURVES if _has(training, name, keys)]
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        heights = [0.9 if page.is_narrow else 1.25] * len(shown)
        figure, axes = layout.stacked(inches, heights)
        for ax, name in zip(axes, shown, strict=True):
            _draw_curves(ax, training, name, keys)
        share_x_labels(axes, "step")
        if len(keys) <= MOST_LINES:
            names = list(curve_names(keys).values())
            lines = axes[0].get_lines()[: len(keys)]
            layout.legend_in_figure(figure, lines, names, "outside lower left")
        layout.arrange(figure, _heading(training, site, inches), heights)
        return figure


def _keys(training: Training, site: str) -> list[SiteKey]:
    keys = [key for key in training.keys if key.site == site]
    if not keys:
        known = ", ".join(dict.fromkeys(key.site for key in training.keys))
        raise RequestError(f"the training holds no site '{site}'", f"it has {known or 'none'}")
    return keys


def _has(training: Training, name: str, keys: Sequence[SiteKey]) -> bool:
    curves = [training.curve(name, key) for key in keys]
    if name in _COUNTS:
        return any((curve > 0).any() for curve in curves)
    return any(curve.notna().any() for curve in curves)


def _draw_curves(ax: Axes, training: Training, name: str, keys: Sequence[SiteKey]) -> None:
    is_many = len(keys) > MOST_LINES
    depths = [key.layer for key in keys] if is_many else list(range(len(keys)))
    colors = Normalize(min(depths), max(*depths, min(depths) + 1))
    curves = [training.curve(name, key) for key in keys]
    is_dense = len(training.steps) > 40
    for number, curve in enumerate(curves):
        ax.plot(
            curve.index, curve, color=_DEPTHS(colors(depths[number])), linewidth=1.1,
            marker="" if is_dense else "o", markersize=2.6 * style.page_format().marks,
            gid=f"{name}-{number}",
        )  # fmt: skip
    first = training.first_nonfinite
    if first is not None and "step" in first:
        ax.axvline(first["step"], color="#c00000", linewidth=0.9, dashes=(4, 3), gid="nonfinite")
    values = np.concatenate([curve.to_numpy(dtype=float) for curve in curves])
    title = TRAINING_CURVES[name]
    if name in ("std", "absmax") and log_if_wide(ax, values):
        title += " (log)"
    else:
        fit_y(ax, values)
    if name == "near_zero":
        percent_ticks(ax.yaxis)
    integer_ticks(ax)
    ax.margins(x=0.02)
    if is_many:
        layout.color_scale(ax, ScalarMappable(colors, _DEPTHS))
        title += "; colour: layer"
    layout.panel_title(ax, title)


def training_heatmap(training: Training, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw how statistics of a site change over the steps: a row for each layer.

    ``width`` is that of `training_curves`.

    Raises
    ------
    RequestError
        If the site was not observed, or there is one snapshot.
    """
    keys, steps = _keys(training, site), training.steps
    if len(steps) < 2:
        raise RequestError("the training has one snapshot, which is compared with none")
    names = list(curve_names(keys).values())
    shown = {name: _changes(training, name, keys) for name in TRAINING_CHANGES}
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        each = ROW * max(min(len(keys), _MOST_ROWS), 2)
        heights = [each] * len(shown)
        figure, axes = layout.stacked(inches, heights)
        for ax, (name, values) in zip(axes, shown.items(), strict=True):
            _draw_changes(ax, name, values, names)
            layout.panel_title(ax, TRAINING_CHANGES[name].format(steps[0]))
        share_x_labels(axes, "step")
        layout.arrange(figure, _heading(training, site, inches), heights)
        labels = [f"{step}" for step in steps[1:]]
        for ax in axes:
            ax.set_xticks(range(len(labels)), layout.thinned(ax, labels))
        return figure


def _changes(training: Training, name: str, keys: Sequence[SiteKey]) -> Floats:
    """Return the changes since the first snapshot, (places, later steps); NaN where unknown."""
    rows = [training.curve(name, key).reindex(training.steps) for key in keys]
    values = np.array([row.to_numpy(dtype=float) for row in rows])
    if name == "near_zero":
        return np.asarray(100 * (values[:, 1:] - values[:, :1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log2(values[:, 1:] / values[:, :1])
    return np.where(np.isfinite(found), found, np.nan)


def _draw_changes(ax: Axes, name: str, values: Floats, names: list[str]) -> None:
    places = 1 if name == "near_zero" else 2
    formats = [partial(_signed, places)] if len(names) <= _MOST_ROWS else []
    scale = diverging_scale(values, 0.1)
    columns = np.arange(values.shape[1])
    draw_heatmap(ax, values[::-1], names[::-1], columns, scale, CHANGE, formats, gid=name)
    if len(names) > _MOST_ROWS:
        every = -(-len(names) // _MOST_ROWS)
        rows = range(0, len(names), every)
        ax.set_yticks([len(names) - 1 - row for row in rows], [names[row] for row in rows])


def _signed(places: int, value: float) -> str:
    return f"{value:+.{places}f}".replace("-", "−") if round(value, places) else "0"


def _heading(training: Training, site: str, inches: float) -> layout.Heading:
    title = f"{model_name(training)} · training · {site}"
    lines: list[Any] = [layout.Line.title(title), layout.Line(training.sample)]
    if line := nonfinite_line(training.first_nonfinite):
        lines.append(layout.Line(style.drawable(line), gid="nonfinite"))
    return layout.Heading(lines, inches)
