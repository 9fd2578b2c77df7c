"""The options and arguments of every command, and the signature that typer reads.

Settings of a measurement are defined in `distviz.settings`. This module defines the other options,
and the variants of a setting that some commands have.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distviz.arm import KL_BUDGET
from distviz.cli import completion
from distviz.option import HEADINGS, MEASURING, Option, no_effect
from distviz.parsing import word_list
from distviz.settings import FIGURE_FORMATS, OPTIONS, SIDE_B, TABLE_FORMATS
from distviz.sites import PHASES

if TYPE_CHECKING:
    from distviz.plots import AxisChoice

_INPUT, _, _FILLER, _GRID, _GENERATION, _WHATIF, _, _, _OUTPUT, _GENERAL = HEADINGS
_WRITING = (*MEASURING, "whatif")
_GENERATING = (*MEASURING, "generate")
_ALL = (*_GENERATING, "inspect", "whatif", "show", "report", "export")

_argument = partial(Option, "")
_compare = partial(Option, _INPUT, ("compare",), choices=("before", "after"), is_open=True)
_grid = partial(Option, _GRID, ("sweep",))
_generate = partial(Option, _GENERATION, ("generate",))
_whatif = partial(Option, _WHATIF, ("whatif",), is_list=True)
_export = partial(Option, _OUTPUT, ("export",))
_report = partial(Option, _OUTPUT, ("report",))
_general = partial(Option, _GENERAL)
_TEXT = str | None

# fmt: off
_OWN = (
    _argument(("filler",), "model", str, ..., "MODEL",
              "Hugging Face folder or hub ID, or .gguf file"),
    _argument(("compare",), "a", str, ..., "A",
              "Run folder, or a model or TOML file of settings to measure"),
    _argument(("compare",), "b", str, ..., "B", "The same; the table shows B relative to A"),
    _argument(("whatif",), "run", Path, ..., "RUN", "Folder that distviz run wrote"),
    _argument(("export", "show"), "run", Path, ..., "RUN",
              "Folder that distviz wrote, of any kind"),
    _argument(("report",), "folders", list[Path], ..., "FOLDER...",
              "Folders that distviz wrote, of any kind"),
    _compare("phase_a", str, "before", "PHASE", "Phase of A: {choices} (with ARM)"),
    _compare("phase_b", _TEXT, None, "PHASE", "Phase of B: {choices} (with ARM)",
             shown="before; after where ARM is given for B alone"),
    Option(_INPUT, ("compare",), "elementwise", bool, False, "",
           "Also compare the models value by value, both in memory at a time; at --sites, or at "
           "residual, act, product and attention"),
    Option(_INPUT, ("compare",), "local", bool, False, "",
           "With --elementwise, also let each layer of B read what the layer of A reads: the error "
           "it makes itself"),
    Option(_INPUT, ("inspect",), "layer", int | None, None, "LAYER", "Layer to draw",
           shown="0"),
    Option(_INPUT, ("inspect",), "architectures", bool, False, "",
            "Print the table of supported architectures; takes no MODEL"),
    Option(_INPUT, ("whatif",), "phases", _TEXT, None, "LIST", "Phases: {choices}",
            choices=tuple(PHASES), is_list=True, shown="before,after"),
    Option(_INPUT, ("whatif", "export"), "layers", _TEXT, None, "LAYERS",
            "Layers to include: all, or a list such as 0,3,8-11", shown="all"),
    Option(_INPUT, ("whatif", "export"), "sites", _TEXT, None, "SITES",
            "Sites to include: {choices} and others", choices=OPTIONS["sites"].choices,
            is_list=True, shown="all"),
    Option(_INPUT, ("show",), "layers", _TEXT, None, "LAYERS",
            "Layers to show, with their histograms, such as 0,3,8-11"),
    Option(_INPUT, ("show",), "channels", bool, False, "",
            "Show the channels of each layer instead: dead, always on, the largest"),
    Option(_FILLER, ("filler",), "counts", _TEXT, None, "LIST",
            "Numbers of filler tokens to measure, such as 0,10,25,40,55,70", shown="0,55"),

    _grid("c", _TEXT, None, "LIST", "Widths of the near-zero band, such as 0.05,0.13,0.32,1"),
    _grid("p1", _TEXT, None, "LIST", "Percentiles that bound the new values, such as 75,90,99.5"),
    _grid("fraction", _TEXT, None, "LIST",
          "Fractions of values to move, in place of --c or in addition"),
    _grid("arm_mode", _TEXT, None, "LIST", "Modes: {choices}", is_list=True,
          choices=OPTIONS["arm_mode"].choices),
    _grid("redistribution", _TEXT, None, "LIST", "Redistributions: {choices} and others",
          is_list=True, choices=OPTIONS["redistribution"].choices),
    _grid("at", _TEXT, None, "LIST", "Sites: {choices}, module:PATTERN; together: act+product",
          is_list=True, choices=OPTIONS["at"].choices),
    _grid("arm_layers", list[str] | None, None, "LAYERS",
          "Alternatives for the ARM layers, quoted and separated by ; as in '0;1;0,1;all', or "
          "repeated"),
    _grid("preset", _TEXT, None, "LIST",
          "Published settings, alone or besides --c and --p1: auto (those of the model, all "
          "benchmarks), NAME (all benchmarks) or NAME:BENCHMARK"),
    _grid("by_layer", bool, False, "", "Apply each setting to each layer alone"),
    _grid("seeds", int, 1, "N", "Random seeds per setting", minimum=1, maximum=1000),
    _grid("allocate", _TEXT, None, "WHAT",
          "Allocate to the layers what costs least at --at: a mean share of zeros, such as 50%, or "
          "number formats, such as nvfp4,fp8-token or none,nvfp4"),
    _grid("budget_kl", float | None, None, "NATS",
          "Largest KL divergence of a recommended setting, or of what is allocated, nats",
          shown=f"{KL_BUDGET:g}; none with a share of zeros"),

    _generate("prompt", str, ..., "TEXT", "Prompt; - standard input"),
    _generate("system", str, "", "TEXT", "System prompt"),
    _generate("max_new_tokens", int, 64, "TOKENS", "Maximum new tokens", minimum=1,
              maximum=1_000_000),
    _generate("num_samples", int, 1, "N", "Continuations with ARM off and on", minimum=1,
              maximum=10_000),
    _generate("sample", bool, False, "", "Sample tokens instead of taking the most likely one"),
    _generate("temperature", float | None, None, "NUMBER", "Sampling temperature; implies --sample",
              shown="1"),
    _generate("top_p", _TEXT, None, "SHARE", "Nucleus sampling; implies --sample",
              shown="1"),
    _generate("on", str, "both", "WHERE", "Steps with ARM: {choices}", is_open=True,
              choices=("both", "prefill", "decode")),

    _whatif("sparsity", _TEXT, None, "LIST", "Percentages of zeros to find thresholds for, or none",
            shown="10,20,...,90"),
    _whatif("thresholds", _TEXT, None, "LIST",
            "Magnitudes up to which values become zero, such as 0.01,0.1"),
    _whatif("formats", _TEXT, None, "LIST", "Number formats: {choices}", shown="all", choices=(
            "int8", "int8-asym", "int4", "int4-asym", "fp8-e4m3", "fp8-e5m2", "none")),
    _whatif("ranges", _TEXT, None, "LIST", "Range of the formats: {choices} (fp8 without a scale)",
            shown="all", choices=("max", "percentile", "mse", "none")),
    _whatif("percentile", _TEXT, None, "PERCENT",
            "Percentage of the values within --ranges percentile", is_list=False, shown="99.9"),

    _report("out", Path | None, None, "FILE", "File to write", flags="--out -o",
            shown="report.html in the first folder"),
    _report("force", bool, False, "", "Replace an existing file"),
    _export("figures", _TEXT, None, "FORMATS", "Figure formats, comma-separated: {choices}",
            flags="--figures --format", choices=OPTIONS["figures"].choices, is_list=True,
            shown="png"),
    _export("figure", list[str] | None, None, "KIND",
            "Only figures of this kind, and no tables without --tables; repeatable. Run: paired, "
            "overview, classes, channels, formats; comparison: compared, overview, classes, "
            "elementwise; filler study: filler, positions, by-count; sweep: sweep, allocation; "
            "whatif: formats, zeros; training: curves, steps",
            choices=(
                "paired", "overview", "classes", "channels", "compared", "elementwise", "filler",
                "positions", "by-count", "sweep", "allocation", "formats", "zeros", "curves",
                "steps"), is_open=True),
    _export("tool", _TEXT, None, "TOOL", "Files of a run for another tool instead: {choices}",
            flags="--for", choices=("imatrix", "smoothquant", "teal", "tensorboard")),
    _export("tables", _TEXT, None, "FORMATS", "Table formats, comma-separated: {choices}",
            choices=(*TABLE_FORMATS, "none"), is_list=True, shown="csv"),
    _export("log", bool | None, None, "", "Scale of the count axis", flags="--log/--linear",
            shown="by the counts"),
    Option(_OUTPUT, _WRITING, "no_figures", bool, False, "", "Write no figures"),
    Option(_OUTPUT, _WRITING, "report", bool, False, "", "Also write report.html into the folder"),

    _general(_GENERATING, "config", Path | None, None, "FILE",
             "TOML file with any of these options"),
    _general(MEASURING, "dry_run", bool, False, "",
             "Print an estimate of files, memory and disk; load no weights"),
    _general((*_WRITING, "export", "report"), "quiet", bool, False, "",
             "Print only the path of the result", flags="--quiet -q"),
    _general(("generate",), "quiet", bool, False, "", "Print only the continuation with ARM",
             flags="--quiet -q"),
    _general(_ALL, "as_json", bool, False, "", "Print one JSON object and nothing else",
             flags="--json"),
    _general(_ALL, "debug", bool, False, "", "Print the traceback of an error"),
    *SIDE_B.values(),
)
# fmt: on


def options_of(command: str) -> list[Option]:
    """Return the options of a command: arguments, settings, and its own."""
    own = {option.name: option for option in _OWN if command in option.commands}
    settings = {name: one for name, one in OPTIONS.items() if command in one.commands}
    found = [own.get(name) or _not_given(option) for name, option in settings.items()]
    found += [option for name, option in own.items() if name not in settings]
    return sorted(found, key=lambda option: bool(option.heading))


def every_option() -> list[Option]:
    """Return the records of all options and arguments."""
    return [*OPTIONS.values(), *_OWN]


def commands_of(spelling: str) -> list[str]:
    """Return the commands that have an option, by one of its spellings."""
    flags = ((one, "/".join(one.spellings).split("/")) for one in every_option())
    having = {command for one, written in flags if spelling in written for command in one.commands}
    return [command for command in _ALL if command in having]


def with_commands(hint: str, command: str) -> str:
    """Return the hint of an error; where the command lacks an option in it, those that have it."""
    notes = []
    for spelling in dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", hint)):
        having = commands_of(spelling)
        if having and command not in having:
            notes.append(f"{spelling} is an option of {', '.join(having)}")
    return f"{hint} ({'; '.join(notes)})" if notes else hint


def _not_given(option: Option) -> Option:
    """Return the option of a setting, None if not given, so that a file's value applies."""
    kind = str if option.is_list or option.unit else option.type
    return replace(option, type=kind | None, default=None, shown=option.shown_default)


