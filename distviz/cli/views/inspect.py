"""A decoder layer as a diagram with its hook points; the table of supported architectures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from distviz.cli.views.console import Column, FittedTable, is_unicode, paragraph
from distviz.models.architectures import Architecture, Architectures, Mlp
from distviz.output import counted
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
    parts: list[Any] = [paragraph(title, console, style="bold")]
    has = "has" if len(others) == 1 else "have"
    alike = f"; {counted(len(others), 'other')} {has} the same structure" if others else ""
    parts.append(paragraph(f"{counts}{alike}", console, style="dim"))
    how: Any = {"has_rope": found.has_rope, "order": found.order, "ascii_only": ascii_only}
    for mlp in found.mlps:
        parts += ["", layer_diagram(mlp, **how)]
    if found.order is None:
        note = "norms and additions are drawn as most models have them"
        parts.append(paragraph(note, console, style="dim"))
    parts += ["", _points_table(found)]
    return Group(*parts)


def _points_table(found: Inspection) -> FittedTable:
    table = FittedTable(
        [Column("site", kind="text"), Column("channels", drop=1), Column("module", kind="name")]
    )
    points = dict.fromkeys(point for mlp in found.mlps for point in mlp.points)
    for site in SITES:
        for point in points:
            if point.site == site:
                width = found.widths.get(point)
                table.add_row([site, f"{width or ''}", f"{point.takes} of {point.module}"])
    return table


def architectures(known: Architectures, console: Console | None = None) -> Group:
    """Return the supported types, causal language models first, and why others are not."""
    parts: list[Any] = []
    groups = (("causal language models", True), ("other types that AutoModel opens", False))
    for title, causal in groups:
        rows = known.group(causal=causal)
        supported = [row for row in rows if row.status == "supported"]
        heading = f"{title}: {len(supported)} of {len(rows)} supported"
        parts += [Text(heading, style="bold"), _supported(supported), ""]
        others = [row for row in rows if row.status != "supported"]
        parts += [*_exceptions(others, console), ""]
    note = (
        f"Examined with transformers {known.transformers}. Found by: class or name of a module; "
        "function called in the MLP's forward; gate of fused experts without an activation "
        "module. Where: below the layer; * is every expert."
    )
    return Group(*parts, paragraph(note, console, style="dim"))


def _supported(rows: Sequence[Architecture]) -> FittedTable:
    table = FittedTable(
        [
            Column("type", kind="text"),
            Column("activation", kind="text"),
            Column("found by", drop=2, kind="text"),
            Column("form", drop=1, kind="text"),
            Column("where", kind="name"),
            Column("not offered", drop=3, kind="text"),
        ]
    )
    for row in rows:
        missing = [site for site in SITES if site not in row.sites]
        form = ["gated" if row.gated else "plain"] + (["routed"] if row.routed else [])
        needs = f" (needs {row.needs})" if row.needs else ""
        words = (row.activation, row.found, form)
        cells = [row.type + needs, *map(", ".join, words)]
        where = dict.fromkeys(path.partition(".N.")[2] or path for path in row.where)
        for path in where:
            table.add_row([*cells, path, ", ".join(missing) if any(cells) else ""])
            cells = [""] * len(cells)
    return table


def _exceptions(rows: Sequence[Architecture], console: Console | None) -> Iterator[Text]:
    """Yield the types that are not supported, each with its reason."""
    for row in rows:
        yield paragraph(f"{row.type}: {row.status}, {row.explanation}", console, indent=2)
