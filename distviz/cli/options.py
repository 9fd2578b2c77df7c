"""The options of the command line, each written once: name, placeholder, help, and its group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distviz.cli import completion

GROUPS = (
    "Text and places",
    "Redistribution",
    "Meaningless tokens (filler)",
    "Settings to try",
    "Text to write",
    "WhatIfRequest",
    "Model and machine",
    "Result",
    "This command",
)
"""The headings of a command's options in its help, in this order."""

(
    _MEASURED,
    _ARM,
    _FILLER,
    _GRID,
    _WRITING,
    _QUESTIONS,
    _MACHINE,
    _RESULT,
    _COMMAND,
) = GROUPS

_LISTS = ("--sites", "--figures", "--formats", "--phases", "--ranges", "--tables")
"""Options of which several words can be given, comma-separated."""


def _value(
    name: str,
    metavar: str,
    text: str,
    group: str,
    *,
    short: str = "",
    shows_default: bool = False,
) -> Any:
    return typer.Option(
        *filter(None, (name, short)),
        metavar=metavar,
        help=text,
        rich_help_panel=group,
        show_default=shows_default,
        autocompletion=_completer(name, metavar),
    )


def _completer(name: str, metavar: str) -> completion.Completer | None:
    if name == "--preset":
        return completion.presets
    words = completion.VALUES.get(name)
    if words is None:
        return None
    several = name in _LISTS or metavar == "LIST"
    return completion.listed(*words) if several else completion.one_of(*words)


def _switch(names: str, text: str, group: str) -> Any:
    return typer.Option(names, help=text, rich_help_panel=group, show_default=False)


def _result(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, help=text, autocompletion=completion.results)


# Arguments ----------------------------------------------------------------------------------
Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face folder or hub id, a .gguf file, or a TOML that describes layers to "
        "build. Nothing: the embedded demo model.",
        show_default=False,
    ),
]
RunFolder = Annotated[Path, _result("RUN", "A folder that distviz wrote, of any kind.")]
MeasuredRun = Annotated[Path, _result("RUN", "A folder that distviz run wrote.")]
Folders = Annotated[list[Path], _result("FOLDER...", "Folders that distviz wrote, of any kind.")]
SideA = Annotated[
    str, typer.Argument(metavar="A", help="A run folder, or a model or TOML of layers to measure.")
]
SideB = Annotated[str, typer.Argument(metavar="B", help="The same; the table reads B against A.")]
ModelRequired = Annotated[str, typer.Argument(metavar="MODEL", help="Folder, hub id or .gguf.")]

# Text and places ----------------------------------------------------------------------------
Text = Annotated[
    list[str] | None,
    _value(
        "--text",
        "FILE",
        "Text to measure, repeatable: .txt is one document, .jsonl one a "
        "line, - standard input. Default: embedded documents.",
        _MEASURED,
    ),
]
Layers = Annotated[
    str | None, _value("--layers", "LAYERS", "Observed: all, or 0,3,8-11.", _MEASURED)
]
ShownLayers = Annotated[
    str | None,
    _value(
        "--layers",
        "LAYERS",
        "Only these, and how their values are distributed: 0,3,8-11.",
        _MEASURED,
    ),
]
Sites = Annotated[
    str | None,
    _value(
        "--sites",
        "SITES",
        "act, gate, up, product, down, q, k, v, attention, residual, module:*.",
        _MEASURED,
    ),
]
ChatTemplate = Annotated[
    bool | None,
    _switch(
        "--chat-template/--no-chat-template",
        "Wrap prompts in the tokenizer's template (default: no).",
        _MEASURED,
    ),
]
MaxLength = Annotated[
    int | None, _value("--max-length", "TOKENS", "Tokens a window (512).", _MEASURED)
]
MaxTokens = Annotated[
    int | None, _value("--max-tokens", "TOKENS", "Stop after so many tokens.", _MEASURED)
]
BatchSize = Annotated[int | None, _value("--batch-size", "N", "Windows a batch (4).", _MEASURED)]
AttentionLayers = Annotated[
    str | None,
    _value(
        "--attention-layers",
        "LAYERS",
        "Layers that tell attention weights: all, none, 0,3 (--layers).",
        _MEASURED,
    ),
]
SkipSpecial = Annotated[
    bool | None, _switch("--skip-special", "Leave special tokens out of the statistics.", _MEASURED)
]
Classes = Annotated[
    str | None,
    _value("--classes", "WHERE", "Token classes apart on ARM layers (arm) or all.", _MEASURED),
]
PhaseA = Annotated[
    str, _value("--phase-a", "PHASE", "before, or after (with ARM).", _MEASURED, shows_default=True)
]
PhaseB = Annotated[
    str, _value("--phase-b", "PHASE", "before, or after (with ARM).", _MEASURED, shows_default=True)
]
ListArchitectures = Annotated[
    bool,
    _switch(
        "--architectures", "Print the table of supported architectures; takes no MODEL.", _MEASURED
    ),
]
Layer = Annotated[
    int, _value("--layer", "LAYER", "Which layer to draw.", _MEASURED, shows_default=True)
]
Phases = Annotated[
    str | None,
    _value(
        "--phases",
        "LIST",
        "before,after (default), arm_input, moved_before, moved_after.",
        _MEASURED,
    ),
]

