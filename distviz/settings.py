"""Settings of a measurement: from flags and TOML, checked before anything expensive starts.

A field of `RunSettings` is the whole record of a setting: command line, TOML keys, help, completion
and the commands shown in reports follow from it.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, nearest
from distviz.option import (
    HEADINGS,
    MEASURING,
    Affects,
    check_choice,
    records_of,
    setting,
)
from distviz.sites import SITES, check_layers

if TYPE_CHECKING:
    from distviz.arm import ARM

DTYPES = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
"""The allowed names of a dtype besides ``auto``, and the torch name of each."""
FIGURE_FORMATS = ("png", "svg", "pdf")
TABLE_FORMATS = ("csv", "parquet", "json")

_MODEL = (*MEASURING, "generate")
_ALONE = ("run", "compare", "generate")
_OBSERVING = ("run", "compare", "filler")
_STRING = ("run", "filler", "sweep")
_INPUT, _ARM, _FILLER, _, _, _, _HARDWARE, _OUTPUT, _ = HEADINGS

# What several settings have in common.
_tokens = partial(setting, heading=_INPUT, affects="tokens")
_counts = partial(setting, heading=_INPUT)
_arm = partial(setting, heading=_ARM, commands=_ALONE, affects="arm")
_arm_always = partial(_arm, commands=(*_ALONE, "sweep"))
_filler = partial(setting, heading=_FILLER, commands=_STRING, affects="tokens")
_source = partial(setting, heading=_HARDWARE, commands=_MODEL, affects="source")
_speed = partial(setting, heading=_HARDWARE, commands=("run", "compare"), affects="speed")
_files = partial(setting, heading=_OUTPUT, affects="nothing")
_figures = partial(setting, heading=_OUTPUT, affects="figures")
_positive = partial(setting, minimum=1)


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """Decoder layers to build from transformers' own classes; the ``[layer]`` table of a TOML."""

    architecture: str = "llama"
    layers: int = _positive(1)
    hidden_size: int = _positive(576)
    intermediate_size: int = _positive(1536)
    heads: int = _positive(9)
    kv_heads: int = _positive(3)
    activation: str = "silu"
    seed: int = 0
    weights: str | None = None
    weights_layers: list[int] = field(default_factory=list)
    input: str = setting("hidden", choices=("hidden", "tokens"))
    documents: int = _positive(8)
    tokens: int = _positive(256)
    scale: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, record in records_of(LayerSettings).items():
            record.check(getattr(self, name), f"layer.{name}")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise RequestError(f"layer.scale is {self.scale}, it must be above 0")
        for whole, part in (("hidden_size", "heads"), ("heads", "kv_heads")):
            first, second = getattr(self, whole), getattr(self, part)
            if self.weights is None and first % second:
                raise RequestError(
                    f"layer.{whole} {first} is not a multiple of layer.{part} {second}"
                )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of a measurement; ``distviz run --help`` explains each.

    ``explicit`` names those given by a flag or a file, not by default or preset.
    """

    # fmt: off
    model: str | None = _source(
        None, "MODEL", "Hugging Face folder or hub ID, .gguf file, or TOML file that describes "
        "layers to build", heading="", commands=("run", "sweep", "generate", "inspect"),
        shown="embedded demo model")
    text: list[str] = _source(
        [], "FILE", "Text to measure, repeatable: .txt is one document, .jsonl one per line, "
        "- standard input", heading=_INPUT, commands=MEASURING, shown="embedded documents")
    layers: str = _counts(
        "all", "LAYERS", "Layers to observe: all, or a list such as 0,3,8-11", commands=_OBSERVING)
    sites: str = _counts(
        "act", "SITES", "Sites to observe: {choices}, module:PATTERN", commands=_OBSERVING,
        choices=tuple(SITES), is_open=True, is_list=True)
    arm_layers: str = _arm("0", "LAYERS", "Layers with ARM: none, all, or a list such as 0,2")
    redistribution: str = _arm(
        "arm", "NAME", "Redistribution: {choices}, scale:FACTOR or module:callable",
        choices=("arm", "threshold", "scale", "noise"), is_open=True)
    c: float = _arm(0.13, "NUMBER", "Width of the near-zero band")
    p1: float = _arm(99.5, "PERCENT", "Percentile that bounds the new values")
    p_min: float = _arm_always(0.02, "SHARE", "Minimum fraction of values to move")
    p_max: float = _arm_always(0.25, "SHARE", "Maximum fraction of values to move")
    fraction: float | None = _arm(None, "SHARE", "Fraction of values to move, in place of --c")
    arm_mode: str = _arm(
        "replace", "MODE", "Replace values or add to them: {choices}", choices=("replace", "add"))
    percentile_of: str = _arm_always(
        "value", "WHAT", "Quantity that --p1 refers to: {choices}", choices=("value", "magnitude"))
    passes: int = _arm_always(1, "N", "Repetitions of ARM")
    preset: str | None = _arm_always(
        None, "NAME", "Published settings: NAME, NAME:BENCHMARK or auto", affects="source")
    ripple: bool = _arm(
        True, "", "Pass changed values to the later layers, or only compute them",
        commands=("run",), flags="--ripple/--no-ripple")
    filler: str | None = _filler(None, "STRING", "Filler string to insert")
    filler_count: int = _filler(55, "N", "Repetitions of the filler", minimum=0)
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
        None, "NAME", "Revision of a hub model", commands=(*_STRING, "generate", "inspect"))
    threads: int | None = _source(None, "N", "CPU threads", minimum=1)
    attn_implementation: str | None = _counts(
        None, "NAME", "Attention implementation, such as eager or sdpa", heading=_HARDWARE,
        commands=_MODEL)
    attention_layers: str | None = _counts(
        None, "LAYERS", "Layers whose attention weights are recorded: all, none, or 0,3",
        commands=("filler",), shown="as --layers")
    allow_pickle: bool = _source(False, "", "Load pickle weights, which can run code")
    trust_remote_code: bool = _source(
        False, "", "Run the checkpoint's own Python code", commands=(*_MODEL, "inspect"))
    skip_special: bool = _tokens(False, "", "Exclude special tokens from the statistics")
    classes: str = _counts(
        "arm", "WHERE",
        "Separate statistics by token class: on ARM layers (arm) or on all layers (all)",
        commands=("run",), choices=("arm", "all"))
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
    # fmt: on
    layer: LayerSettings | None = None
    explicit: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            option.check(getattr(self, name))
        check_choice("--dtype", self.dtype, ("auto", *DTYPES))
        for figure in self.figures:
            check_choice("--figures", figure, FIGURE_FORMATS)
        if self.resume and self.out is None:
            raise RequestError("--resume needs --out", "give the folder of the interrupted run")
        if self.device_map is not None and self.layer is not None:
            raise RequestError(
                "--device-map is for checkpoints, not for layers built from a TOML file",
                "remove --device-map",
            )
        if self.attention_layers is not None:
            check_layers(self.attention_layers, "--attention-layers")
        self.arm()

    def arm(self) -> ARM:
        """Return the redistribution of these settings."""
        from distviz.arm import ARM, make_redistribution  # NumPy: too slow for help

        parameters = ARM(
            c=self.c,
            p1=self.p1,
            p_min=self.p_min,
            p_max=self.p_max,
            fraction=self.fraction,
            mode=self.arm_mode,
            percentile_of=self.percentile_of,
            passes=self.passes,
            seed=self.seed,
        )
        return make_redistribution(self.redistribution, parameters)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as ``run.json`` records it."""
        plain = dataclasses.asdict(self)
        del plain["explicit"]
        return plain

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


