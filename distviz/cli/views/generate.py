"""Continuations on the terminal: what was written with ARM off and on, side by side, by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from distviz.cli.views.console import paragraph, plain_table, write

if TYPE_CHECKING:
    from distviz.studies import Continuations

__all__ = ["summary"]


def summary(found: Continuations, console: Console | None = None) -> Group:
    """Return the prompt and both sides of every sample; what differs stands out.

    Parameters
    ----------
    found
        What was written.
    console
        Where it will be printed: its width and encoding decide what is shown; None means a
        standard terminal of 80 columns.
    """
    manifest = found.manifest
    name = "ARM" if manifest["redistribution"] == "arm" else manifest["redistribution"]
    acting = f"{name}: {manifest['arm']}, layers {manifest['settings']['arm_layers']}"
    proposed = filter(None, [manifest.get("preset")])
    parts: list[RenderableType] = [
        Text(write(f"{manifest['model']['name']} · {acting}", console), style="bold"),
        paragraph(f"prompt ({manifest['prompt_tokens']} tokens): {manifest['prompt']}", console),
        *(paragraph(f"{preset['name']}: {preset['evidence']}", console) for preset in proposed),
        Text(),
        _sides(found, name, console),
        *(paragraph(line, console) for line in _findings(found)),
    ]
    return Group(*parts)


def _sides(found: Continuations, name: str, console: Console | None) -> Table:
    table = plain_table(console)
    width = ((console.width if console else 80) - 3) // 2
    for heading in (f"{name} off", f"{name} on"):
        table.add_column(heading, width=width, overflow="fold")
    for before, after in zip(found.before, found.after, strict=True):
        cut = _common(before, after)
        cells = [
            Text.assemble(write(text[:cut], console), (write(text[cut:], console), style))
            for text, style in ((before, "blue"), (after, "yellow"))
        ]
        table.add_row(*cells, end_section=True)
    return table


def _common(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _findings(found: Continuations) -> list[str]:
    pairs = zip(found.before, found.after, strict=True)
    equal = sum(first == second for first, second in pairs)
    if len(found.same) == 1:
        first = "the same text" if equal else f"the same for {found.same[0]} tokens"
    else:
        first = f"{equal} of {len(found.same)} pairs are the same text"
    shares = [found.diversity[side] for side in ("before", "after")]
    if None in shares:
        return [first]
    return [first, f"different 2-grams: {shares[0]:.1%} off, {shares[1]:.1%} on"]