# Redistribution -----------------------------------------------------------------------------
ArmLayers = Annotated[
    str | None,
    _value("--arm-layers", "LAYERS", "Layers with ARM: 0 (default), none, all, 0,2.", _ARM),
]
Redistribution = Annotated[
    str | None,
    _value(
        "--redistribution",
        "NAME",
        "arm (default), threshold, scale, scale:FACTOR, noise, or module:callable.",
        _ARM,
    ),
]
C = Annotated[float | None, _value("--c", "NUMBER", "Width of the near-zero band (0.13).", _ARM)]
P1 = Annotated[
    float | None, _value("--p1", "PERCENT", "Percentile that bounds new values (99.5).", _ARM)
]
PMin = Annotated[float | None, _value("--p-min", "SHARE", "Least share that moves (0.02).", _ARM)]
PMax = Annotated[float | None, _value("--p-max", "SHARE", "Largest share that moves (0.25).", _ARM)]
Fraction = Annotated[
    float | None, _value("--fraction", "SHARE", "The share that moves, given directly.", _ARM)
]
ArmMode = Annotated[str | None, _value("--arm-mode", "MODE", "replace (default) or add.", _ARM)]
PercentileOf = Annotated[
    str | None, _value("--percentile-of", "WHAT", "value (default) or magnitude.", _ARM)
]
Passes = Annotated[int | None, _value("--passes", "N", "Repetitions of ARM (1).", _ARM)]
Preset = Annotated[
    str | None,
    _value("--preset", "NAME", "Published settings: NAME, NAME:BENCHMARK or auto.", _ARM),
]
Ripple = Annotated[
    bool | None,
    _switch(
        "--ripple/--no-ripple",
        "Send changed values through the later layers (default), or only compute them.",
        _ARM,
    ),
]
Seed = Annotated[int | None, _value("--seed", "N", "Seed of ARM and of random input (0).", _ARM)]

# Meaningless tokens -------------------------------------------------------------------------
Filler = Annotated[str | None, _value("--filler", "STRING", "Meaningless string put in.", _FILLER)]
FillerCount = Annotated[
    int | None, _value("--filler-count", "N", "Repetitions of the filler (55).", _FILLER)
]
FillerKind = Annotated[
    str | None,
    _value(
        "--filler-kind",
        "KIND",
        "repeat (default), random tokens, or words (a repeated word).",
        _FILLER,
    ),
]
FillerPosition = Annotated[
    str | None,
    _value("--filler-position", "PLACE", "start, between (default), end, random.", _FILLER),
]
Counts = Annotated[
    str | None,
    _value(
        "--counts",
        "LIST",
        "Numbers of filler tokens to measure, such as 0,10,25,40,55,70 (0,55).",
        _FILLER,
    ),
]