def names_affecting(*kinds: Affects) -> tuple[str, ...]:
    """Return the names of the settings that change this in a result."""
    return tuple(name for name, option in OPTIONS.items() if option.affects in kinds)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into plain data with underscores in its keys.

    Raises
    ------
    RequestError
        If the file cannot be read or is not TOML.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path} cannot be read as TOML: {reason}") from error
    return {key.replace("-", "_"): value for key, value in data.items()}


def build_settings(
    flags: dict[str, Any],
    config: Path | None = None,
    model: str | None = None,
    *,
    applies_preset: bool = True,
) -> RunSettings:
    """Join flags, TOML files and defaults, in this order of precedence.

    Parameters
    ----------
    flags
        Flags; None means not given.
    config
        File of ``--config``.
    model
        MODEL; a ``.toml`` counts as a second, weaker ``--config`` that may describe layers.
    applies_preset
        Whether to apply the settings of the preset, or only name it (a sweep tries many).

    Raises
    ------
    RequestError
        If a key is unknown (the nearest valid one is named), mistyped, or out of range.
    """
    from distviz.arm import find_preset

    is_toml = model is not None and model.endswith(".toml")
    merged: dict[str, Any] = {}
    for path in (Path(str(model)) if is_toml else None, config):
        if path is not None:
            if not path.exists():
                raise RequestError(f"{path} does not exist")
            merged |= _check_table(read_toml(path), RunSettings, str(path))
    given = {name: value for name, value in flags.items() if value is not None}
    if model is not None and not is_toml:
        given["model"] = model
        merged.pop("layer", None)
    explicit = frozenset(merged | given)
    name = given.get("preset", merged.get("preset"))
    if name is not None and applies_preset:
        # A preset stands between defaults and explicit settings.
        preset = find_preset(name, given.get("model", merged.get("model"))) or {}
        if "c" in explicit and "fraction" not in explicit:
            preset.pop("fraction", None)  # an explicit c would have no effect
        merged = preset | merged
    return RunSettings(**(merged | given), explicit=explicit)


def _check_table(data: dict[str, Any], kind: type, where: str, prefix: str = "") -> dict[str, Any]:
    """Check keys and types against a dataclass; a list of one may be given as its value."""
    hints = typing.get_type_hints(kind)
    hints.pop("explicit", None)
    checked: dict[str, Any] = {}
    for written, value in data.items():
        key = written.replace("-", "_")
        if key not in hints:
            raise RequestError(
                f"{where}: unknown key '{prefix}{written}'{nearest(key, hints)}",
                f"allowed: {', '.join(hints)}",
            )
        if key == "layer" and isinstance(value, dict):
            table = _check_table(value, LayerSettings, where, "layer.")
            checked[key] = LayerSettings(**table)
        else:
            checked[key] = _check_type(value, hints[key], f"{where}: '{prefix}{written}'")
    return checked


def _check_type(value: Any, hint: Any, where: str) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in kinds:
        origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin is list:
            items = value if isinstance(value, list) else [value]
            if all(_is_a(item, inner[0]) for item in items):
                return items
        elif _is_a(value, origin):
            return float(value) if origin is float else value
    expected = " or ".join(_TYPE_NAMES[kind] for kind in kinds)
    raise RequestError(f"{where} is {value!r}, expected {expected}")


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    type(None): "nothing",
    list[str]: "a list of strings",
    list[int]: "a list of whole numbers",
    dict[str, Any]: "a table",
    LayerSettings: "a table",
}


def _is_a(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)
