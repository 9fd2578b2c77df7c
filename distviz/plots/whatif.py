"""What a folder of `distviz whatif` shows: losses of number formats, and energy under sparsity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.output import plural
from distviz.plots import layout, style
from distviz.plots.heatmaps import (
    CHANGE,
    LOSS,
    MOST_LINES,
    ROW,
    change_scale,
    draw_heatmap,
    outline,
    value_scale,
)
from distviz.plots.labels import label_points
from distviz.plots.scales import (
    integer_ticks,
    layers_on_x,
    log_if_wide,
    percent_ticks,
    share_x_labels,
)
from distviz.results import (
    arm_settings,
    change_name,
    decibels,
    layer_axis,
    least_first,
    model_name,
    percent,
    place_name,
)

if TYPE_CHECKING:
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
_ORDER = ("mse", "max", "percentile", "none")
"""The heatmap shows the first of these that was requested."""
_NAMED = 3
_LEVELS = ("#56a0c8", "#009e73", "#b8860b", "#d55e00")
"""Colours of the levels drawn by layer, after Okabe and Ito."""
_DIFFERENT = 0.005
"""Curves that differ by less coincide."""
_WORST_TO_BEST = ["#7f3b08", "#6a7178", "#b8860b"]
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
    mains = {name: next(range_ for range_ in _ORDER if (name, range_) in kinds) for name in formats}
    layers = np.unique(_layers(asked, site))
    first, *others = asked.phases(site)
    sqnr = _sqnr(asked, site, mains, first, layers)
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        row = ROW * (0.9 if page.is_narrow else 1.0)
        maps = 1 + bool(others)
        heights = [row * len(formats)] * maps
        if len(kinds) > len(formats):
            heights.append(1.5 * row * len(formats))
        figure, axes = layout.stacked(inches, heights)
        _draw_sqnr(axes[0], sqnr, mains, layers)
        layout.panel_title(axes[0], _map_title(asked, mains, first if others else ""))
        axes[0].set_xlabel(layer_axis(asked))
        if others:
            change = _sqnr(asked, site, mains, others[0], layers) - sqnr
            _draw_change(axes[1], change, formats, layers)
            layout.panel_title(axes[1], f"change by {change_name(asked)}, dB, where it is largest")
        for ax in axes[maps:]:
            _draw_ranges(ax, asked, site, formats, first)
            layout.panel_title(ax, "SQNR by choice of the range: median layer, worst to best")
            layout.legend_above(ax, *ax.get_legend_handles_labels())
        layout.arrange(figure, _formats_heading(asked, site, sqnr, mains, inches), heights)
        return figure


def _sqnr(
    asked: WhatIf, site: str, mains: dict[str, str], phase: str, layers: NDArray[np.int64]
) -> Floats:
    """Return the SQNR in dB, float64 (formats, layers)."""
    rows = [
        _by_layer(asked.losses(site, name, range_, phase), "sqnr_db", layers)
        for name, range_ in mains.items()
    ]
    return np.array(rows)


def _by_layer(rows: pd.DataFrame, column: str, layers: NDArray[np.int64]) -> Floats:
    """Return the smallest value of each layer (of all stacks), float64 (layers,)."""
    least = rows.groupby("layer")[column].min()
    return least.reindex(layers).to_numpy(dtype=np.float64)


def _draw_sqnr(ax: Axes, sqnr: Floats, mains: dict[str, str], layers: NDArray[np.int64]) -> None:
    """Draw a row per format; outline its worst layer."""
    draw_heatmap(
        ax, sqnr, list(mains), layers, value_scale(sqnr), LOSS, [decibels, _whole], gid="sqnr"
    )
    integer_ticks(ax)
    ax.grid(visible=False)
    for row, values in enumerate(sqnr):
        if np.isfinite(values).any() and len(layers) > 1:
            outline(ax, float(layers[np.nanargmin(values)]), row)


def _whole(value: float) -> str:
    return f"{value:.0f}".replace("-", "−") if np.isfinite(value) else "∞"


def _draw_change(ax: Axes, change: Floats, formats: list[str], layers: NDArray[np.int64]) -> None:
    """Draw the layers that change most, in the order of depth."""
    size = np.abs(np.nan_to_num(change, posinf=0.0, neginf=0.0)).max(axis=0)
    most = _MOST_CHANGED // 2 if style.page_format().is_narrow else _MOST_CHANGED
    picked = np.sort(np.argsort(-size, kind="stable")[: max(min(most, (size > 0).sum()), 1)])
    scale = change_scale(change, _LEAST_CHANGE)
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
    return ", ".join(filter(None, ["SQNR, dB", how, phase]))


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
    if arm_settings(asked) and len(asked.phases(site)) > 1:
        lines.append(layout.Line(f"{change_name(asked)}: {arm_settings(asked)}"))
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


def _layers(asked: WhatIf, site: str) -> NDArray[np.int64]:
    return asked.table.loc[asked.table["site"] == site, "layer"].to_numpy(dtype=np.int64)


def _label(asked: WhatIf, range_: str) -> str:
    percentile = f"{asked.manifest.get('percentile'):g}th percentile"
    return {
        "none": "no scale",
        "max": "by maximum",
        "percentile": f"by {percentile}",
        "mse": "by least error",
    }[range_]


def zeros_kept(asked: WhatIf, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the energy kept against the share of zeros, by layer, and the threshold.

    Models of more than a few layers have curves of the worst, the median and the best layer.
    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the folder has no level of zeros at this site.
    """
    levels = asked.levels(site)
    if not levels:
        raise RequestError(f"the whatif folder holds no levels of sparsity at site '{site}'")
    layers = np.unique(_layers(asked, site))
    first, *others = asked.phases(site)
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        high, low = (1.7, 0.85) if page.is_narrow else (2.4, 1.2)
        heights = [high, max(0.8 * ROW * len(levels), 0.4), low]
        figure, (curves, kept, thresholds) = layout.stacked(inches, heights)
        named = _draw_curves(curves, asked, site)
        phase = f", {first}" * bool(others)
        layout.panel_title(curves, f"energy kept: sum of x² that is left{phase}")
        values = np.array(
            [_by_layer(asked.thinned(site, level, first), "l2_kept", layers) for level in levels]
        )
        draw_heatmap(
            kept, 100 * values, [f"{100 * level:g} %" for level in levels], layers,
            value_scale(100 * values), LOSS, [lambda share: f"{share:.1f}", _whole], gid="kept",
        )  # fmt: skip
        kept.set_ylabel("zeros")
        layout.panel_title(kept, f"energy kept by layer, %{phase}")
        _draw_thresholds(thresholds, asked, site, _spread(levels))
        for ax in (kept, thresholds):
            layers_on_x(ax, layers)
        kept.grid(visible=False)
        share_x_labels([kept, thresholds], layer_axis(asked))
        layout.arrange(figure, _zeros_heading(asked, site, inches), heights)
        for color, labels in named.items():
            label_points(curves, labels, color)
        return figure


