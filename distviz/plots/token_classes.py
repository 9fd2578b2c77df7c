"""Near-zero share by token class, role or position: before and after in a run, A and B in a
comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.plots import style
from distviz.plots.layout import Heading, Line, arrange, grid, panel_title, side_heading
from distviz.plots.scales import grid_lines, percent_ticks, round_ticks
from distviz.results import (
    GROUP_NAMES,
    Comparison,
    Run,
    arm_settings,
    change_name,
    layer_name,
    model_name,
    partition_rows,
    percent,
    side_names,
)
from distviz.stats import checks_types

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASSES = ("digits", "operators", "conjunctions", "other")
_LAYERS = 3
Place = tuple[str, int, str]
_PLACE = ["stack", "layer", "module"]


@dataclass(frozen=True)
class ClassBars:
    """One panel: a layer.

    Attributes
    ----------
    name
        Of the layer.
    classes
        With tokens, in their usual order.
    tokens
        By series: tokens of each class.
    shares
        By series (``before``, ``after``, or ``A``, ``B``): the near-zero share of each class.
    """

    name: str
    classes: list[str]
    tokens: dict[str, list[int | None]]
    shares: dict[str, NDArray[np.float64]]


def class_bars(
    measured: Run | Comparison, site: str = "act", partition: str = "class"
) -> list[ClassBars]:
    """Gather what `token_classes` draws: at most three layers.

    A run shows its first ARM layers (or first layers), a comparison the layers whose
    distributions differ most.

    Raises
    ------
    RequestError
        If there are no statistics by token class at this site.
    """
    rows = _compared_rows(measured) if isinstance(measured, Comparison) else _run_rows(measured)
    rows = partition_rows(rows[rows["site"] == site], partition) if len(rows) else rows
    if not len(rows):
        noun = "token classes" if partition == "class" else f"{partition}s of tokens"
        raise RequestError(
            f"{noun} were not kept apart at site '{site}'", "measure with --classes all"
        )
    places = list(dict.fromkeys(rows[_PLACE].itertuples(index=False, name=None)))
    chosen = _chosen(measured, places)
    return [
        _panel(rows[(rows[_PLACE] == list(place)).all(axis=1)], _name(measured, place))
        for place in sorted(chosen[:_LAYERS])
    ]


def _name(measured: Run | Comparison, place: Place) -> str:
    """Name the layer, or both if a layer of A is compared with another one of B."""
    if not isinstance(measured, Comparison):
        return layer_name(measured, place[1], place[0])
    partner = next(
        pair.b.layer
        for pair in measured.pairs
        if (pair.a.stack, pair.a.layer, pair.a.module) == place
    )
    if partner != place[1]:
        return f"layer {place[1]} of A, {partner} of B"
    return layer_name(measured.a, place[1], place[0])


def _run_rows(run: Run) -> pd.DataFrame:
    rows = run.classes()
    rows = rows[rows["phase"].isin(["before", "after"])]
    return rows.rename(columns={"phase": "series"})


def _compared_rows(comparison: Comparison) -> pd.DataFrame:
    table = comparison.classes
    if not len(table):
        return table
    frames = []
    for side in "ab":
        names = {f"layer_{side}": "layer", f"module_{side}": "module"}
        names |= {f"tokens_{side}": "tokens", f"near_zero_{side}": "near_zero"}
        shared = table.columns.intersection(["site", "stack", "token_class", "partition"])
        frame = table[shared].assign(series=side.upper())
        for old, new in names.items():
            frame[new] = table[old]
        # Both sides are shown at the layer of A.
        frames.append(frame.assign(layer=table["layer_a"], module=table["module_a"]))
    return pd.concat(frames, ignore_index=True)


def _chosen(measured: Run | Comparison, places: list[Place]) -> list[Place]:
    """Order the places: only ARM layers if there are any; in a comparison by KS, largest first."""
    if isinstance(measured, Comparison):
        table = measured.table.sort_values("ks", ascending=False, kind="stable")
        ranked = table[["stack", "layer_a", "module_a"]].itertuples(index=False, name=None)
        return [place for place in dict.fromkeys(ranked) if place in places]
    moved = [key for key in measured.keys if key.phase == "moved_after"]
    marked = {(key.stack, key.layer, key.module) for key in moved}
    return [place for place in places if place in marked] or places


def _panel(rows: pd.DataFrame, name: str) -> ClassBars:
    known = rows["token_class"].unique()
    classes = [one for one in _CLASSES if one in known] + [c for c in known if c not in _CLASSES]
    shares, tokens = {}, {}
    for series, part in rows.groupby("series", sort=False):
        of_class = part.drop_duplicates("token_class").set_index("token_class").reindex(classes)
        shares[str(series)] = of_class["near_zero"].to_numpy(dtype=np.float64)
        tokens[str(series)] = [None if pd.isna(n) else int(n) for n in of_class["tokens"]]
    return ClassBars(name, classes, tokens, shares)


@checks_types
def token_classes(
    measured: Run | Comparison,
    site: str = "act",
    partition: str = "class",
    *,
    width: str | None = None,
) -> Figure:
    """Draw the near-zero share of groups of tokens: bars, or by position a line.

    Parameters
    ----------
    measured
        A run (before and after ARM) or a comparison (A and B, both with A's eps).
    site
        One of its sites.
    partition
        ``"class"``: digits, operators, conjunctions, other; ``"role"``; ``"position"``.
    width
        ``"single"`` or ``"double"``: the columns of a paper; None: for a screen.

    Raises
    ------
    RequestError
        If there are no statistics by token class at this site.
    """
    bars = class_bars(measured, site, partition)
    with style.styled(width) as page:
        inches = page.or_width(max(5.2, 0.9 + 2.9 * len(bars)))
        columns = max(1, int(inches / 3.2)) if page.is_paper else len(bars)
        heights = [1.35 if page.is_paper else 2.13] * -(-len(bars) // columns)
        figure, cells = grid(inches, heights, columns)
        axes = [figure.add_subplot(cells[index]) for index in range(len(bars))]
        shares = np.concatenate([list(panel.shares.values()) for panel in bars], axis=None)
        top = float(np.nan_to_num(shares).max()) or 1.0
        for index, (ax, panel) in enumerate(zip(axes, bars, strict=True)):
            draw = _draw_line if partition == "position" else _draw
            draw(ax, panel, top, inches / columns - 0.5)
            is_first = index % columns == 0
            ax.tick_params(labelleft=is_first)
            ax.set_ylabel("near-zero share" if is_first else "")
            is_last = index + columns >= len(axes)
            ax.set_xlabel(_AXIS[partition] if is_last else "")
        if max(len(panel.shares) for panel in bars) > 1:
            axes[columns - 1 if len(axes) >= columns else -1].legend(
                loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1,
                handlelength=1.1, handleheight=0.9,
            )  # fmt: skip
        arrange(figure, _heading(measured, site, partition, inches), heights)
        return figure


def _heading(measured: Run | Comparison, site: str, partition: str, width: float) -> Heading:
    what = f"near-zero share by {GROUP_NAMES[partition]} · {site}"
    if isinstance(measured, Comparison):
        caption = Line(f"{what} · |x| < ε of A")
        return side_heading(side_names(measured), [caption], width)
    settings = arm_settings(measured)
    is_paired = any(key.phase == "after" for key in measured.keys)
    acting = f"{change_name(measured)}: {settings}" if settings and is_paired else "ARM off"
    band = "|x| < ε of before" if is_paired else "|x| < ε"
    lines = [
        Line.title(model_name(measured)),
        Line(what, "panel", style.INK),
        Line(f"{band} · {acting}"),
    ]
    return Heading(lines, width)


_AS_PHASE = {"A": "before", "B": "after"}
_AXIS = {
    "class": "class, and its number of tokens",
    "role": "role, and its number of tokens",
    "position": "position in the window",
}


def _draw(ax: Axes, panel: ClassBars, top: float, inches: float) -> None:
    """Draw a layer; ``inches`` is about the width of the panel."""
    places = np.arange(len(panel.classes))
    width = 0.8 / len(panel.shares)
    texts = {
        series: [percent(share).removesuffix(" %") for share in shares.tolist()]
        for series, shares in panel.shares.items()
    }
    # Numbers that would touch each other if they lay on their bars stand upright.
    widest = max(style.text_width(one, style.size("bar")) for own in texts.values() for one in own)
    upright = style.page_format().is_paper and widest > 0.95 * inches * width / max(len(places), 1)
    for index, (series, shares) in enumerate(panel.shares.items()):
        phase = _AS_PHASE.get(series, series)
        left = places - 0.4 + width * (index + 0.5)
        ax.bar(
            left, shares, 0.94 * width, color=style.LIGHT[phase], edgecolor=style.LINE[phase],
            linewidth=0.8, label=series, gid=f"bars-{series}",
        )  # fmt: skip
        look: dict[str, Any] = {"fontsize": style.size("bar"), "color": style.LINE[phase]}
        for x, share, text in zip(left.tolist(), shares.tolist(), texts[series], strict=True):
            ax.text(
                x, share + 0.02 * top, text, ha="center", va="bottom", gid="share",
                rotation=90 if upright else 0, **look,
            )  # fmt: skip
    ax.set_xticks(places, [_label(panel, index) for index in places.tolist()], fontsize=7.0)
    _finish(ax, panel, (1.4 if upright else 1.12) * top)


def _draw_line(ax: Axes, panel: ClassBars, top: float, _inches: float) -> None:
    """Draw a layer by position: a point for each group."""
    places = np.arange(len(panel.classes))
    for series, shares in panel.shares.items():
        phase = _AS_PHASE.get(series, series)
        ax.plot(
            places, shares, color=style.LINE[phase], linewidth=1.0, label=series,
            marker="o", markersize=3.0, gid=f"line-{series}",
        )  # fmt: skip
    names = [_dashed(name) for name in panel.classes]
    ax.set_xticks(places, names, fontsize=7.0, rotation=90)
    _finish(ax, panel, 1.08 * top)


def _finish(ax: Axes, panel: ClassBars, top: float) -> None:
    ax.set_ylim(0, top)
    round_ticks(ax.yaxis, 5)
    percent_ticks(ax.yaxis)
    grid_lines(ax)
    ax.tick_params(axis="x", length=0)
    panel_title(ax, panel.name)


def _dashed(name: str) -> str:
    """Write positions such as 4-7 with a dash."""
    return name.replace("-", "–")


def _label(panel: ClassBars, index: int) -> str:
    """Return the class and its number of tokens, of both sides if they differ."""
    counts = list(dict.fromkeys(tokens[index] for tokens in panel.tokens.values()))
    known = [f"{count:,}" for count in counts if count is not None]
    name = _dashed(panel.classes[index])
    return f"{name}\n{' / '.join(known)}" if known else name
