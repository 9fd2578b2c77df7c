"""Settings of the commands: from flags and TOML, checked before anything expensive starts."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distviz.arm import ARM, find_preset, make_redistribution
from distviz.errors import RequestError, nearest
from distviz.sites import check_layers

__all__ = [
    "DTYPES",
    "LayerSettings",
    "RunSettings",
    "build_settings",
    "check_figure_width",
    "read_toml",
]

DTYPES = {
    "auto": "auto",
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
FIGURE_FORMATS = ("png", "svg", "pdf")
FIGURE_WIDTHS = ("single", "double")
FILLER_POSITIONS = ("start", "between", "end", "random")
FILLER_KINDS = ("repeat", "random", "words")
CLASS_CHOICES = ("arm", "all")
_LAYER_TABLE = "layer"
_AWAY = frozenset(("out", "force", "resume", "save_every", "stream", "stream_memory"))
"""Settings that leave a result as it is."""


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """Decoder layers to build from transformers' own classes; the ``[layer]`` table of a TOML."""

    architecture: str = "llama"
    layers: int = 1
    hidden_size: int = 576
    intermediate_size: int = 1536
    heads: int = 9
    kv_heads: int = 3
    activation: str = "silu"
    seed: int = 0
    weights: str | None = None
    weights_layers: list[int] = field(default_factory=list)
    input: str = "hidden"
    documents: int = 8
    tokens: int = 256
    scale: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counted = ("layers", "hidden_size", "intermediate_size", "heads", "kv_heads")
        for name in (*counted, "documents", "tokens"):
            _at_least(f"layer.{name}", getattr(self, name), 1)
        _one_of("layer.input", self.input, ("hidden", "tokens"))
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise RequestError(f"layer.scale is {self.scale}, it must be above 0")
        if self.weights is None and self.hidden_size % self.heads:
            raise RequestError(
                f"layer.hidden_size {self.hidden_size} is not a multiple of "
                f"layer.heads {self.heads}"
            )
        if self.weights is None and self.heads % self.kv_heads:
            raise RequestError(
                f"layer.heads {self.heads} is not a multiple of layer.kv_heads {self.kv_heads}"
            )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything ``distviz run`` can be told; the command reference explains each by its flag.

    ``explicit`` names what was said by a flag or a file rather than by default or preset.
    """

    model: str | None = None
    text: list[str] = field(default_factory=list)
    layers: str = "all"
    sites: str = "act"
    arm_layers: str = "0"
    redistribution: str = "arm"
    c: float = 0.13
    p1: float = 99.5
    p_min: float = 0.02
    p_max: float = 0.25
    fraction: float | None = None
    arm_mode: str = "replace"
    percentile_of: str = "value"
    passes: int = 1
    preset: str | None = None
    ripple: bool = True
    filler: str | None = None
    filler_count: int = 55
    filler_position: str = "between"
    filler_kind: str = "repeat"
    chat_template: bool = False
    max_length: int = 512
    max_tokens: int | None = None
    batch_size: int = 4
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    stream: bool | None = None
    stream_memory: int | None = None
    revision: str | None = None
    threads: int | None = None
    attn_implementation: str | None = None
    attention_layers: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False
    skip_special: bool = False
    classes: str = "arm"
    keep_text: bool = True
    seed: int = 0
    out: str | None = None
    force: bool = False
    resume: bool = False
    save_every: float = 10.0
    figures: list[str] = field(default_factory=lambda: ["png"])
    figure_width: str | None = None
    layer: LayerSettings | None = None
    explicit: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        for name, least in (("max_length", 2), ("batch_size", 1), ("filler_count", 0)):
            _at_least(name, getattr(self, name), least)
        for name, least in (("max_tokens", 1), ("threads", 1), ("stream_memory", 0)):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), least)
        if not 0 <= self.save_every < math.inf:
            raise RequestError(f"--save-every is {self.save_every}, it must be at least 0")
        if self.resume and self.out is None:
            raise RequestError(
                "--resume needs --out", "give the folder that the interrupted run was to write"
            )
        if self.device_map is not None and self.layer is not None:
            raise RequestError(
                "--device-map places whole checkpoints, not layers built from a TOML",
                "leave it out",
            )
        _one_of("dtype", self.dtype, tuple(DTYPES))
        _one_of("filler_position", self.filler_position, FILLER_POSITIONS)
        _one_of("filler_kind", self.filler_kind, FILLER_KINDS)
        _one_of("classes", self.classes, CLASS_CHOICES)
        if self.attention_layers is not None:
            check_layers(self.attention_layers, "--attention-layers")
        for figure in self.figures:
            _one_of("figures", figure, FIGURE_FORMATS)
        check_figure_width(self.figure_width)
        self.arm()

    def arm(self) -> ARM:
        """Return the redistribution that these settings ask for."""
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
        return all(
            known.get(name) == value for name, value in self.as_dict().items() if name not in _AWAY
        )

    def with_proposal(self, proposed: dict[str, Any]) -> RunSettings:
        """Return the settings with what `presets.propose` says, where nothing was said."""
        own = {name: value for name, value in proposed.items() if name not in self.explicit}
        if "c" in self.explicit and "fraction" not in self.explicit:
            own.pop("fraction", None)
        return dataclasses.replace(self, **own)


def check_figure_width(width: str | None) -> None:
    """Raise a RequestError unless it is None, ``"single"`` or ``"double"``."""
    if width is not None:
        _one_of("figure_width", width, FIGURE_WIDTHS)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise RequestError(f"{_flag(name)} is {value}, it must be at least {least}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RequestError(
            f"{_flag(name)} is '{value}'{nearest(value, allowed)}",
            f"allowed: {', '.join(allowed)}",
        )


def _flag(name: str) -> str:
    return name if "." in name else "--" + name.replace("_", "-")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into plain data with underscores in its keys.

    Raises
    ------
    RequestError
        If it is not there or not TOML.
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
    """Join flag, TOML and default, in this order of precedence.

    Parameters
    ----------
    flags
        What the user typed; a value of None means not given.
    config
        File of ``--config``.
    model
        MODEL; a ``.toml`` counts as a second, weaker ``--config`` that may describe layers.
    applies_preset
        Whether the settings become those of the preset, or only name it (a sweep tries many).

    Raises
    ------
    RequestError
        If a key is unknown (the nearest valid one is named), mistyped, or out of range.
    """
    merged: dict[str, Any] = {}
    for path in _config_files(config, model):
        if not path.exists():
            raise RequestError(f"{path} is not there")
        merged |= _check_table(read_toml(path), RunSettings, str(path))
    given = {name: value for name, value in flags.items() if value is not None}
    if model is not None and not model.endswith(".toml"):
        given["model"] = model
        merged.pop(_LAYER_TABLE, None)
    explicit = frozenset(merged | given)
    name = given.get("preset", merged.get("preset"))
    if name is not None and applies_preset:
        # A preset stands between defaults and everything said explicitly.
        preset = find_preset(name, given.get("model", merged.get("model"))) or {}
        if "c" in explicit and "fraction" not in explicit:
            preset.pop("fraction", None)  # a given share would leave c without effect
        merged = preset | merged
    return RunSettings(**(merged | given), explicit=explicit)


def _config_files(config: Path | None, model: str | None) -> list[Path]:
    files = [Path(model)] if model is not None and model.endswith(".toml") else []
    return files + ([config] if config is not None else [])


def _check_table(data: dict[str, Any], kind: type, where: str, prefix: str = "") -> dict[str, Any]:
    """Check keys and types against a dataclass; lists of one kind may be given as one value."""
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
        if key == _LAYER_TABLE and isinstance(value, dict):
            table = _check_table(value, LayerSettings, where, "layer.")
            checked[key] = LayerSettings(**table)
            continue
        checked[key] = _check_type(value, hints[key], f"{where}: '{prefix}{written}'")
    return checked


def _check_type(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        origin, inner = typing.get_origin(option) or option, typing.get_args(option)
        if origin is list:
            items = value if isinstance(value, list) else [value]
            if all(_is_a(item, inner[0]) for item in items):
                return items
        elif _is_a(value, origin):
            return float(value) if origin is float else value
    expected = " or ".join(_TYPE_NAMES.get(str(option), str(option)) for option in options)
    raise RequestError(f"{where} is {value!r}, expected {expected}")


_TYPE_NAMES = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'str'>": "a string",
    "<class 'bool'>": "true or false",
    "<class 'NoneType'>": "nothing",
    "list[str]": "a list of strings",
    "list[int]": "a list of whole numbers",
    "dict[str, typing.Any]": "a table",
    str(LayerSettings): "a table",
}


def _is_a(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(kind, type) and isinstance(value, kind)