def _spread(levels: list[float]) -> list[float]:
    """Choose at most as many levels as there are colours, evenly, the largest among them."""
    step = max(len(levels) // len(_LEVELS), 1)
    return sorted(levels[::-1][::step][: len(_LEVELS)])


def _middle(asked: WhatIf, site: str) -> float:
    """Return the level nearest to a half."""
    return min(asked.levels(site), key=lambda one: abs(one - 0.5))


def _zeros_heading(asked: WhatIf, site: str, width: float) -> layout.Heading:
    level = _middle(asked, site)
    rows = asked.thinned(site, level, asked.phases(site)[0])
    least = least_first(rows, "l2_kept", _NAMED)
    named = [f"{place_name(row)} ({percent(row['l2_kept'])})" for row in least]
    text = ""
    if named:
        noun = plural("layer") if len(named) > 1 else "layer"
        text = f"At {100 * level:g} % zeros least energy is kept in {noun} {', '.join(named)}"
    lines = [
        layout.Line.title(f"{model_name(asked)} · smallest magnitudes made zero · {site}"),
        layout.Line(text, "panel", style.INK, "bold", gid="least"),
    ]
    return layout.Heading(lines, width)


Place = tuple[str, int]
Labels = dict[str, list[tuple[str, list[tuple[float, float]]]]]
"""By colour: names and the points where they may stand."""


def _curves(asked: WhatIf, site: str, phase: str) -> dict[Place, pd.DataFrame]:
    """Return the rows of each (stack, layer), by share of zeros, without layers of NaN."""
    rows = pd.concat([asked.thinned(site, level, phase) for level in asked.levels(site)])
    rows = rows[rows["l2_kept"].notna()]
    places = zip(rows["stack"].tolist(), rows["layer"].tolist(), strict=True)
    return {
        (stack, layer): rows[(rows["stack"] == stack) & (rows["layer"] == layer)]
        for stack, layer in dict.fromkeys(places)
    }


def _chosen(curves: dict[Place, pd.DataFrame]) -> dict[Place, str]:
    """Name the layers that are drawn: all, or the worst, the median and the best of many."""
    if len(curves) <= MOST_LINES:
        return {place: _layer(place) for place in curves}
    means = {place: float(rows["l2_kept"].mean()) for place, rows in curves.items()}
    ranked = sorted(means, key=lambda place: means[place])
    picked = zip(("worst", "median", "best"), (0, len(ranked) // 2, -1), strict=True)
    return {ranked[index]: f"{word}: {_layer(ranked[index])}" for word, index in picked}


def _layer(place: Place) -> str:
    return f"layer {place_name({'stack': place[0], 'layer': place[1]})}"


def _draw_curves(ax: Axes, asked: WhatIf, site: str) -> Labels:
    """Draw a line per chosen layer; after ARM, dashed, where it differs most; return names."""
    first, *others = asked.phases(site)
    curves = _curves(asked, site, first)
    chosen = _chosen(curves)
    named: Labels = {}
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, max(len(chosen), 2)))
    few = len(chosen) == len(curves)
    colors = [mpl.colors.to_hex(shade) for shade in shades] if few else _WORST_TO_BEST
    for color, (place, name) in zip(colors, chosen.items(), strict=False):
        _draw_curve(ax, curves[place], named, name, color, gid=f"layer-{place[1]}-{first}")
    for phase in others[:1]:
        after = _curves(asked, site, phase)
        moved = {place: _distance(rows, curves.get(place)) for place, rows in after.items()}
        most = sorted(moved, key=lambda place: -moved[place])[: len(chosen) if few else 1]
        for place in sorted(place for place in most if moved[place] > _DIFFERENT):
            if place not in chosen:
                look = {"color": style.LINE["before"], "gid": f"layer-{place[1]}-{first}"}
                _draw_curve(ax, curves[place], named, f"{_layer(place)}, {first}", **look)
            _draw_curve(
                ax, after[place], named, f"{_layer(place)}, {phase}", style.LINE["after"],
                gid=f"layer-{place[1]}-{phase}", linestyle=(0, (4, 2)), linewidth=1.4, zorder=4,
            )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        percent_ticks(axis)
    ax.margins(x=0.04, y=0.08)
    ax.grid(color=style.GRID, linewidth=0.6)
    ax.set_xlabel("values that are zero", labelpad=1)
    return named


def _draw_curve(
    ax: Axes, rows: pd.DataFrame, named: Labels, name: str, color: str, **look: Any
) -> None:
    """Draw one curve and note where its label may stand: at its end, or before."""
    x, y = (rows[column].to_numpy(dtype=np.float64) for column in ("zeros", "l2_kept"))
    shown: dict[str, Any] = {"linewidth": 1.1, "marker": ".", "markersize": 3} | look
    ax.plot(x, y, color=color, **shown)
    points = list(zip(x.tolist()[::-1], y.tolist()[::-1], strict=True))
    named.setdefault(color, []).append((name, points[: len(points) // 2 + 1]))


def _distance(rows: pd.DataFrame, others: pd.DataFrame | None) -> float:
    """Return the largest difference of the energy kept, 1 if the other curve is missing."""
    if others is None or len(rows) != len(others):
        return 1.0
    return float(np.abs(rows["l2_kept"].to_numpy() - others["l2_kept"].to_numpy()).max())


def _draw_thresholds(ax: Axes, asked: WhatIf, site: str, chosen: list[float]) -> None:
    """Draw a line per level by layer; hollow marks after ARM."""
    first, *others = asked.phases(site)
    marks = style.page_format().marks
    hollow: dict[str, Any] = {
        "marker": "D",
        "markersize": 5 * marks,
        "markerfacecolor": "none",
        "markeredgewidth": 0.8,
    }
    for level, color in zip(chosen, _LEVELS[-len(chosen) :], strict=True):
        filled: dict[str, Any] = {"marker": "o", "markersize": 3 * marks, "linewidth": 1.2}
        filled["label"] = f"{100 * level:g} % zeros"
        before = asked.thinned(site, level, first)
        for _, rows in before.groupby("stack", sort=False):
            ax.plot(
                rows["layer"], rows["threshold"], color=color, gid=f"threshold-{level:g}-{first}",
                **filled,
            )  # fmt: skip
        for phase in others[:1]:
            both = before.merge(asked.thinned(site, level, phase), on=["stack", "layer"])
            ratio = both["threshold_y"] / both["threshold_x"]
            moved = both[(ratio - 1).abs() > _DIFFERENT]
            ax.plot(
                moved["layer"], moved["threshold_y"], color=color,
                gid=f"threshold-{level:g}-{phase}", **hollow,
            )  # fmt: skip
    for phase in others[:1]:
        ax.plot(
            [], [], color=style.INK, label=f"{phase}, where it differs", linewidth=0.0, **hollow
        )
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    is_log = log_if_wide(ax, values, span=10)
    if not is_log:
        ax.yaxis.set_major_locator(MaxNLocator(4))
    layout.panel_title(ax, "threshold: largest magnitude made zero" + " (log)" * is_log)
    layout.legend_above(ax, *ax.get_legend_handles_labels())
