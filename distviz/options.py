"""The options of the command line, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _text(name: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=text, metavar=metavar, show_default=False)


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A Hugging Face folder or hub id, a .gguf file, or a TOML that describes layers to "
        "build. Nothing: the embedded demo model.",
        show_default=False,
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A folder that distviz wrote, of any kind.")
]
MeasuredRun = Annotated[
    Path, typer.Argument(metavar="RUN", help="A folder that distviz run wrote.")
]
Folders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER...", help="Folders that distviz wrote, of any kind.")
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="File to write (report.html in the first folder).",
        show_default=False,
    ),
]
ForceFile = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
Report = Annotated[bool, typer.Option("--report", help="Write report.html into the folder, too.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output folder that exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the path of the result, no more.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would be read, done and taken; measure nothing, read no weights.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML with any of these options.")
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Text to measure, repeatable: .txt is one document, .jsonl one a line, - standard "
        "input. Default: embedded documents.",
        show_default=False,
    ),
]
Layers = Annotated[str | None, _text("--layers", "Observed: all, or 0,3,8-11.")]
ShownLayers = Annotated[
    str | None, _text("--layers", "Only these, and how their values are distributed: 0,3,8-11.")
]
Sites = Annotated[
    str | None,
    _text("--sites", "act, gate, up, product, down, q, k, v, attention, residual, module:*."),
]
ArmLayers = Annotated[
    str | None, _text("--arm-layers", "Layers with ARM: 0 (default), none, all, 0,2.")
]
Redistribution = Annotated[
    str | None,
    _text(
        "--redistribution",
        "arm (default), threshold, scale, scale:FACTOR, noise, or module:callable.",
        "NAME",
    ),
]
C = Annotated[float | None, _text("--c", "Width of the near-zero band (0.13).")]
P1 = Annotated[float | None, _text("--p1", "Percentile that bounds new values (99.5).")]
PMin = Annotated[float | None, _text("--p-min", "Least share that moves (0.02).")]
PMax = Annotated[float | None, _text("--p-max", "Largest share that moves (0.25).")]
Fraction = Annotated[float | None, _text("--fraction", "The share that moves, given directly.")]
ArmMode = Annotated[str | None, _text("--arm-mode", "replace (default) or add.")]
PercentileOf = Annotated[str | None, _text("--percentile-of", "value (default) or magnitude.")]
Passes = Annotated[int | None, _text("--passes", "Repetitions of ARM (1).")]
Preset = Annotated[
    str | None, _text("--preset", "Published settings: NAME, NAME:BENCHMARK or auto.")
]
Ripple = Annotated[
    bool | None,
    typer.Option(
        "--ripple/--no-ripple",
        help="Send changed values through the later layers (default), or only compute them.",
        show_default=False,
    ),
]
Filler = Annotated[str | None, _text("--filler", "Meaningless string put in.", "STRING")]
FillerCount = Annotated[int | None, _text("--filler-count", "Repetitions of the filler (55).")]
FillerKind = Annotated[
    str | None,
    _text("--filler-kind", "repeat (default), random tokens, or words (a repeated word)."),
]
FillerPosition = Annotated[
    str | None, _text("--filler-position", "start, between (default), end, random.")
]
ChatTemplate = Annotated[
    bool | None,
    typer.Option(
        "--chat-template/--no-chat-template",
        show_default=False,
        help="Wrap prompts in the tokenizer's template (default: no).",
    ),
]
MaxLength = Annotated[int | None, _text("--max-length", "Tokens a window (512).")]
MaxTokens = Annotated[int | None, _text("--max-tokens", "Stop after so many tokens.")]
BatchSize = Annotated[int | None, _text("--batch-size", "Windows a batch (4).")]
Dtype = Annotated[str | None, _text("--dtype", "auto, fp32, bf16, fp16.")]
Device = Annotated[str | None, _text("--device", "auto, cpu, cuda, cuda:1 ...")]
DeviceMap = Annotated[str | None, _text("--device-map", "auto: spread a large model over devices.")]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        show_default=False,
        help="Read layers one by one, all batches through each (default: if the model does not "
        "fit into free memory).",
    ),
]
StreamMemory = Annotated[
    int | None,
    _text("--stream-memory", "MB of hidden states kept in memory, the rest in a file (a quarter)."),
]
AttnImplementation = Annotated[str | None, _text("--attn-implementation", "eager, sdpa ...")]
AttentionLayers = Annotated[
    str | None,
    _text("--attention-layers", "Layers that tell attention weights: all, none, 0,3 (--layers)."),
]
Threads = Annotated[int | None, _text("--threads", "CPU threads.")]
Revision = Annotated[str | None, _text("--revision", "Revision of a hub model.")]
SkipSpecial = Annotated[
    bool | None,
    typer.Option(
        "--skip-special", help="Leave special tokens out of the statistics.", show_default=False
    ),
]
Classes = Annotated[
    str | None, _text("--classes", "Token classes apart on ARM layers (arm) or all.")
]
KeepText = Annotated[
    bool | None,
    typer.Option(
        "--keep-text/--no-keep-text",
        show_default=False,
        help="Keep the documents in the folder (default).",
    ),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume",
        help="Go on with the interrupted run of the same command; needs --out.",
        show_default=False,
    ),
]
SaveEvery = Annotated[
    float | None,
    _text("--save-every", "Least seconds between two states kept for --resume (10)."),
]
Seed = Annotated[int | None, _text("--seed", "Seed of ARM and of random input (0).")]
Figures = Annotated[
    str | None, _text("--figures", "Formats: png (default), svg, pdf; comma-separated.")
]
NoFigures = Annotated[bool, typer.Option("--no-figures", help="Draw nothing.")]
AllowPickle = Annotated[
    bool | None,
    typer.Option(
        "--allow-pickle", help="Load pickle weights, which can run code.", show_default=False
    ),
]
TrustRemoteCode = Annotated[
    bool | None,
    typer.Option(
        "--trust-remote-code", help="Run the checkpoint's own Python code.", show_default=False
    ),
]

CList = Annotated[str | None, _text("--c", "Widths to try: 0.05,0.13,0.32,1.", "LIST")]
P1List = Annotated[str | None, _text("--p1", "Percentiles to try: 75,90,99.5.", "LIST")]
FractionList = Annotated[
    str | None, _text("--fraction", "Shares that move, in place of c or beside it.", "LIST")
]
ModeList = Annotated[str | None, _text("--arm-mode", "replace, add, or both.", "LIST")]
RedistributionList = Annotated[
    str | None, _text("--redistribution", "arm,noise,threshold ... to set side by side.", "LIST")
]
LayerAlternatives = Annotated[
    list[str] | None,
    typer.Option(
        "--arm-layers",
        metavar="LAYERS",
        help="Alternatives, quoted and apart by ; as in '0;1;0,1;all', or repeated.",
        show_default=False,
    ),
]
ByLayer = Annotated[
    bool, typer.Option("--by-layer", help="Each setting in each layer alone, one at a time.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", metavar="N", help="Random seeds to measure each setting with.")
]
BudgetKl = Annotated[
    float, typer.Option("--budget-kl", help="Largest KL, nats, of a recommended setting.")
]
Prompt = Annotated[
    str, typer.Option("--prompt", metavar="TEXT", help="What to go on from; - standard input.")
]
System = Annotated[str, typer.Option("--system", metavar="TEXT", help="System prompt before it.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", help="Tokens to write, at most.")]
NumSamples = Annotated[int, typer.Option("--num-samples", help="Continuations of each side.")]
Sample = Annotated[bool, typer.Option("--sample", help="Draw tokens; else the most likely one.")]
Temperature = Annotated[float | None, _text("--temperature", "Of drawing (1); implies --sample.")]
TopP = Annotated[float | None, _text("--top-p", "Of drawing (1); implies --sample.")]
Steps = Annotated[str, typer.Option("--on", help="Where ARM acts: prefill, decode or both.")]
SideA = Annotated[
    str, typer.Argument(metavar="A", help="A run folder, or a model or TOML of layers to measure.")
]
SideB = Annotated[str, typer.Argument(metavar="B", help="The same; the table reads B against A.")]
PhaseA = Annotated[str, typer.Option("--phase-a", help="before, or after (with ARM).")]
PhaseB = Annotated[str, typer.Option("--phase-b", help="before, or after (with ARM).")]
ListArchitectures = Annotated[
    bool,
    typer.Option(
        "--architectures", help="Print the table of supported architectures; takes no MODEL."
    ),
]
Layer = Annotated[int, typer.Option("--layer", help="Which layer to draw.")]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
]
ExportFigures = Annotated[
    str | None, _text("--figures", "Formats: png, svg, pdf; comma-separated, or none.")
]
ExportTables = Annotated[
    str | None, _text("--tables", "Formats: csv, parquet, json; comma-separated, or none.")
]
Log = Annotated[
    bool | None,
    typer.Option("--log/--linear", help="Count axis (chosen by itself).", show_default=False),
]
Sparsity = Annotated[
    str | None,
    _text("--sparsity", "Percent of zeros to find thresholds for: 10,50,90, or none (10 ... 90)."),
]
Thresholds = Annotated[
    str | None, _text("--thresholds", "Magnitudes up to which values become zero: 0.01,0.1.")
]
Formats = Annotated[
    str | None,
    _text(
        "--formats", "int8, int8-asym, int4, int4-asym, fp8-e4m3, fp8-e5m2 (default all), or none."
    ),
]
Ranges = Annotated[
    str | None,
    _text("--ranges", "max, percentile, mse (least error), none (fp8 as it is); default all."),
]
Percentile = Annotated[
    float | None, _text("--percentile", "Percent of the values inside --ranges percentile (99.9).")
]
Phases = Annotated[
    str | None, _text("--phases", "before,after (default), arriving, leaving, landing.")
]
Counts = Annotated[
    str | None,
    _text("--counts", "Numbers of filler tokens to measure, such as 0,10,25,40,55,70 (0,55)."),
]
ModelRequired = Annotated[str, typer.Argument(metavar="MODEL", help="Folder, hub id or .gguf.")]
