"""Continuations on the terminal: the texts with ARM off and on, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from distviz.cli.views.console import box_of, encode, encode_lines, paragraph, width_of
from distviz.output import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distviz.studies import Continuations

_BESIDE = 60
"""Columns from which both texts stand side by side."""


def summary(found: Continuations, console: Console | None = None) -> Group:
    """Return the prompt and both sides of every sample; the differing part is coloured."""
    manifest = found.manifest
    name = "ARM" if manifest["redistribution"] == "arm" else manifest["redistribution"]
    change = f"{name}: {manifest['arm']}, {listed('layer', manifest['settings']['arm_layers'])}"
    preset = manifest.get("preset")
    parts: list[RenderableType] = [
        paragraph(f"{manifest['model']['name']} · {change}", console, style="bold"),
        paragraph(
            f"prompt ({counted(manifest['prompt_tokens'], 'token')}): {manifest['prompt']}", console
        ),
    ]
    if preset:
        parts.append(paragraph(f"{preset['name']}: {preset['evidence']}", console))
    parts += [Text(), *_sides(found, name, console)]
    return Group(*parts, *(paragraph(line, console) for line in _findings(found)))


def _sides(found: Continuations, name: str, console: Console | None) -> Iterator[RenderableType]:
    """Yield both texts of every sample: side by side, or below one another if narrow."""
    pairs = [
        [
            Text.assemble(
                encode_lines(text[:cut], console), (encode_lines(text[cut:], console), style)
            )
            for text, style in ((before, "blue"), (after, "yellow"))
        ]
        for before, after in zip(found.before, found.after, strict=True)
        for cut in (_common_length(before, after),)
    ]
    titles = [f"{name} off", f"{name} on"]
    if width_of(console) < _BESIDE:
        for pair in pairs:
            for title, text in zip(titles, pair, strict=True):
                yield from (Text(encode(title, console), style="bold"), text, Text())
        return
    table = Table(box=box_of(console), padding=(0, 1, 0, 0), pad_edge=False)
    for title in titles:
        table.add_column(title, width=(width_of(console) - 3) // 2, overflow="fold")
    for pair in pairs:
        table.add_row(*pair, end_section=True)
    yield table


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
