"""The decoder layer as a drawing, with every point that can be observed."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from distviz.inspection import Inspection
from distviz.mlp import Mlp
from distviz.sites import SITES

__all__ = ["inspection", "layer_diagram"]

_ASCII = str.maketrans("┌└├┬┼─│┐┘┤×", "+++++-|+++x")


def layer_diagram(mlp: Mlp, *, has_rope: bool, ascii_only: bool = False) -> Text:
    """Draw one layer from its input down to its output, at most 78 columns wide.

    Places that can be observed stand in brackets; one that this architecture does not offer is
    drawn as a plain line. Norms are drawn where most architectures have them.
    """
    offered = {point.site for point in mlp.points}
    lines = [" hidden", *_attention_lines(offered, has_rope), *_mlp_lines(mlp, offered), "   │"]
    lines.append("   " + _slot("residual", offered).strip("─"))
    drawing = "\n".join(lines)
    text = Text(drawing.translate(_ASCII) if ascii_only else drawing, no_wrap=True)
    text.highlight_regex(r"\[(" + "|".join(SITES) + r")\]", "bold cyan")
    text.highlight_regex(r"\bARM\b", "bold yellow")
    return text


def _slot(site: str, offered: set[str]) -> str:
    return f"─[{site}]─" if site in offered else "─" * (len(site) + 4)


def _attention_lines(offered: set[str], has_rope: bool) -> list[str]:
    turns = {"q": " RoPE ", "k": " RoPE ", "v": "──────"} if has_rope else dict.fromkeys("qkv", "─")
    heads = [f" {site.upper()} {_slot(site, offered)}{turns[site]}─" for site in "qkv"]
    behind = f" attention {_slot('attention', offered)} output "
    middle = f"   │        ├─{heads[1]}┼─{behind}─┐"
    end = len(middle) - 1
    return [
        f"   ├─ norm ─┬─{heads[0]}┐".ljust(end),
        middle,
        f"   │        └─{heads[2]}┘".ljust(end) + "│",
        "  (+)".ljust(end, "─") + "┘",
    ]


def _mlp_lines(mlp: Mlp, offered: set[str]) -> list[str]:
    name = "gate" if mlp.gated else "up"
    first = f" {name} {_slot('gate', offered)} {mlp.activation} {_slot('act', offered)} ARM "
    behind = f"{_slot('product', offered)} down {_slot('down', offered)}"
    if not mlp.gated:
        middle = [f"   ├─ norm ───{first}{behind}┐"]
    else:
        up = f" up {_slot('up', offered)}".ljust(len(first), "─")
        middle = [f"   ├─ norm ─┬─{first}─┐", f"   │        └─{up}(×){behind}┐"]
    end = len(middle[-1]) - 1
    return [*middle, "  (+)".ljust(end, "─") + "┘"]


def inspection(found: Inspection, console: Console) -> Group:
    """Show a layer: title, drawing and the table of its points."""
    details = found.details
    ascii_only = not (console.encoding or "").lower().startswith("utf")
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
