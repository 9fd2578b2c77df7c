"""What is observed and where: sites, phases, keys, and the parsing of layer lists."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from distviz.errors import MeasurementError, RequestError, nearest
from distviz.output import counted
from distviz.parsing import whole_number, word_list

SITES: dict[str, str] = {
    "mlp_in": "the input of the first projections of the MLP",
    "gate": "the input of the activation function",
    "act": "the output of the activation function, where ARM acts",
    "up": "the output of the up projection (absent where the MLP is not gated)",
    "product": "the input of the down projection",
    "down": "the output of the down projection, before a norm behind it and the residual sum",
    "attn_in": "the input of the query, key and value projections",
    "q": "the query projection, before RoPE",
    "k": "the key projection, before RoPE",
    "v": "the value projection",
    "attention": "the input of the output projection of the attention",
    "residual": "the output of the decoder layer",
}
"""Site -> description, in the order of the layer."""

LINEAR = ("attn_in", "attention", "mlp_in", "product")
"""What enters the linear layers of a decoder layer; ``linear`` in a list of sites means them."""

ACT = "act"
"""The site that ARM was published for."""

PHASES: dict[str, str] = {
    "before": "the activation in the unchanged model",
    "after": "the activation in the model with ARM",
    "arm_input": "on an ARM layer after another ARM layer: the input of its own ARM",
    "moved_before": "on an ARM layer: the moved values, before",
    "moved_after": "on an ARM layer: the moved values, after",
}
"""Phase -> description."""

MODULE_PREFIX = "module:"
"""Prefix of a pattern on module paths, a site that observes the output of any module."""

INPUT_PREFIX = "input:"
"""Prefix of a pattern on module paths, a site that observes the input of any module."""


class SiteKey(NamedTuple):
    """The key of one observed distribution."""

    layer: int
    stack: str
    site: str
    phase: str
    module: str


_DEPTH = {
    "attn_in": 0, "q": 1, "k": 1, "v": 1, "attention": 2, "mlp_in": 3, "gate": 4, "up": 4, "act": 5,
    "product": 6, "down": 7, "residual": 8,
}  # fmt: skip
"""Site -> how deep it stands in the forward pass of a layer."""


def is_behind(point: HookPoint, other: HookPoint) -> bool:
    """Return whether a point stands behind another in its stack.

    True where the order is not known: for a pattern in the same layer, or outside all.
    """
    if point == other or (point.stack != other.stack and min(point.layer, other.layer) > -1):
        return False
    if point.layer != other.layer and min(point.layer, other.layer) > -1:
        return other.layer < point.layer
    if point.site not in _DEPTH or other.site not in _DEPTH:
        return True
    return _DEPTH[other.site] < _DEPTH[point.site]


def key_order(key: SiteKey) -> tuple[int | str, ...]:
    """Sort keys by stack, layer, site (in the order of the layer), module and phase."""
    sites, phases = list(SITES), list(PHASES)
    site = sites.index(key.site) if key.site in SITES else len(sites)
    phase = phases.index(key.phase) if key.phase in PHASES else len(phases)
    return (key.stack, key.layer, site, key.site, key.module, phase)


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One place in a model that can be observed.

    Parameters
    ----------
    layer
        0-based index of the layer in its stack; -1 for a module outside the layers.
    stack
        ``"decoder"``, ``"encoder"`` or the name of another tower.
    site
        A name of :data:`SITES`, or a ``module:`` or ``input:`` pattern.
    module
        Path of the module whose input or output is observed, as in ``named_modules()``.
    takes
        ``"input"`` (its first positional argument) or ``"output"``.
    part
        ``(start, stop)`` on the last dimension where a fused projection is split, else ``None``.
    chain
        Steps of torch functions inside the module's forward, see
        :mod:`distviz.models.architectures.function_tracer`: what enters the first of them
        (``takes`` is ``"input"``) or leaves the last. Empty: the module's own input or output.
    also
        Paths of the other modules that the same tensor enters (``takes`` is ``"input"``); where it
        is replaced, it is replaced for them, too.
    within
        Path of the layer during whose call alone the place counts, where several layers share one
        module; else empty.
    experts
        Path of the module that holds the routed experts whose rows pass here, ``None`` where
        rows are tokens in order. With it, a ``*`` in `module` stands for every expert.
    channel_dim
        The dimension of the tensor that holds the channels: -1 is the last; None where each call
        tells it. It does not distinguish points.
    may_be_silent
        Whether nothing needs to pass here in a call of the model. It does not distinguish points.
    """

    layer: int
    stack: str
    site: str
    module: str
    takes: str
    part: tuple[int, int] | None = None
    chain: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    within: str = ""
    experts: str | None = None
    channel_dim: int | None = dataclasses.field(default=-1, compare=False)
    may_be_silent: bool = dataclasses.field(default=False, compare=False)

    def is_in(self, points: Iterable[HookPoint]) -> bool:
        """Return whether it is among some points."""
        return self in points


