"""The decoder layer as a drawing, with every point that can be observed."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from distviz.cli.views.plain_text import is_unicode_name
from distviz.models.architectures import Mlp
from distviz.plots import layer_lines
from distviz.sites import SITES
from distviz.studies import Inspection

__all__ = ["inspection", "layer_diagram"]

_ASCII = str.maketrans("┌└├┬┼─│┐┘┤×", "+++++-|+++x")


def layer_diagram(mlp: Mlp, *, has_rope: bool, ascii_only: bool = False) -> Text:
    """Draw one layer from its input down to its output, at most 78 columns wide.

    Places that can be observed stand in brackets; one that this architecture does not offer is
    drawn as a plain line. Norms are drawn where most architectures have them.
    """
    offered = {point.site for point in mlp.points}
    lines = layer_lines(offered, mlp.activation, gated=mlp.gated, has_rope=has_rope)
    drawing = "\n".join(lines)
    text = Text(drawing.translate(_ASCII) if ascii_only else drawing, no_wrap=True)
    text.highlight_regex(r"\[(" + "|".join(SITES) + r")\]", "bold cyan")
    text.highlight_regex(r"\bARM\b", "bold yellow")
    return text


def inspection(found: Inspection, console: Console) -> Group:
    """Show a layer: title, drawing and the table of its points."""
    details = found.details
    ascii_only = not is_unicode_name(console.encoding)
    others = [layer for layer in found.alike if layer != found.layer]
    first = " (first)" if found.layer == 0 else ""
    title = f"{details['architecture']}, {found.mlps[0].stack} layer {found.layer}{first}"
    counts = ", ".join(f"{count} {stack} layers" for stack, count in found.stacks.items())
    parts: list[Any] = [Text(title, style="bold")]
    parts.append(Text(f"{counts}; {len(others)} others are built alike", style="dim"))
    for mlp in found.mlps:
        parts += ["", layer_diagram(mlp, has_rope=found.has_rope, ascii_only=ascii_only)]
    parts += ["", _points_table(found)]
    return Group(*parts)


def _points_table(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("site", "channels", "module"):
        table.add_column(title, justify="right" if title == "channels" else "left")
    table.columns[2].overflow = "fold"
    points = dict.fromkeys(point for mlp in found.mlps for point in mlp.points)
    for site in SITES:
        for point in points:
            if point.site == site:
                width = found.widths.get(point)
                module = f"{point.takes} of {point.module}"
                table.add_row(f"[cyan]{site}[/cyan]", f"{width or ''}", module)
    return table
