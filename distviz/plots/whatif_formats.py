"""Number formats in a whatif folder: their losses in each layer, and the choice of the range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.plots import layout, style
from distviz.plots.heatmaps import (
    CHANGE,
    COST,
    LOSS,
    ROW,
    by_layer,
    diverging_scale,
    draw_heatmap,
    outline,
    sequential_scale,
    whole,
)
from distviz.plots.scales import (
    integer_ticks,
)
from distviz.results import (
    RANGES,
    TOP,
    arm_settings,
    change_name,
    decibels,
    layer_axis,
    least_first,
    model_name,
    place_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distviz.results import WhatIf

_LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": "#009e73", "marker": "^"},
    "max": {"color": "#8a929a", "marker": "s"},
    "percentile": {"color": "#c38bb0", "marker": "v"},
    "mse": {"color": style.LINE["before"], "marker": "o"},
}
"""Colours of Okabe and Ito, and a marker, for each range."""
_REST = "sqnr_rest_db"
_MOST_CHANGED = 12
"""Layers whose change is drawn, half as many on a narrow page."""
_LEAST_CHANGE = 1.0
"""Decibels: the scale of changes reaches at least so far."""

Floats = NDArray[np.float64]


def format_losses(asked: WhatIf, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the SQNR of each format in each layer, what ARM changes, and the choice of the range.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the folder has no format at this site.
    """
    kinds = asked.kinds(site)
    if not kinds:
        raise RequestError(f"the whatif folder holds no number formats at site '{site}'")
    formats = list(dict.fromkeys(name for name, _ in kinds))[::-1]
    mains = {name: next(range_ for range_ in RANGES if (name, range_) in kinds) for name in formats}
    layers = layers_of(asked, site)
    first, *others = asked.phases(site)
    sqnr, rest = (_sqnr(asked, site, mains, first, layers, by) for by in ("sqnr_db", _REST))
    has_rest = bool(np.isfinite(rest).any())
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        row = ROW * (0.9 if page.is_narrow else 1.0)
        if width is not None and has_rest:
            row *= 0.77  # the maps fit a page
        maps = 1 + 3 * has_rest + bool(others)
        heights = [row * len(formats)] * (1 + 2 * has_rest) + [row] * has_rest
        heights += [row * len(formats)] * bool(others)
        if len(kinds) > len(formats):
            heights.append(1.5 * row * len(formats))
        figure, axes = layout.stacked(inches, heights)
        scale = sequential_scale(np.concatenate([sqnr, rest]))
        _draw_sqnr(axes[0], sqnr, mains, layers, scale)
        layout.panel_title(axes[0], _map_title(asked, mains, first if others else ""))
        if has_rest:
            _draw_sqnr(axes[1], rest, mains, layers, scale, gid="rest")
            layout.panel_title(axes[1], f"the same without {TOP}")
            _draw_shares(axes[2:4], asked, site, mains, layers)
        axes[3 * has_rest].set_xlabel(layer_axis(asked))
        if others:
            with np.errstate(invalid="ignore"):  # lossless in both phases: inf - inf
                change = _sqnr(asked, site, mains, others[0], layers) - sqnr
            ax = axes[maps - 1]
            _draw_change(ax, change, formats, layers)
            layout.panel_title(ax, f"change by {change_name(asked)}, dB, where it is largest")
        for ax in axes[maps:]:
            _draw_ranges(ax, asked, site, formats, first)
            layout.panel_title(ax, "SQNR by choice of the range: median layer, worst to best")
            layout.legend_above(ax, *ax.get_legend_handles_labels())
        layout.arrange(figure, _formats_heading(asked, site, sqnr, mains, inches), heights)
        return figure


def _sqnr(
    asked: WhatIf,
    site: str,
    mains: dict[str, str],
    phase: str,
    layers: NDArray[np.int64],
    column: str = "sqnr_db",
) -> Floats:
    """Return the SQNR in dB, or another column of its rows, float64 (formats, layers)."""
    by = _REST if column == _REST else "sqnr_db"
    rows = [
        by_layer(asked.losses(site, name, range_, phase, by), column, layers)
        for name, range_ in mains.items()
    ]
    return np.array(rows)


def _draw_sqnr(
    ax: Axes,
    sqnr: Floats,
    mains: dict[str, str],
    layers: NDArray[np.int64],
    scale: Normalize,
    gid: str = "sqnr",
) -> None:
    """Draw a row per format; outline its worst layer."""
    draw_heatmap(ax, sqnr, list(mains), layers, scale, LOSS, [decibels, whole], gid=gid)
    integer_ticks(ax)
    ax.grid(visible=False)
    for row, values in enumerate(sqnr):
        if np.isfinite(values).any() and len(layers) > 1:
            outline(ax, float(layers[np.nanargmin(values)]), row)


