"""Settings of a measurement: from flags and TOML, checked before anything expensive starts.

A field of `RunSettings` is the whole record of a setting: command line, TOML keys, help, completion
and the commands shown in reports follow from it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.option import (
    HEADINGS,
    MEASURING,
    Affects,
    check_choice,
    check_type,
    code_in,
    records_of,
    refuse_code,
    setting,
)
from distviz.settings.layer import LayerSettings
from distviz.sites import SITES, check_layers, parse_sites

if TYPE_CHECKING:
    from distviz.arm import ARM

_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
DTYPES = {name: name for name in _SHORT.values()} | _SHORT
"""The allowed names of a dtype besides ``auto``, and the torch name of each."""
_FORMS = (
    "scale:FACTOR, threshold:VALUE, threshold:FILE, quantize:FORMAT, quantize:FILE or "
    "module:callable"
)
"""Redistributions with a parameter in their name."""
MOST_FILLERS = 100_000
"""Repetitions of a filler in a prompt."""
FIGURE_FORMATS = ("png", "svg", "pdf")
NUMBER_FORMATS = (
    "nvfp4", "mxfp4", "mxfp8", "mxfp8-e5m2", "int8-token", "fp8-token", "int8-channel",
    "int4-group128", "int8", "int8-asym", "int4", "int4-asym", "fp8-e4m3", "fp8-e5m2",
)  # fmt: skip
"""Those of `distviz.stats.GRANULAR_FORMATS`, which imports NumPy."""
TABLE_FORMATS = ("csv", "parquet", "json")

_MODEL = (*MEASURING, "generate")
_ALONE = ("run", "compare", "generate")
_OBSERVING = ("run", "compare", "filler")
_DISTRIBUTIONS = ("run", "compare", "show", "report", "export")
_INPUT, _ARM, _FILLER, _, _, _WHATIF, _HARDWARE, _SIDE_B, _OUTPUT, _ = HEADINGS


def _is_callable(name: Any) -> bool:
    """Whether a redistribution is ``module:callable``."""
    from distviz.arm import names_callable

    return isinstance(name, str) and names_callable(name)


def _is_hub_kernel(name: Any) -> bool:
    """Whether an attention implementation is code from the hub, ``org/name``."""
    return isinstance(name, str) and "/" in name


# What several settings have in common.
_text = partial(setting, heading=_INPUT, affects="text")
_tokens = partial(setting, heading=_INPUT, affects="tokens")
_counts = partial(setting, heading=_INPUT)
_arm = partial(setting, heading=_ARM, commands=_ALONE, affects="arm")
_arm_always = partial(_arm, commands=(*_ALONE, "sweep"))
_filler = partial(setting, heading=_FILLER, commands=("run", "filler", "sweep"), affects="tokens")
_source = partial(setting, heading=_HARDWARE, commands=_MODEL, affects="source")
_speed = partial(setting, heading=_HARDWARE, commands=("run", "compare"), affects="speed")
_files = partial(setting, heading=_OUTPUT, affects="nothing")
_figures = partial(setting, heading=_OUTPUT, affects="figures")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of a measurement; ``distviz run --help`` explains each.

    ``explicit`` names those given by a flag or a file, not by default or preset; ``files`` has name
    and file of those given by a file. ``trusted`` holds
    the values that may run code, by name: those typed on the command line or given in Python; None
    trusts the values of this constructor. ``texts`` are documents given in Python, in place of
    files.
    """

    # fmt: off
    model: str | None = _source(
        None, "MODEL", "Hugging Face folder or hub ID, .gguf file, or TOML file that describes "
        "layers to build", heading="", commands=("run", "sweep", "generate", "inspect"),
        shown="embedded demo model")
    text: list[str] = _source(
        [], "FILE", "Text to measure, repeatable: .txt is one document; .jsonl, .json, .csv, "
        ".tsv, .parquet one per row; each also .gz, .bz2, .xz, .zst; -: standard input",
        heading=_INPUT, commands=MEASURING, shown="embedded documents")
    text_field: str | None = _text(
        None, "NAME", "Field to measure of each row of --text and --dataset",
        shown="text, messages, question, prompt, ...")
    text_lines: bool = _text(False, "", "Take each line of a plain text as a document")
    dataset: str | None = _text(
        None, "NAME", "Dataset of the Hugging Face hub, or folder of one: NAME, NAME:SPLIT or "
        "NAME:CONFIG/SPLIT")
    max_documents: int | None = _text(None, "N", "Maximum documents", minimum=1)
    shuffle: bool = _text(False, "", "Shuffle the documents, by --seed, before --max-documents")
    layers: str = _counts(
        "all", "LAYERS", "Layers to observe: all, or a list such as 0,3,8-11", commands=_OBSERVING)
    sites: str = _counts(
        "act", "SITES", "Sites to observe: {choices}, module:PATTERN, input:PATTERN",
        commands=_OBSERVING, choices=tuple(SITES), is_open=True, is_list=True, shown="as --at")
    arm_layers: str = _arm("0", "LAYERS", "Layers with ARM: none, all, or a list such as 0,2")
    redistribution: str = _arm(
        "arm", "NAME", f"Redistribution: {{choices}}, {_FORMS}",
        choices=("arm", "threshold", "scale", "noise"), is_open=True, runs_code=_is_callable)
    at: str = _arm(
        "act", "SITES",
        "Sites where values are redistributed: {choices}, module:PATTERN, input:PATTERN",
        choices=tuple(SITES), is_open=True, is_list=True)
    c: float = _arm(0.13, "NUMBER", "Width of the near-zero band")
    p1: float = _arm(99.5, "PERCENT", "Percentile that bounds the new values")
    p_min: float = _arm_always(0.02, "SHARE", "Minimum fraction of values to move")
    p_max: float = _arm_always(0.25, "SHARE", "Maximum fraction of values to move")
    fraction: float | None = _arm(None, "SHARE", "Fraction of values to move, in place of --c")
    arm_mode: str = _arm(
        "replace", "MODE", "Replace values or add to them: {choices}", choices=("replace", "add"))
    percentile_of: str = _arm_always(
        "value", "WHAT", "Quantity that --p1 refers to: {choices}", choices=("value", "magnitude"))
    passes: int = _arm_always(1, "N", "Repetitions of ARM", minimum=1, maximum=1000)
    preset: str | None = _arm_always(
        None, "NAME", "Published settings: NAME, NAME:BENCHMARK or auto", affects="source")
    ripple: bool = _arm(
        True, "", "Pass changed values to the later layers, or only compute them",
        commands=("run",), flags="--ripple/--no-ripple")
    filler: str | None = _filler(None, "STRING", "Filler string to insert")
    filler_count: int = _filler(
        55, "N", "Repetitions of the filler", minimum=0, maximum=MOST_FILLERS)
    filler_position: str = _filler(
        "between", "PLACE", "Position of the filler: {choices}",
        choices=("start", "between", "end", "random"))
    filler_kind: str = _filler(
        "repeat", "KIND", "Kind of filler tokens: {choices} (a common English word)",
        choices=("repeat", "random", "words"))
    chat_template: bool = _tokens(
        False, "", "Apply the tokenizer's chat template to prompts", commands=_MODEL,
        flags="--chat-template/--no-chat-template")
    max_length: int = _tokens(512, "TOKENS", "Maximum tokens per window", minimum=2)
    max_tokens: int | None = _tokens(
        None, "TOKENS", "Maximum tokens in total", commands=("run", "compare", "sweep"), minimum=1)
    batch_size: int = _tokens(4, "N", "Windows per batch", minimum=1)
    dtype: str = _source(
        "auto", "TYPE", "Data type of the weights: {choices}",
        choices=("auto", "fp32", "bf16", "fp16"), is_open=True)
    device: str = _source(
        "auto", "DEVICE", "Device: {choices}, or such as cuda:1",
        choices=("auto", "cpu", "cuda", "mps"), is_open=True)
    device_map: str | None = _source(
        None, "MAP", "Device map; auto distributes a large model over devices")
    stream: bool | None = _speed(
        None, "", "Load one layer at a time and pass all batches through it",
        flags="--stream/--no-stream", shown="if the model does not fit into free memory")
    stream_memory: int | None = _speed(
        None, "MB", "Memory for the hidden states of --stream, the rest is on disk", minimum=0,
        shown="a quarter of free memory")
    revision: str | None = _source(
        None, "NAME", "Revision of a hub model", commands=(*_MODEL, "inspect"))
    threads: int | None = _source(None, "N", "CPU threads", minimum=1, maximum=1024)
    attn_implementation: str | None = _counts(
        None, "NAME", "Attention implementation, such as eager or sdpa", heading=_HARDWARE,
        commands=_MODEL, runs_code=_is_hub_kernel)
    attention_layers: str | None = _counts(
        None, "LAYERS", "Layers whose attention weights are recorded: all, none, or 0,3",
        commands=("filler",), shown="as --layers")
    allow_pickle: bool = _source(
        False, "", "Load pickle weights, which can run code", runs_code=bool)
    trust_remote_code: bool = _source(
        False, "", "Run the checkpoint's own Python code", commands=(*_MODEL, "inspect"),
        runs_code=bool)
    skip_special: bool = _tokens(False, "", "Exclude special tokens from the statistics")
    classes: str = _counts(
        "arm", "WHERE",
        "Separate statistics by token class, role and position: on ARM layers (arm) or on all "
        "layers (all)",
        commands=("run",), choices=("arm", "all"))
    tokens: bool = _counts(
        False, "", "Write tokens.parquet: largest magnitude and norm of every token and place",
        commands=("run",))
    channels: bool = _counts(
        False, "", "Also record each channel's kurtosis, and in how many tokens it is the largest",
        commands=("run",))
    formats: list[str] = _counts(
        [], "FORMATS", "Number formats to quantize every site to, and measure: {choices}",
        heading=_WHATIF, commands=("run",), choices=NUMBER_FORMATS, is_list=True)
    rotate: list[str] = _counts(
        ["none"], "ROTATIONS", "Rotation of each token before --formats: {choices}, or both",
        heading=_WHATIF, commands=("run",), choices=("none", "hadamard"), is_list=True)
    keep_text: bool = _source(
        True, "", "Save the documents in the folder", heading=_OUTPUT, commands=("run",),
        flags="--keep-text/--no-keep-text")
    seed: int = _tokens(0, "N", "Seed of ARM and of random input", commands=_MODEL)
    out: str | None = _files(
        None, "DIR", "Folder to write", commands=(*MEASURING, "whatif", "export"),
        flags="--out -o")
    force: bool = _files(
        False, "", "Replace an existing output folder", commands=(*MEASURING, "whatif", "export"))
    resume: bool = _files(
        False, "", "Resume an interrupted run of the same command; needs --out")
    save_every: float = _files(
        10.0, "SECONDS", "Minimum seconds between checkpoints", minimum=0)
    figures: list[str] = _figures(
        ["png"], "FORMATS", "Figure formats, comma-separated: {choices}",
        commands=(*MEASURING, "whatif"), choices=(*FIGURE_FORMATS, "none"), is_open=True,
        is_list=True)
    figure_width: str | None = _figures(
        None, "WIDTH", "Columns of a paper: {choices} (3.25, 6.75 inches wide)",
        commands=(*MEASURING, "whatif", "export"), choices=("single", "double"))
    x_axis: str = _figures(
        "auto", "SCALE", "Axis of the values of a distribution: {choices}; auto is symlog where "
        "outliers hold much of the energy", commands=_DISTRIBUTIONS,
        choices=("auto", "linear", "symlog"))
    centred: bool = _figures(False, "", "Zero in the middle of that axis", commands=_DISTRIBUTIONS)
    # fmt: on
    layer: LayerSettings | None = None
    explicit: frozenset[str] = field(default=frozenset(), compare=False)
    files: frozenset[tuple[str, str]] = field(default=frozenset(), compare=False)
    trusted: frozenset[tuple[str, Any]] | None = field(default=None, compare=False)
    texts: tuple[Any, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            plain = str(value) if isinstance(value, Path) else value
            object.__setattr__(self, name, check_type(plain, option.type, name))
            option.check(getattr(self, name))
        check_type(self.layer, LayerSettings | None, "layer")
        self._check_code()
        check_choice("--dtype", self.dtype, ("auto", *DTYPES))
        for figure in self.figures:
            check_choice("--figures", figure, FIGURE_FORMATS)
        if self.resume and self.out is None:
            raise RequestError("--resume needs --out", "give the folder of the interrupted run")
        if self.formats and not self.rotate:
            raise RequestError("--rotate is empty", "give none, hadamard or both")
        if self.filler == "":
            raise RequestError("--filler is empty", "give a string such as /")
        if self.device_map is not None and self.layer is not None:
            raise RequestError(
                "--device-map is for checkpoints, not for layers built from a TOML file",
                "remove --device-map",
            )
        if self.attention_layers is not None:
            check_layers(self.attention_layers, "--attention-layers")
        parse_sites(self.at, "--at")
        if "sites" not in self.explicit and self.sites == OPTIONS["sites"].default:
            object.__setattr__(self, "sites", self.at)
        self.arm()

    def _check_code(self) -> None:
        """Raise a RequestError for a value that lets code run and is not trusted."""
        found = code_in({name: getattr(self, name) for name in OPTIONS}, OPTIONS)
        if self.trusted is None:
            object.__setattr__(self, "trusted", frozenset(found.items()))
        unknown = {name: v for name, v in found.items() if (name, v) not in (self.trusted or ())}
        refuse_code(unknown, OPTIONS, "settings")

    def trusting(self, name: str, values: Iterable[Any]) -> RunSettings:
        """Return the settings, with values of one setting that were typed and may run code."""
        typed = frozenset((name, value) for value in values)
        return dataclasses.replace(self, trusted=(self.trusted or frozenset()) | typed)

    def arm(self) -> ARM:
        """Return the redistribution of these settings."""
        from distviz.arm import ARM, make_redistribution  # NumPy: too slow for help

        names = ("c", "p1", "p_min", "p_max", "fraction", "percentile_of", "passes", "seed")
        own = {name: getattr(self, name) for name in names}
        return make_redistribution(self.redistribution, ARM(mode=self.arm_mode, **own))

    @property
    def names_text(self) -> bool:
        """Whether a text is given; otherwise embedded documents are measured."""
        return bool(self.text or self.texts or self.dataset is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as ``run.json`` records it."""
        names = (one.name for one in dataclasses.fields(self) if one.compare)
        own = {name: getattr(self, name) for name in names}
        layer = None if self.layer is None else dataclasses.asdict(self.layer)
        return copy.deepcopy(own | {"layer": layer})

    def asks_the_same(self, known: Mapping[str, Any]) -> bool:
        """Whether recorded settings, see `as_dict`, ask for the same result."""
        ignored = names_affecting("speed", "nothing")
        own = {name: value for name, value in self.as_dict().items() if name not in ignored}
        return all(known.get(name) == value for name, value in own.items())

    def with_proposal(self, proposed: dict[str, Any]) -> RunSettings:
        """Return the settings with those of `distviz.arm.propose` where none were given."""
        own = {name: value for name, value in proposed.items() if name not in self.explicit}
        if "c" in self.explicit and "fraction" not in self.explicit:
            own.pop("fraction", None)
        return dataclasses.replace(self, **own)


OPTIONS = records_of(RunSettings)
"""The settings that a command line can give, by name."""
SIDE_B = {
    f"b_{name}": option.of_side("b", _SIDE_B)
    for name, option in OPTIONS.items()
    if option.heading in (_ARM, _HARDWARE) and "compare" in option.commands
    if option.affects != "speed" and name != "threads"  # those are of the process
}
"""Options for side B of a comparison alone: those that change the model or ARM, not the text."""


def names_affecting(*kinds: Affects) -> tuple[str, ...]:
    """Return the names of the settings that change this in a result."""
    return tuple(name for name, option in OPTIONS.items() if option.affects in kinds)
