"""Number formats measured in a run: what each loses in each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize

from distviz.errors import RequestError
from distviz.plots import layout, style
from distviz.plots.heatmaps import (
    COST,
    LOSS,
    ROW,
    Floats,
    by_layer,
    draw_heatmap,
    sequential_scale,
    whole,
)
from distviz.plots.scales import integer_ticks, share_x_labels
from distviz.results import (
    LOST,
    TOKEN_LOST,
    decibels,
    format_kinds,
    format_losses_of,
    is_paired,
    kind_name,
    layer_axis,
    model_name,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distviz.results import Run

_PANELS = {"sqnr_db": LOST, "token_sqnr_db": TOKEN_LOST, "zeroed": "values that become zero, %"}


def measured_formats(run: Run, site: str = "act", *, width: str | None = None) -> Figure:
    """Draw the SQNR of each format in each layer, that of tokens, and what becomes zero.

    ``width`` is ``"single"`` or ``"double"``, the columns of a paper, or None, for a screen.

    Raises
    ------
    RequestError
        If the run has no number formats at this site.
    """
    kinds = format_kinds(run, site)[::-1]
    if not kinds:
        raise RequestError(f"the run has no number formats at site '{site}'")
    tables = [format_losses_of(run, site, kind) for kind in kinds]
    layers = np.unique(np.concatenate([table["layer"].to_numpy(np.int64) for table in tables]))
    names = [kind_name(kind) for kind in kinds]
    with style.styled(width) as page:
        inches = page.or_width(7.2)
        heights = [ROW * (0.9 if page.is_narrow else 1.0) * len(kinds)] * len(_PANELS)
        figure, axes = layout.stacked(inches, heights)
        maps = [np.array([by_layer(one, column, layers) for one in tables]) for column in _PANELS]
        scale = sequential_scale(np.concatenate(maps[:2]))
        for ax, (column, title), values in zip(axes, _PANELS.items(), maps, strict=True):
            is_share = column == "zeroed"
            look: tuple[Normalize, str] = (Normalize(0, 100), COST) if is_share else (scale, LOSS)
            write = [_percent, whole] if is_share else [decibels, whole]
            shown: Floats = 100 * values if is_share else values
            draw_heatmap(ax, shown, names, layers, *look, write, gid=column)
            integer_ticks(ax)
            ax.grid(visible=False)
            layout.panel_title(ax, title)
        share_x_labels(list(axes), layer_axis(run))
        phase = "before ARM" if is_paired(run) else ""
        heading = layout.titled(inches, f"{model_name(run)} · measured formats · {site}", phase)
        layout.arrange(figure, heading, heights)
        return figure


def _percent(value: float) -> str:
    return f"{value:.1f}"
