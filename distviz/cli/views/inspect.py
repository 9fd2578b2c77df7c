"""A decoder layer as a diagram with its hook points; the table of supported architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from distviz.cli.views.console import encode, is_unicode
from distviz.models.architectures import Architecture, Architectures, Mlp
from distviz.output import counted, visible
from distviz.plots import layer_lines
from distviz.sites import SITES, LayerOrder
from distviz.studies import Inspection

_FRAMES = str.maketrans("┌└├┬┴┼─│┐┘┤×", "++++++-|+++x")


def layer_diagram(
    mlp: Mlp, *, has_rope: bool, order: LayerOrder | None = None, ascii_only: bool = False
) -> Text:
    """Draw one layer from input to output, at most 78 columns wide.

    Sites that can be observed are in brackets; a site that this architecture lacks is a plain
    line. Without an order, norms are drawn where most architectures have them.
    """
    offered = {point.site for point in mlp.points}
    lines = layer_lines(offered, mlp.activation, gated=mlp.gated, has_rope=has_rope, order=order)
    drawing = "\n".join(lines)
    text = Text(drawing.translate(_FRAMES) if ascii_only else drawing, no_wrap=True)
    text.highlight_regex(r"\[(" + "|".join(SITES) + r")\]", "bold cyan")
    text.highlight_regex(r"\bARM\b", "bold yellow")
    return text


def inspection(found: Inspection, console: Console) -> Group:
    """Return the title of a layer, its diagram and the table of its hook points."""
    details = found.details
    ascii_only = not is_unicode(console)
    others = [layer for layer in found.alike if layer != found.layer]
    first = " (first)" if found.layer == 0 else ""
    title = f"{details['architecture']}, {found.mlps[0].stack} layer {found.layer}{first}"
    counts = ", ".join(counted(count, f"{stack} layer") for stack, count in found.stacks.items())
    parts: list[Any] = [Text(encode(title, console), style="bold")]
    has = "has" if len(others) == 1 else "have"
    alike = f"; {counted(len(others), 'other')} {has} the same structure" if others else ""
    parts.append(Text(f"{counts}{alike}", style="dim"))
    how: Any = {"has_rope": found.has_rope, "order": found.order, "ascii_only": ascii_only}
    for mlp in found.mlps:
        parts += ["", layer_diagram(mlp, **how)]
    if found.order is None:
        parts.append(Text("norms and additions are drawn as most models have them", style="dim"))
    parts += ["", _points_table(found)]
    return Group(*parts)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _points_table(found: Inspection) -> Table:
    table = _table("site", "channels", "module")
    table.columns[1].justify = "right"
    points = dict.fromkeys(point for mlp in found.mlps for point in mlp.points)
    for site in SITES:
        for point in points:
            if point.site == site:
                width = found.widths.get(point)
                module = f"{point.takes} of {point.module}"
                table.add_row(Text(site, style="cyan"), f"{width or ''}", visible(module))
    return table


def architectures(known: Architectures) -> Group:
    """Return the supported types, causal language models first, and why others are not."""
    parts: list[Any] = []
    groups = (("causal language models", True), ("other types that AutoModel opens", False))
    for title, causal in groups:
        rows = known.group(causal=causal)
        supported = [row for row in rows if row.status == "supported"]
        heading = f"{title}: {len(supported)} of {len(rows)} supported"
        parts += [Text(heading, style="bold"), _supported(supported), ""]
        parts += [_exceptions([row for row in rows if row.status != "supported"]), ""]
    note = (
        f"Examined with transformers {known.transformers}. Found by: class or name of a module; "
        "function called in the MLP's forward; gate of fused experts without an activation "
        "module. Where: below the layer; * is every expert."
    )
    return Group(*parts, Text(note, style="dim"))


def _supported(rows: Sequence[Architecture]) -> Table:
    table = _table("type", "activation", "found by", "form", "where", "not offered")
    for row in rows:
        missing = [site for site in SITES if site not in row.sites]
        form = ["gated" if row.gated else "plain"] + (["routed"] if row.routed else [])
        table.add_row(
            Text.assemble((row.type, "cyan"), f" (needs {row.needs})" if row.needs else ""),
            ", ".join(row.activation),
            ", ".join(row.found),
            ", ".join(form),
            "\n".join(dict.fromkeys(path.partition(".N.")[2] or path for path in row.where)),
            ", ".join(missing),
        )
    return table


def _exceptions(rows: Sequence[Architecture]) -> Table:
    table = _table("not supported", "status", "reason")
    for row in rows:
        table.add_row(Text(row.type, style="cyan"), row.status, Text(row.explanation))
    return table
