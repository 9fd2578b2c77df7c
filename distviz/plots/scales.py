"""Scales, ticks and grids of panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rcParams
from matplotlib.lines import Line2D
from matplotlib.markers import TICKLEFT
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

from distviz.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backend_bases import RendererBase
    from numpy.typing import NDArray

    from distviz.plots.site_axes import SiteAxes

_TICK_LEFT: Any = TICKLEFT
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def layers_on_x(ax: Axes, layers: NDArray[np.int64]) -> None:
    """Show all layers on the x axis, with integer ticks."""
    ax.set_xlim(layers.min() - 0.5, layers.max() + 0.5)
    integer_ticks(ax)
    if layers.min() == layers.max():
        ax.set_xticks([layers.min()])


def integer_ticks(ax: Axes) -> None:
    """Use integer ticks on the x axis, and horizontal grid lines."""
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    grid_lines(ax)


def round_ticks(axis: Axis, most: int = 4) -> None:
    """Use at most so many intervals between ticks, of a length of 1, 2, 2.5 or 5."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))


def grid_lines(ax: Axes) -> None:
    """Draw horizontal grid lines."""
    ax.grid(axis="y", color=style.GRID, linewidth=0.6)


class _MinorTicks(Line2D):
    """The minor ticks of a y axis as one artist; those of Matplotlib have five each."""

    def __init__(self, ax: Axes) -> None:
        super().__init__(
            [], [], linestyle="none", marker=_TICK_LEFT, color=rcParams["ytick.color"],
            markersize=rcParams["ytick.minor.size"], transform=ax.get_yaxis_transform("tick1"),
            markeredgewidth=rcParams["ytick.minor.width"], zorder=ax.yaxis.get_zorder(),
        )  # fmt: skip
        self.set_clip_on(False)
        self.set_in_layout(False)
        self._axis = ax.yaxis
        self._locator = ax.yaxis.get_minor_locator()
        ax.yaxis.set_minor_locator(NullLocator())

    def draw(self, renderer: RendererBase) -> None:
        """Draw them for the present limits."""
        low, high = sorted(self._axis.get_view_interval())
        places = np.asarray(self._locator())
        places = places[(low <= places) & (places <= high)]
        self.set_data(np.zeros(len(places)), places)
        super().draw(renderer)


def value_scale(ax: Axes, axes: SiteAxes) -> None:
    """Give the x axis the scale and the ends of a site's values."""
    if axes.scale.constant is not None:
        functions = (axes.scale.forward, axes.scale.inverse)
        ax.set_xscale("function", functions=functions)
        most = 9 if style.page_format().is_narrow else 14
        ax.xaxis.set_major_locator(FixedLocator(symlog_ticks(axes, most)))
        ax.xaxis.set_major_formatter(FuncFormatter(_plain))
    ax.set_xlim(*axes.window)


def symlog_ticks(axes: SiteAxes, most: int) -> list[float]:
    """Return zero and powers of ten on both sides of a symmetric logarithmic axis.

    Powers are left out so that all ticks have the space that ``most`` of them would have.
    """
    assert axes.scale.constant is not None
    left, right = axes.scale.forward(axes.window)
    ticks = [0.0]
    for sign, end in ((-1, -axes.left), (1, axes.right)):
        last, power = 0.0, math.floor(math.log10(axes.scale.constant))
        while (tick := 10.0**power) <= end:
            place = float(axes.scale.forward(tick))
            if place - last >= (right - left) / most:
                ticks.append(sign * tick)
                last = place
            power += 1
    return sorted(ticks)


def _plain(value: float, _: object = None) -> str:
    """Format a power of ten or its negative."""
    if 1e-4 < abs(value) < 1e4 or not value:
        return f"{value:,g}".replace("-", "−")
    power = str(round(math.log10(abs(value)))).translate(_RAISED)
    return f"{'−' if value < 0 else ''}10{power}"


def share_x_labels(axes: Sequence[Axes], label: str) -> None:
    """Label the x axis of the last of several panels only."""
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=False)
    axes[-1].set_xlabel(label)


def fit_y(ax: Axes, values: NDArray[np.float64]) -> None:
    """Fit the y axis to finite values, from zero where they fill at least half of the panel then.

    Values that differ by little stay in the middle, and their differences small.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low == high == 0:
        ax.set_ylim(-1, 1)
        ax.set_yticks([0])
        return
    if 0 <= low <= high / 2:
        ax.set_ylim(0, 1.12 * high)
    else:
        spare = max(0.12 * (high - low), 0.05 * max(abs(low), abs(high)))
        ax.set_ylim(low - spare, high + spare)
    round_ticks(ax.yaxis)


def log_if_wide(ax: Axes, values: NDArray[np.float64], span: float = 30.0) -> bool:
    """Use a logarithmic y axis if the positive values span more than a factor; return whether."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size or positive.max() <= span * positive.min():
        return False
    log_y_scale(ax, float(positive.min()) / 1.5, float(positive.max()) * 1.5, "mask")
    plain_ticks(ax.yaxis)
    return True


def log_y_scale(ax: Axes, low: float, high: float, nonpositive: str) -> None:
    """Use a logarithmic y axis with these ends, with minor ticks that have no labels."""
    ax.set_yscale("log", nonpositive=nonpositive)
    ax.set_ylim(low, high)
    ax.add_artist(_MinorTicks(ax))


def plain_ticks(axis: Axis) -> None:
    """Format the ticks of a logarithmic axis as plain numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def percent_ticks(axis: Axis, symbol: str = " %") -> None:
    """Format ticks as percentages of 1."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=symbol))


def signed(value: float, _: object = None) -> str:
    """Format a difference for an axis, with its sign; zero has none."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most so many round numbers between two positive ones: powers of ten if possible."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > 1:
            break
    return ticks[:: -(-len(ticks) // most)] if ticks else [float(f"{math.sqrt(low * high):.2g}")]