def _draw_shares(
    axes: Sequence[Axes],
    asked: WhatIf,
    site: str,
    mains: dict[str, str],
    layers: NDArray[np.int64],
) -> None:
    """Draw what becomes zero, a row per format, and what the largest values hold."""
    phase = asked.phases(site)[0]
    zeroed = 100 * _sqnr(asked, site, mains, phase, layers, "zeroed")
    held = 100 * _sqnr(asked, site, dict([*mains.items()][:1]), phase, layers, "top_energy")
    for ax, values, names, title, gid in (
        (axes[0], zeroed, list(mains), "values that become zero, %", "zeroed"),
        (axes[1], held, ["energy"], f"energy in {TOP}, %", "top"),
    ):
        scale = Normalize(0, 100)
        draw_heatmap(ax, values, names, layers, scale, COST, [_percent, whole], gid=gid)
        integer_ticks(ax)
        ax.grid(visible=False)
        layout.panel_title(ax, title)


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _draw_change(ax: Axes, change: Floats, formats: list[str], layers: NDArray[np.int64]) -> None:
    """Draw the layers that change most, in the order of depth."""
    size = np.abs(np.nan_to_num(change, posinf=0.0, neginf=0.0)).max(axis=0)
    most = _MOST_CHANGED // 2 if style.page_format().is_narrow else _MOST_CHANGED
    picked = np.sort(np.argsort(-size, kind="stable")[: max(min(most, (size > 0).sum()), 1)])
    scale = diverging_scale(change, _LEAST_CHANGE)
    draw_heatmap(
        ax, change[:, picked], formats, np.arange(len(picked)), scale, CHANGE, [_signed],
        gid="change",
    )  # fmt: skip
    ax.set_xticks(range(len(picked)), [str(layer) for layer in layers[picked]])
    ax.set_xlabel("layer", labelpad=1)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0"


def _map_title(asked: WhatIf, mains: dict[str, str], phase: str) -> str:
    ranges = list(dict.fromkeys(_label(asked, range_) for range_ in mains.values()))
    how = f"range {ranges[0]}" if len(ranges) == 1 else "by the best range requested"
    return ", ".join(filter(None, ["SQNR, dB (error of the values, not a cost)", how, phase]))


def _draw_ranges(ax: Axes, asked: WhatIf, site: str, formats: list[str], phase: str) -> None:
    """Draw a mark at the median layer for each format and range, and a line from worst to best."""
    known = [range_ for range_ in _LOOKS if range_ in {range_ for _, range_ in asked.kinds(site)}]
    marks = style.page_format().marks
    for index, range_ in enumerate(known):
        places, medians = [], []
        for row, name in enumerate(formats):
            if (name, range_) not in asked.kinds(site):
                continue
            values = asked.losses(site, name, range_, phase)["sqnr_db"].to_numpy(np.float64)
            values = values[np.isfinite(values)]
            if values.size:
                y = row + 0.18 * ((len(known) - 1) / 2 - index)
                places.append(y)
                medians.append(float(np.median(values)))
                ax.hlines(
                    y, values.min(), values.max(), linewidth=1.1, alpha=0.6,
                    color=_LOOKS[range_]["color"], gid=f"{name}-{range_}-span",
                )  # fmt: skip
        ax.plot(
            medians, places, linestyle="none", markersize=5 * marks, label=_label(asked, range_),
            gid=f"median-{range_}", **_LOOKS[range_],
        )  # fmt: skip
    ax.set_yticks(range(len(formats)), formats)
    ax.set_ylim(-0.5, len(formats) - 0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=style.GRID, linewidth=0.6)
    ax.set_xlabel("SQNR, dB", labelpad=1)


def _formats_heading(
    asked: WhatIf, site: str, sqnr: Floats, mains: dict[str, str], width: float
) -> layout.Heading:
    lines = [layout.Line.title(f"{model_name(asked)} · number formats · {site}")]
    if asked.manifest.get("arm") and len(asked.phases(site)) > 1:
        settings = arm_settings(asked)
        lines.append(layout.Line(f"{change_name(asked)}: {settings}".removesuffix(": ")))
    worst: dict[str, list[str]] = {}
    phase = asked.phases(site)[0]
    for name, range_ in reversed(mains.items()):
        for row in least_first(asked.losses(site, name, range_, phase), "sqnr_db", 1):
            if np.isfinite(row["sqnr_db"]):
                found = f"{name} {decibels(row['sqnr_db'])} dB"
                worst.setdefault(place_name(row), []).append(found)
    if sqnr.shape[1] > 1 and worst:
        words = [f"{layer} ({', '.join(found)})" for layer, found in worst.items()]
        text = f"Worst layer (outlined): {', '.join(words)}"
        lines.append(layout.Line(text, "panel", style.INK, "bold", gid="worst"))
    return layout.Heading(lines, width)


def _label(asked: WhatIf, range_: str) -> str:
    percentile = f"{asked.manifest.get('percentile'):g}th percentile"
    return {
        "none": "no scale",
        "max": "by maximum",
        "percentile": f"by {percentile}",
        "mse": "by least error",
    }[range_]


def layers_of(asked: WhatIf, site: str) -> NDArray[np.int64]:
    """Return the layers of a site, ascending."""
    rows = asked.table["site"] == site
    return np.unique(asked.table.loc[rows, "layer"].to_numpy(dtype=np.int64))