def flags_of(command: str, given: Any) -> dict[str, Any]:
    """Return the settings given by the arguments of a command; None if not given."""
    names = [name for name, one in OPTIONS.items() if command in one.commands and name != "model"]
    flags = {name: getattr(given, name) for name in names}
    if "figures" in flags:
        flags["figures"] = _formats(flags["figures"], given.no_figures)
    for name, value in flags.items():
        option = OPTIONS[name]
        if isinstance(value, str) and option.is_list and isinstance(option.default, list):
            flags[name] = word_list(value, option.label, option.choices)
    texts = getattr(given, "texts", ())  # of Python
    return flags | {"text": [], "texts": texts} if texts else flags


def refuse_given(given: Any, names: Collection[str], flag: str, command: str = "inspect") -> None:
    """Raise a RequestError for an option of a command that has no effect beside a flag."""
    for option in options_of(command):
        is_given = getattr(given, option.name) not in (None, False, [])
        if option.name in names and is_given:
            raise no_effect(option.label, f"with {flag}")


def of_side_b(given: Any) -> dict[str, Any]:
    """Return the options given for side B alone, by the names of `SIDE_B`."""
    values = {name: getattr(given, name) for name in SIDE_B}
    return {name: value for name, value in values.items() if value is not None}


def axis_choice(given: Any) -> AxisChoice:
    """Return the axes of distributions that arguments or settings ask for."""
    from distviz.plots import AxisChoice

    return AxisChoice.of(None, given.x_axis or "auto", centred=bool(given.centred))


def _formats(figures: str | None, no_figures: bool) -> list[str] | None:
    if no_figures or figures == "none":
        return []
    return None if figures is None else word_list(figures, "--figures", FIGURE_FORMATS)


def signature(command: str) -> inspect.Signature:
    """Return the signature of a command, for typer."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter(one.name, kind, default=_parameter(one), annotation=one.type)
            for one in options_of(command)
        ]
    )


def _parameter(option: Option) -> Any:
    is_argument = not option.heading
    make = typer.Argument if is_argument else partial(typer.Option, rich_help_panel=option.heading)
    return make(
        option.default,
        *([] if is_argument else option.spellings),
        metavar=option.metavar or None,
        help=option.help,
        show_default=False,
        autocompletion=_completer(option),
    )


def _completer(option: Option) -> completion.Completer | None:
    if option.name in ("preset", "b_preset"):
        return completion.presets
    if option.metavar in ("RUN", "FOLDER..."):
        return completion.results
    return completion.of_choices(option.choices, is_list=option.is_list) if option.choices else None
