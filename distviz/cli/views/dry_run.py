"""The estimate of a dry run on the terminal, one line per fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from distviz.cli.dry_run import DryRun, Estimate
from distviz.cli.views.console import paragraph
from distviz.output import counted, listed
from distviz.sites import join_layers

_INDENT = 10


def summary(found: DryRun, console: Console | None = None) -> Group:
    """Return the estimate as lines no wider than the console."""
    head = f"distviz {found.command}: dry run, no weights loaded, nothing measured"
    parts: list[Any] = [paragraph(head, console, style="bold")]
    for side, one in found.measurements.items():
        name = f"{side}: {one.model['name']}" if side else str(one.model["name"])
        parts += [Text(), paragraph(f"{name} · {_model(one.model)}", console, style="bold")]
        parts += [_line(word, text, console) for word, text in _measurement(one)]
    parts.append(Text())
    parts += [_line("ready", f"{name} is measured already", console) for name in found.ready]
    parts += [_line(word, text, console) for word, text in _totals(found.as_dict())]
    return Group(*parts)


def _line(word: str, text: str, console: Console | None) -> Text:
    line = paragraph(f"{word:<{_INDENT}}{text}", console, indent=_INDENT)
    line.stylize("dim", 0, _INDENT)
    return line


def _model(model: dict[str, Any]) -> str:
    parameters = count(float(model["parameters"]))
    stored = f", {model['quantization']}" if model.get("quantization") else ""
    return (
        f"{model['architecture']} · {counted(model['layers'], 'layer')} · "
        f"{counted(parameters, 'parameter')} · "
        f"{model['dtype']}{stored} · {model['device']}"
    )


def _measurement(one: Estimate) -> Iterator[tuple[str, str]]:
    yield "reads", _files(one)
    yield "observes", f"{', '.join(one.sites)} in {listed('layer', one.layers)}"
    if one.arm_layers:
        how = "" if one.ripple else ", not passed on to later layers"
        yield "ARM", f"in {listed('layer', join_layers(one.arm_layers))}{how}"
    text = one.text
    cut = ", cut by --max-tokens" if text["truncated"] else ""
    numbers = ", ".join(counted(text[f"{noun}s"], noun) for noun in ("document", "window", "token"))
    yield "text", f"{numbers} in {counted(text['batches'], 'batch')}{cut}"
    if one.processes > 1:
        yield "processes", f"{one.processes}, each with its own share of the batches"
    how = ", layer by layer" if one.streamed else ""
    yield "passes", f"{one.passes:,.3g}{how}; {one.operations / 1e12:,.3g} TFLOP"
    held = [(name.replace("_", " "), n) for name, n in one.memory_bytes.items() if name != "total"]
    yield "memory", ", ".join(f"{name} {size(n)}" for name, n in held if n)


def _files(one: Estimate) -> str:
    if not one.files:
        return "nothing: random weights"
    names = one.files[0]["name"] if len(one.files) == 1 else counted(len(one.files), "file")
    part = "" if one.reads_all else ", what the measurement needs"
    return f"{size(one.bytes_read)} of {names}{part}"


def _totals(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    several = (
        f" in each of {counted(found['processes'], 'process')}" if found["processes"] > 1 else ""
    )
    libraries = size(found["library_bytes"])
    models = found["models_in_memory"]
    both = f" for {counted(models, 'model')} at a time" if models > 1 else ""
    memory = f"{size(found['memory_bytes'])} of memory{both} and {libraries} for libraries{several}"
    yield "total", f"{memory} ({size(found['free_bytes'])} are free)"
    yield "", f"{size(found['disk_bytes'])} in {found['folder']}"
    if found["temporary_bytes"]:
        place = found["temporary_folder"]
        yield "", f"{size(found['temporary_bytes'])} in temporary files in {place} meanwhile"


def size(n_bytes: float) -> str:
    """``"850 KB"``, ``"12 MB"``, ``"3.4 GB"``; powers of ten."""
    return _scaled(n_bytes, ("GB", "MB", "KB"), "bytes")


def count(number: float) -> str:
    """``"135 M"``, ``"1.7 B"``."""
    return _scaled(number, ("B", "M", "K"), "")


def _scaled(number: float, units: Sequence[str], smallest: str) -> str:
    for unit, scale in zip(units, (1e9, 1e6, 1e3), strict=True):
        if number >= 0.995 * scale:
            scaled = number / scale
            return f"{scaled:,.1f} {unit}" if scaled < 9.95 else f"{scaled:,.0f} {unit}"
    return f"{number:.0f} {smallest}".rstrip()
