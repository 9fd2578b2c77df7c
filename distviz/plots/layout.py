"""Layout of figures: the heading, Matplotlib's constrained layout below it, legends, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import ScaledTranslation

from distviz.plots import style
from distviz.plots.scales import log_ticks
from distviz.plots.style import shortened, text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.legend import Legend

EDGE = 0.15
"""Inches left free beside a heading."""
SIDE_COLORS = {"A": style.LINE["before"], "B": style.LINE["after"]}
"""Colours of the two sides of a comparison."""
_LEAD = 0.22
_LONGEST_NAME = 52
_LINE_SPACING = 1.35
_LINE_PITCH = 1.28
"""Distance between the lines of a paragraph, in font sizes; follows from the line spacing."""
_LEGEND_PITCH = 1.55
_LEGEND_HANDLE = 3.9
"""Width of the handle and spacing of a legend's entry, in font sizes."""
_BELOW_HEADING = 0.12
_ABOVE = "legend-above"


@dataclass(frozen=True)
class Line:
    """A paragraph of a heading.

    Attributes
    ----------
    text
        Paragraphs without text are left out.
    kind
        A size of `style.PageFormat`.
    color, weight, gid
        Passed to Matplotlib.
    lead
        Printed before the paragraph, which is then indented.
    """

    text: str
    kind: str = "caption"
    color: str = style.MUTED
    weight: str = "normal"
    gid: str | None = None
    lead: str = ""

    @classmethod
    def title(cls, text: str) -> Line:
        """Return the first paragraph: what was measured."""
        return cls(text, "title", style.INK, "bold")


class Heading:
    """Paragraphs at the top of a figure, broken into lines at its width in inches.

    Attributes
    ----------
    width
        Of the figure, in inches.
    height
        Inches from the top of the figure to the last base line.
    """

    def __init__(self, lines: Sequence[Line], width: float) -> None:
        self.width = width
        self.height = 0.09
        self._placed: list[tuple[float, str, Line]] = []
        for line in lines:
            if not line.text:
                continue
            points = style.size(line.kind)
            free = width - 2 * EDGE - (_LEAD if line.lead else 0.0)
            text = wrapped(line.text, free, points, line.weight)
            self.height += 1.35 * points / 72 + 0.05 if self._placed else points / 72
            self.height += (len(text) - 1) * _LINE_PITCH * points / 72
            # Matplotlib places a paragraph by the base line of its last line.
            self._placed.append((self.height, "\n".join(text), line))

    def write(self, figure: Figure) -> None:
        """Write the paragraphs."""
        height = figure.get_figheight()
        for down, text, line in self._placed:
            points, left, y = style.size(line.kind), EDGE, 1 - down / height
            look: dict[str, Any] = {"fontsize": points, "color": line.color, "weight": line.weight}
            if line.lead:
                first = text.count("\n") * _LINE_PITCH * points / 72 / height
                figure.text(left / self.width, y + first, line.lead, **look)
                left += _LEAD
            figure.text(left / self.width, y, text, gid=line.gid, linespacing=_LINE_SPACING, **look)


def titled(width: float, title: str, *captions: str) -> Heading:
    """Return a heading with a title and plain captions."""
    return Heading([Line.title(title), *map(Line, captions)], width)


def side_heading(names: tuple[str, str], captions: Sequence[Line], width: float) -> Heading:
    """Return the heading of a comparison: both names in their colours, and captions."""
    lines = []
    for side, name in zip(SIDE_COLORS, names, strict=True):
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:33]}…{name[-18:]}"
        shown = shortened(shown, width - 2 * EDGE - _LEAD, style.size("side"), "bold")
        lines.append(Line(shown, "side", SIDE_COLORS[side], "bold", gid="side", lead=side))
    return Heading([*lines, *captions], width)


def grid(width: float, heights: Sequence[float], columns: int = 1) -> tuple[Figure, GridSpec]:
    """Return a figure with constrained layout and its grid; rows have heights in inches.

    The figure has its size when `arrange` was called.
    """
    engine = ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05, hspace=0.0, wspace=0.0)
    figure = Figure(figsize=(width, 2.0 + 1.6 * sum(heights)), layout=engine)
    return figure, figure.add_gridspec(len(heights), columns, height_ratios=list(heights))