# Settings to try ----------------------------------------------------------------------------
CList = Annotated[str | None, _value("--c", "LIST", "Widths to try: 0.05,0.13,0.32,1.", _GRID)]
P1List = Annotated[str | None, _value("--p1", "LIST", "Percentiles to try: 75,90,99.5.", _GRID)]
FractionList = Annotated[
    str | None, _value("--fraction", "LIST", "Shares that move, in place of c or beside it.", _GRID)
]
ModeList = Annotated[str | None, _value("--arm-mode", "LIST", "replace, add, or both.", _GRID)]
RedistributionList = Annotated[
    str | None,
    _value("--redistribution", "LIST", "arm,noise,threshold ... to set side by side.", _GRID),
]
PresetList = Annotated[
    str | None,
    _value(
        "--preset",
        "LIST",
        "Published settings beside c and p1 or alone: auto (by the model's name, all benchmarks), "
        "NAME (all) or NAME:BENCHMARK.",
        _GRID,
    ),
]
LayerAlternatives = Annotated[
    list[str] | None,
    _value(
        "--arm-layers",
        "LAYERS",
        "Alternatives, quoted and apart by ; as in '0;1;0,1;all', or repeated.",
        _GRID,
    ),
]
ByLayer = Annotated[
    bool, _switch("--by-layer", "Each setting in each layer alone, one at a time.", _GRID)
]
Seeds = Annotated[
    int,
    _value("--seeds", "N", "Random seeds to measure each setting with.", _GRID, shows_default=True),
]
BudgetKl = Annotated[
    float,
    _value(
        "--budget-kl",
        "NATS",
        "Largest KL, nats, of a recommended setting.",
        _GRID,
        shows_default=True,
    ),
]

# Text to write ------------------------------------------------------------------------------
Prompt = Annotated[
    str,
    _value(
        "--prompt", "TEXT", "What to go on from; - standard input.", _WRITING, shows_default=True
    ),
]
System = Annotated[
    str, _value("--system", "TEXT", "System prompt before it.", _WRITING, shows_default=True)
]
MaxNewTokens = Annotated[
    int,
    _value("--max-new-tokens", "TOKENS", "Tokens to write, at most.", _WRITING, shows_default=True),
]
NumSamples = Annotated[
    int, _value("--num-samples", "N", "Continuations of each side.", _WRITING, shows_default=True)
]
Sample = Annotated[bool, _switch("--sample", "Draw tokens; else the most likely one.", _WRITING)]
Temperature = Annotated[
    float | None, _value("--temperature", "NUMBER", "Of drawing (1); implies --sample.", _WRITING)
]
TopP = Annotated[
    float | None, _value("--top-p", "SHARE", "Of drawing (1); implies --sample.", _WRITING)
]
Steps = Annotated[
    str,
    _value(
        "--on", "WHERE", "Where ARM acts: prefill, decode or both.", _WRITING, shows_default=True
    ),
]

# Questions ----------------------------------------------------------------------------------
Sparsity = Annotated[
    str | None,
    _value(
        "--sparsity",
        "LIST",
        "Percent of zeros to find thresholds for: 10,50,90, or none (10 ... 90).",
        _QUESTIONS,
    ),
]
Thresholds = Annotated[
    str | None,
    _value(
        "--thresholds", "LIST", "Magnitudes up to which values become zero: 0.01,0.1.", _QUESTIONS
    ),
]
Formats = Annotated[
    str | None,
    _value(
        "--formats",
        "LIST",
        "int8, int8-asym, int4, int4-asym, fp8-e4m3, fp8-e5m2 (default all), or none.",
        _QUESTIONS,
    ),
]
Ranges = Annotated[
    str | None,
    _value(
        "--ranges",
        "LIST",
        "max, percentile, mse (least error), none (fp8 as it is); default all.",
        _QUESTIONS,
    ),
]
Percentile = Annotated[
    float | None,
    _value(
        "--percentile",
        "PERCENT",
        "Percent of the values inside --ranges percentile (99.9).",
        _QUESTIONS,
    ),
]