@dataclass(frozen=True, slots=True)
class EveryActivation(HookPoint):
    """All activations that run in the forward pass of a model without transformer layers.

    The points of ``act`` (``takes`` is ``"output"``) or ``gate`` (``"input"``) are found while the
    model runs. Their layers are 0, 1, 2 … in the order in which they first run; ``module`` is the
    path of the module, or the path of the caller and the name of the function; ``_1``, ``_2`` …
    are its further runs in one call of that caller.

    Parameters
    ----------
    layers
        Those that are wanted; None: all.
    channel_dims
        (pattern on `module`, dimension) of those whose channels are not followed.
    """

    layers: frozenset[int] | None = None
    channel_dims: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, site: str, layers: frozenset[int] | None) -> EveryActivation:
        """Return the point for site ``act`` or ``gate``."""
        takes = "output" if site == ACT else "input"
        return cls(-1, "model", site, "", takes, channel_dim=None, layers=layers)

    def is_in(self, points: Iterable[HookPoint]) -> bool:
        """Return whether one of its activations is among some points."""
        own = (self.stack, self.site)
        return any((point.stack, point.site) == own for point in points)

    def found(self, layer: int, module: str) -> HookPoint:
        """Return one activation."""
        point = HookPoint(layer, self.stack, self.site, module, self.takes, channel_dim=None)
        return with_channel_dim(point, self.channel_dims)

    def wants(self, layer: int) -> bool:
        """Return whether an activation is one of the chosen layers."""
        return self.layers is None or layer in self.layers

    def check(self, fired: Iterable[HookPoint]) -> None:
        """Raise MeasurementError if none, or not all of the chosen layers, were found."""
        found = {
            point.layer for point in fired if (point.stack, point.site) == (self.stack, self.site)
        }
        missing = [] if self.layers is None else sorted(self.layers - found)
        if missing or not found:
            which = f" of layer {join_layers(missing)}" if missing else ""
            raise MeasurementError(
                f"no activation{which} ran in the forward pass (site {self.site})",
                "layers are the activations in the order of the forward pass, 0 is the first; "
                "module:PATTERN observes the output of any module, input:PATTERN its input",
            )


def with_channel_dim(point: HookPoint, given: Sequence[tuple[str, int]]) -> HookPoint:
    """Return a point whose channels are in the dimension of the first pattern that matches it."""
    for pattern, dim in given:
        if fnmatchcase(point.module, pattern):
            return dataclasses.replace(point, channel_dim=dim)
    return point


def layer_range(n_layers: int) -> str:
    """Return ``6 layers, 0 to 5 (0 is the first)`` or ``1 layer, layer 0``."""
    numbers = f"0 to {n_layers - 1} (0 is the first)" if n_layers > 1 else "layer 0"
    return f"{counted(n_layers, 'layer')}, {numbers}"


def parse_layers(text: str, n_layers: int, option: str = "--layers") -> list[int]:
    """Parse ``all``, ``none`` or ``0,3,8-11`` into sorted 0-based indices.

    Raises
    ------
    RequestError
        If the text is malformed or names a layer that does not exist.
    """
    word = text.strip().lower()
    if word == "all":
        return list(range(n_layers))
    if word == "none":
        return []
    chosen: set[int] = set()
    for first, last in _spans(word, option):
        if last >= n_layers:
            raise RequestError(
                f"{option} {text}: layer {last} does not exist",
                f"this model has {layer_range(n_layers)}",
            )
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def check_layers(text: str, option: str = "--layers") -> None:
    """Check a list of layers without knowing their number.

    Raises
    ------
    RequestError
        If the text is malformed.
    """
    if text.strip().lower() not in ("all", "none"):
        _spans(text, option)


def _spans(text: str, option: str) -> list[tuple[int, int]]:
    found = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", item)
        if not match:
            raise RequestError(
                f"{option} '{text}' is not a list of layers",
                "give all, none, or indices and ranges such as 0,3,8-11 (0 is the first layer)",
            )
        first = whole_number(match[1], option)
        last = whole_number(match[2], option) if match[2] else first
        if last < first:
            raise RequestError(f"{option} '{text}': the range {item.strip()} runs backwards")
        found.append((first, last))
    return found