def stacked(width: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with constrained layout and panels below each other."""
    figure, cells = grid(width, heights)
    return figure, [figure.add_subplot(cells[row]) for row in range(len(heights))]


def arrange(figure: Figure, heading: Heading, heights: Sequence[float]) -> None:
    """Lay out the panels of a `grid` below a heading, and fix the result.

    The figure becomes as high as rows of these heights in inches need; titles are broken at the
    width of their panels. Figure legends must be "outside" ones.
    """
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    specs = [(ax.get_subplotspec(), ax) for ax in figure.axes]
    rows = {spec.rowspan.start: ax for spec, ax in specs if spec is not None}
    figure.set_figheight(figure.get_figheight() + heading.height)
    edge, margin = EDGE / heading.width, 0.03 if style.page_format().is_narrow else 0.06
    for _ in range(4):
        height = figure.get_figheight()
        free = height - heading.height - _BELOW_HEADING
        side = margin / heading.width
        engine.set(rect=(side, margin / height, 1 - 2 * side, (free - margin) / height))
        engine.execute(figure)
        broken = [panel_title(ax, ax.get_title(loc="left")) for spec, ax in specs if spec]
        missing = sum(heights) - sum(ax.get_position().height * height for ax in rows.values())
        if abs(missing) < 0.005 and not any(broken):
            break
        figure.set_figheight(round(height + missing, 4))
    for legend in figure.legends:
        box = (edge, margin / height, 1 - 2 * edge, (free - margin) / height)
        legend.set_bbox_to_anchor(box, figure.transFigure)
    figure.set_layout_engine("none")
    for ax in figure.axes:
        # The solver of constrained layout is not deterministic in the last digits.
        x, y, across, up = (round(float(part), 5) for part in ax.get_position(original=True).bounds)
        ax.set_position((x, y, across, up))
    heading.write(figure)


def panel_title(ax: Axes, text: str) -> bool:
    """Set the title of a panel, broken into lines at its width; return whether it changed."""
    lines = wrapped(text.replace("\n", " "), width_of(ax), style.size("panel"))
    changed = "\n".join(lines) != ax.get_title(loc="left")
    if changed:
        ax.set_title("\n".join(lines), loc="left", pad=3)
        legend = ax.get_legend()
        if legend is not None and legend.get_gid() == _ABOVE:
            _place_above(ax, legend)
    return changed


def width_of(ax: Axes) -> float:
    """Return the width of a panel in inches."""
    return float(ax.get_position().width * style.figure_of(ax).get_figwidth())


def legend_look(**look: Any) -> dict[str, Any]:
    """Return the spacing of legends, in font sizes."""
    return {"handlelength": 1.6, "columnspacing": 1.2, "borderaxespad": 0.1, "borderpad": 0} | look


def legend_above(ax: Axes, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Put a legend beside the title of a panel; above it where it does not fit there.

    The panel must have its title.
    """
    title, page_width = ax.get_title(loc="left"), style.figure_of(ax).get_figwidth()
    unique = dict(zip(labels, handles, strict=True))
    labels, handles = list(unique), list(unique.values())
    widest = max(text_width(line, style.size("panel")) for line in title.split("\n"))
    fits = _columns(labels, page_width - 0.9 - widest) == len(labels)
    if title and not style.page_format().is_narrow and fits:
        ax.legend(
            handles, labels, loc="lower right", ncols=len(labels), bbox_to_anchor=(1.0, 1.0),
            **legend_look(columnspacing=1.4, borderpad=0.4),
        )  # fmt: skip
        return
    columns = _columns(labels, page_width - 0.9)
    legend = ax.legend(handles, labels, loc="lower left", ncols=columns, **legend_look())
    legend.set_gid(_ABOVE)
    _place_above(ax, legend)


def _place_above(ax: Axes, legend: Legend) -> None:
    """Put a legend above the lines of the title of its panel."""
    title = ax.get_title(loc="left")
    lines = title.count("\n") + 1 if title else 0
    lift = (1.3 * lines * style.size("panel") + 3) / 72
    moved = ScaledTranslation(0, lift, style.figure_of(ax).dpi_scale_trans)
    legend.set_bbox_to_anchor((0.0, 1.0), ax.transAxes + moved)


def legend_in_figure(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], loc: Any
) -> None:
    """Put a legend into the figure, in as many columns as its width allows."""
    if handles:
        columns = _columns(labels, figure.get_figwidth() - EDGE - 0.1)
        figure.legend(handles, labels, loc=loc, ncols=columns, **legend_look())


def legend_height(labels: Sequence[str], width: float) -> float:
    """Return the height of a legend in inches, if it has a width in inches."""
    if not labels:
        return 0.0
    return -(-len(labels) // _columns(labels, width)) * _LEGEND_PITCH * style.size("tick") / 72


def _columns(labels: Sequence[str], width: float) -> int:
    """Return the number of legend columns that fit a width in inches."""
    points = style.size("tick")
    widths = [text_width(label, points) + _LEGEND_HANDLE * points / 72 for label in labels]
    for columns in range(len(labels), 1, -1):
        # Matplotlib fills column after column, the first ones with one entry more.
        rows, longer = divmod(len(labels), columns)
        ends = [rows * index + min(index, longer) for index in range(columns + 1)]
        if sum(max(widths[a:b]) for a, b in pairwise(ends)) <= width:
            return columns
    return 1


def color_scale(ax: Axes, image: ScalarMappable) -> None:
    """Put the colour scale beside a panel of a `grid`."""
    bar = style.figure_of(ax).colorbar(image, ax=ax, fraction=0.03, pad=0.01, aspect=12)
    if isinstance(image.norm, LogNorm):
        ticks = log_ticks(*image.get_clim())
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        bar.minorticks_off()
    bar.outline.set_visible(False)


def thinned(ax: Axes, labels: Sequence[str]) -> list[str]:
    """Return the labels of equally spaced ticks, with some left out so that none touch."""
    points = style.size("tick")
    parts = [part for label in labels for part in label.split("\n")]
    widest = max((text_width(part, points) for part in parts), default=0.0)
    each = width_of(ax) / max(len(labels), 1)
    step = max(1, int(-(-(widest + 0.5 * points / 72) // each)))
    return [label if index % step == 0 else "" for index, label in enumerate(labels)]


def renderer_of(figure: Figure) -> RendererAgg:
    """Return what measures the artists of a figure."""
    renderer: RendererAgg = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    return renderer