# Model and machine --------------------------------------------------------------------------
Dtype = Annotated[str | None, _value("--dtype", "TYPE", "auto, fp32, bf16, fp16.", _MACHINE)]
Device = Annotated[
    str | None, _value("--device", "DEVICE", "auto, cpu, cuda, cuda:1 ...", _MACHINE)
]
DeviceMap = Annotated[
    str | None, _value("--device-map", "MAP", "auto: spread a large model over devices.", _MACHINE)
]
Stream = Annotated[
    bool | None,
    _switch(
        "--stream/--no-stream",
        "Read layers one by one, all batches through each (default: if the "
        "model does not fit into free memory).",
        _MACHINE,
    ),
]
StreamMemory = Annotated[
    int | None,
    _value(
        "--stream-memory",
        "MB",
        "MB of hidden states kept in memory, the rest in a file (a quarter).",
        _MACHINE,
    ),
]
AttnImplementation = Annotated[
    str | None, _value("--attn-implementation", "NAME", "eager, sdpa ...", _MACHINE)
]
Threads = Annotated[int | None, _value("--threads", "N", "CPU threads.", _MACHINE)]
Revision = Annotated[str | None, _value("--revision", "NAME", "Revision of a hub model.", _MACHINE)]
AllowPickle = Annotated[
    bool | None, _switch("--allow-pickle", "Load pickle weights, which can run code.", _MACHINE)
]
TrustRemoteCode = Annotated[
    bool | None, _switch("--trust-remote-code", "Run the checkpoint's own Python code.", _MACHINE)
]
RemoteCode = Annotated[
    bool, _switch("--trust-remote-code", "Run the checkpoint's own Python code.", _MACHINE)
]

# Result -------------------------------------------------------------------------------------
OutFile = Annotated[
    Path | None,
    _value(
        "--out", "FILE", "File to write (report.html in the first folder).", _RESULT, short="-o"
    ),
]
ForceFile = Annotated[bool, _switch("--force", "Replace a file that exists.", _RESULT)]
Report = Annotated[bool, _switch("--report", "Write report.html into the folder, too.", _RESULT)]
Out = Annotated[Path | None, _value("--out", "DIR", "Folder to write.", _RESULT, short="-o")]
Force = Annotated[bool, _switch("--force", "Replace an output folder that exists.", _RESULT)]
KeepText = Annotated[
    bool | None,
    _switch("--keep-text/--no-keep-text", "Keep the documents in the folder (default).", _RESULT),
]
Resume = Annotated[
    bool | None,
    _switch(
        "--resume", "Go on with the interrupted run of the same command; needs --out.", _RESULT
    ),
]
SaveEvery = Annotated[
    float | None,
    _value(
        "--save-every",
        "SECONDS",
        "Least seconds between two states kept for --resume (10).",
        _RESULT,
    ),
]
Figures = Annotated[
    str | None,
    _value("--figures", "FORMATS", "Formats: png (default), svg, pdf; comma-separated.", _RESULT),
]
NoFigures = Annotated[bool, _switch("--no-figures", "Draw nothing.", _RESULT)]
FigureWidth = Annotated[
    str | None,
    _value(
        "--figure-width",
        "WIDTH",
        "single or double: sized for the columns of a paper (3.25, 6.75 in).",
        _RESULT,
    ),
]
ExportFigures = Annotated[
    str | None,
    _value(
        "--figures",
        "FORMATS",
        "Formats of the figures: png (default), svg, pdf; comma-separated, or none.",
        _RESULT,
        short="--format",
    ),
]
OnlyFigure = Annotated[
    list[str] | None,
    _value(
        "--figure",
        "KIND",
        "Only figures of this kind, and no tables unless --tables says so; repeatable. Of a run: "
        "paired, overview, classes; of a comparison: compared, overview, classes; filler, "
        "positions, by-count; sweep; formats, zeros.",
        _RESULT,
    ),
]
ExportTables = Annotated[
    str | None,
    _value(
        "--tables", "FORMATS", "Formats: csv, parquet, json; comma-separated, or none.", _RESULT
    ),
]
Log = Annotated[bool | None, _switch("--log/--linear", "Count axis (chosen by itself).", _RESULT)]

# This command -------------------------------------------------------------------------------
Quiet = Annotated[bool, _switch("--quiet", "Print the path of the result, no more.", _COMMAND)]
DryRun = Annotated[
    bool,
    _switch(
        "--dry-run",
        "Say what would be read, done and taken; measure nothing, read no weights.",
        _COMMAND,
    ),
]
AsJson = Annotated[bool, _switch("--json", "Print one JSON object, nothing else.", _COMMAND)]
Debug = Annotated[bool, _switch("--debug", "Show the traceback of an error.", _COMMAND)]
Config = Annotated[
    Path | None, _value("--config", "FILE", "TOML with any of these options.", _COMMAND)
]
