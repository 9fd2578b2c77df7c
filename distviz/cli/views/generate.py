"""Continuations on the terminal: the texts with ARM off and on, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from distviz.cli.views.console import encode, encode_lines, paragraph, plain_table, width_of
from distviz.output import counted, listed

if TYPE_CHECKING:
    from distviz.studies import Continuations


def summary(found: Continuations, console: Console | None = None) -> Group:
    """Return the prompt and both sides of every sample; the differing part is coloured."""
    manifest = found.manifest
    name = "ARM" if manifest["redistribution"] == "arm" else manifest["redistribution"]
    change = f"{name}: {manifest['arm']}, {listed('layer', manifest['settings']['arm_layers'])}"
    preset = manifest.get("preset")
    parts: list[RenderableType] = [
        Text(encode(f"{manifest['model']['name']} · {change}", console), style="bold"),
        paragraph(
            f"prompt ({counted(manifest['prompt_tokens'], 'token')}): {manifest['prompt']}", console
        ),
    ]
    if preset:
        parts.append(paragraph(f"{preset['name']}: {preset['evidence']}", console))
    parts += [Text(), _sides(found, name, console)]
    return Group(*parts, *(paragraph(line, console) for line in _findings(found)))


def _sides(found: Continuations, name: str, console: Console | None) -> Table:
    table = plain_table(console)
    width = (width_of(console) - 3) // 2
    for heading in (f"{name} off", f"{name} on"):
        table.add_column(heading, width=width, overflow="fold")
    for before, after in zip(found.before, found.after, strict=True):
        cut = _common_length(before, after)
        cells = [
            Text.assemble(
                encode_lines(text[:cut], console), (encode_lines(text[cut:], console), style)
            )
            for text, style in ((before, "blue"), (after, "yellow"))
        ]
        table.add_row(*cells, end_section=True)
    return table


def _common_length(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _equal_start(tokens: int) -> str:
    """Describe how many tokens at the start of two texts are equal."""
    return (
        f"the same for {counted(tokens, 'token')}" if tokens else "different from the first token"
    )


def _findings(found: Continuations) -> list[str]:
    pairs = zip(found.before, found.after, strict=True)
    equal = sum(first == second for first, second in pairs)
    if len(found.same) == 1:
        first = "the same text" if equal else _equal_start(found.same[0])
    else:
        first = f"{equal} of {counted(len(found.same), 'pair')} are the same text"
    shares = [found.diversity[side] for side in ("before", "after")]
    if None in shares:
        return [first]
    return [first, f"different 2-grams: {shares[0]:.1%} off, {shares[1]:.1%} on"]