def join_layers(layers: Iterable[int]) -> str:
    """Write indices as `parse_layers` reads them: ``"0,3,8-11"``; ``"none"`` for none."""
    found: list[list[int]] = []
    for layer in sorted(set(layers)):
        if found and found[-1][-1] == layer - 1:
            found[-1].append(layer)
        else:
            found.append([layer])
    spans = (f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in found)
    return ",".join(spans) or "none"


def parse_sites(text: str, option: str = "--sites", *, known: Collection[str] = ()) -> list[str]:
    """Parse a comma-separated list of sites; keeps the order of :data:`SITES`, then patterns.

    ``linear`` stands for the sites of :data:`LINEAR`; ``known`` are names of a result that are
    allowed as well, such as ``gradient:act``, and those of inputs belong to ``linear``.

    Raises
    ------
    RequestError
        If a name is neither a site nor a pattern, or the list is empty.
    """
    if not text.strip():
        raise RequestError(
            f"{option} is empty",
            f"allowed: {', '.join(SITES)}, linear, module:PATTERN, input:PATTERN",
        )
    names = word_list(text, option)
    if optional_sites(text):
        inputs = [name for name in known if name.startswith(INPUT_PREFIX)]
        names = [name for name in names if name != "linear"] + [*LINEAR, *inputs]
    for name in names:
        if name not in SITES and name not in known and not pattern_of(name):
            raise RequestError(
                f"unknown site '{name}'{nearest(name, SITES)}",
                f"allowed: {', '.join(SITES)}, linear for what enters linear layers, "
                "module:PATTERN for any module's output, or input:PATTERN for its input",
            )
    ordered = [name for name in SITES if name in names]
    return ordered + list(dict.fromkeys(name for name in names if name not in SITES))


def join_sites(parts: Iterable[str]) -> str:
    """Return the sites of several lists, each once."""
    return ",".join(parse_sites(",".join(dict.fromkeys(",".join(parts).split(",")))))


def pattern_of(site: str) -> str:
    """Return the pattern on module paths that a site is; empty if it is none."""
    prefix = next((one for one in (MODULE_PREFIX, INPUT_PREFIX) if site.startswith(one)), None)
    return "" if prefix is None else site.removeprefix(prefix)


def optional_sites(text: str) -> tuple[str, ...]:
    """Return the sites that a model may lack: those of :data:`LINEAR` if ``linear`` is listed."""
    return LINEAR if "linear" in (word.strip() for word in text.split(",")) else ()


_MOST_STEPS = 5
_STEP = re.compile(r"norm|scale|× -?[\d.e+-]{1,12}")


@dataclass(frozen=True)
class LayerOrder:
    """What a decoder layer does to its input, in the order of its forward pass.

    Attributes
    ----------
    before_attention, before_mlp
        Number of norms between the residual stream and a branch that are not part of the stream.
    on_q, on_k, on_v, before_output, before_down
        Number of norms on queries, keys, values, and before the last projection of a branch.
    after_attention, after_mlp
        What a branch passes before it is added: ``"norm"``, ``"scale"`` (learned), or a factor.
    stream_after_attention, stream_after_mlp
        Number of norms of the residual stream itself, after each addition.
    is_parallel
        Whether attention and MLP read the same input, and are added together.
    shares_norm
        Whether a norm before the attention is that before the MLP.
    """

    before_attention: int = 1
    before_mlp: int = 1
    on_q: int = 0
    on_k: int = 0
    on_v: int = 0
    before_output: int = 0
    before_down: int = 0
    after_attention: tuple[str, ...] = ()
    after_mlp: tuple[str, ...] = ()
    stream_after_attention: int = 0
    stream_after_mlp: int = 0
    is_parallel: bool = False
    shares_norm: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as ``run.json`` records it."""
        plain = dataclasses.asdict(self).items()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain}

    @classmethod
    def read(cls, data: object) -> LayerOrder | None:
        """Return the order that ``run.json`` records; None where it records nothing sensible."""
        if not isinstance(data, dict) or set(data) != set(cls.__dataclass_fields__):
            return None
        for name, value in data.items():
            default = cls.__dataclass_fields__[name].default
            if isinstance(default, tuple):
                steps = value if isinstance(value, list | tuple) else [None]
                is_right = len(steps) <= _MOST_STEPS and all(map(_STEP.fullmatch, map(str, steps)))
            else:
                is_right = type(value) is type(default) and value in range(_MOST_STEPS)
            if not is_right:
                return None
        return cls(**data)
