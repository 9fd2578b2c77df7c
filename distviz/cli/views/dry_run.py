"""A plan on the terminal: what would be read, done and taken, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.text import Text

from distviz.cli.dry_run import Estimate
from distviz.cli.views.console import paragraph
from distviz.sites import join_layers

if TYPE_CHECKING:
    from distviz.cli.estimate import Measurement

__all__ = ["count", "duration", "plan", "size"]

_INDENT = 10
_PARTS = {"start": "start", "load": "load", "forward": "passes", "counting": "counting"} | {
    "redistribution": "ARM",
    "effect": "effect on the output",
    "figures": "figures",
}


def plan(found: Estimate, console: Console | None = None) -> Group:
    """Return a plan as lines no wider than the console."""
    head = f"distviz {found.command}: a dry run, no weights were read and nothing was measured"
    parts: list[Any] = [paragraph(head, console, style="bold")]
    for title, one in found.measurements.items():
        name = f"{title}: {one.model['name']}" if title else str(one.model["name"])
        parts.append(Text())
        parts += [paragraph(f"{name} · {_described(one)}", console, style="bold")]
        parts += [_line(word, text, console) for word, text in _measurement(one)]
    parts.append(Text())
    parts += [_line("ready", f"{name} is measured already", console) for name in found.ready]
    parts += [_line(word, text, console) for word, text in _totals(found)]
    return Group(*parts)


def _line(word: str, text: str, console: Console | None) -> Text:
    line = paragraph(f"{word:<{_INDENT}}{text}", console, indent=_INDENT)
    line.stylize("dim", 0, _INDENT)
    return line


def _described(one: Measurement) -> str:
    model = one.model
    parameters = count(float(model["parameters"]))
    stored = f", {model['quantization']}" if model.get("quantization") else ""
    return (
        f"{model['architecture']} · {model['layers']} layers · {parameters} parameters · "
        f"{model['dtype']}{stored} · {model['device']}"
    )


def _measurement(one: Measurement) -> Iterator[tuple[str, str]]:
    yield "reads", _files(one)
    places = one.places
    yield "observes", f"{', '.join(places['sites'])} in layers {places['layers']}"
    if places["arm_layers"]:
        how = "" if places["ripple"] else ", computed beside the untouched pass"
        several = "s" * (len(places["arm_layers"]) > 1)
        yield "ARM", f"in layer{several} {join_layers(places['arm_layers'])}{how}"
    text = one.text
    cut = ", cut by --max-tokens" if text["truncated"] else ""
    numbers = ", ".join(f"{text[name]:,} {name}" for name in ("documents", "windows", "tokens"))
    yield "text", f"{numbers} in {text['batches']:,} batches{cut}"
    how = ", layer by layer" if places["streamed"] else ""
    if one.processes > 1:
        yield "shared", f"among {one.processes} processes, each on its own run of the batches"
    yield "passes", f"{one.passes:,.3g}{how}; {one.operations / 1e12:,.3g} TFLOP"
    times = (f"{_PARTS[name]} {duration(s)}" for name, s in one.seconds.items() if s >= 0.05)
    yield "time", ", ".join(times)
    held = (f"{name} {size(n)}" for name, n in one.memory_bytes.items() if n)
    yield "memory", ", ".join(held)


def _files(one: Measurement) -> str:
    if not one.files:
        return "nothing: random weights"
    first = next(iter(one.files))
    names = first if len(one.files) == 1 else f"{len(one.files)} files"
    part = "" if one.places["reads_all"] else ", what the measurement needs"
    return f"{size(sum(one.files.values()))} of {names}{part}"


def _totals(found: Estimate) -> Iterator[tuple[str, str]]:
    low, high = found.seconds
    yield "in all", f"about {duration(low)} to {duration(high)} on this machine, as busy as it is"
    several = f" in each of {found.processes} processes" if found.processes > 1 else ""
    free = f"{several} ({size(found.free_bytes)} are free)"
    libraries = size(found.library_bytes)
    yield "", f"{size(found.memory_bytes)} of memory beside {libraries} of libraries{free}"
    yield "", f"{size(found.disk_bytes)} in {found.out}"


def duration(seconds: float) -> str:
    """``"0.4 s"``, ``"12 s"``, ``"3 min"``, ``"5.2 h"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """``"850 KB"``, ``"12 MB"``, ``"3.4 GB"``; powers of ten."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if n_bytes >= 0.995 * scale:
            number = n_bytes / scale
            return f"{number:,.1f} {unit}" if number < 9.95 else f"{number:,.0f} {unit}"
    return f"{n_bytes:.0f} bytes"


def count(number: float) -> str:
    """``"135 M"``, ``"1.7 B"``."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= 0.995 * scale:
            scaled = number / scale
            return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:.0f} {unit}"
    return f"{number:.0f}"
