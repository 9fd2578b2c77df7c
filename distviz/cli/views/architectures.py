"""The supported architectures as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distviz.models.architectures import Architecture, Architectures
from distviz.sites import SITES

__all__ = ["architectures"]

_WAYS = (
    "Found by: class or name of a module; function called in the MLP's forward; gate of fused "
    "experts without an activation module. Where: below the layer; * stands for every expert."
)


def architectures(known: Architectures) -> Group:
    """Show what is supported, causal language models first, then why the rest is not."""
    parts: list[Any] = []
    groups = (("causal language models", True), ("other types that AutoModel opens", False))
    for title, causal in groups:
        rows = known.group(causal=causal)
        supported = [row for row in rows if row.status == "supported"]
        heading = f"{title}: {len(supported)} of {len(rows)} supported"
        parts += [Text(heading, style="bold"), _supported(supported), ""]
        parts += [_exceptions([row for row in rows if row.status != "supported"]), ""]
    note = f"Examined with transformers {known.transformers}. {_WAYS}"
    return Group(*parts, Text(note, style="dim"))


def _supported(rows: Sequence[Architecture]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("type", "activation", "found by", "form", "where", "not offered"):
        table.add_column(title, overflow="fold")
    for row in rows:
        missing = [site for site in SITES if site not in row.sites]
        form = ["gated" if row.gated else "plain"] + (["routed"] if row.routed else [])
        table.add_row(
            f"[cyan]{row.type}[/cyan]" + (f" (needs {row.needs})" if row.needs else ""),
            ", ".join(row.activation),
            ", ".join(row.found),
            ", ".join(form),
            "\n".join(dict.fromkeys(path.partition(".N.")[2] or path for path in row.where)),
            ", ".join(missing),
        )
    return table


def _exceptions(rows: Sequence[Architecture]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("not supported", "status", "reason"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(f"[cyan]{row.type}[/cyan]", row.status, Text(row.explanation))
    return table
