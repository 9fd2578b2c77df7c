"""Hooks that come off again: observe the points of a model, and put ARM behind its activations.

The mask is taken from the model's own call, so both are right inside a padded batch and inside
``generate`` (left padding, one token a step). A hooked place that never fires is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from distviz.arm import ARM, Plan
from distviz.errors import MeasurementError, RequestError
from distviz.hooks.attach import Receive, attach_hook
from distviz.hooks.moe_routing import Routing, force_batched_experts, track_routing
from distviz.hooks.recorder import Recorder, Tokens
from distviz.hooks.token_tracker import Tracker, rows_of
from distviz.models import bare, uncompiled
from distviz.models.architectures import count_layers, find_mlps, find_points
from distviz.sites import HookPoint, parse_layers

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "STEPS",
    "Layers",
    "Redistribution",
    "Tracker",
    "check_fired",
    "choose_points",
    "experts_of",
    "observe",
    "observing",
    "redistribute",
]

STEPS = ("both", "prefill", "decode")
"""When a redistribution acts: without a cache behind the tokens, with one, or always."""
_active: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@contextmanager
def observe(
    model: nn.Module,
    points: Sequence[HookPoint],
    receive: Callable[[HookPoint, torch.Tensor, Tokens], None],
    tracker: Tracker,
    parts: set[HookPoint] | None = None,
) -> Iterator[None]:
    """Call ``receive(point, (rows, channels), tokens)`` for every point of every forward call.

    Every hook is removed on leaving, in every case. With ``parts`` a piece of one forward call is
    hooked: the tracker is told its tokens, points that fire are added to the set, and it is for
    the caller to call `check_fired` when the forward call is complete.

    Raises
    ------
    MeasurementError
        On leaving, if the model was called and a point never fired.
    """
    fired: set[HookPoint] = set() if parts is None else parts
    before = tracker.calls

    def observe(point: HookPoint, value: Any) -> None:
        while isinstance(value, tuple | list):
            value = value[0]
        tensor = value.detach()
        if point.part is not None:
            tensor = tensor[..., point.part[0] : point.part[1]]
        fired.add(point)
        routing = routings[point.experts] if point.experts is not None else None
        if routing is not None and routing.is_rehearsing:
            return
        seen = _attribute(point, rows_of(tensor, tracker.tokens), tracker, routing)
        if seen is not None:
            receive(point, seen[0].contiguous(), seen[1])

    with ExitStack() as stack:
        if parts is None:
            tracker.track_calls(model, stack)
        routings = stack.enter_context(track_routing(model, experts_of(points)))
        attach_hook(model, points, observe, stack)
        yield
    fired.update(point for point in points if _is_idle(point, routings))
    if parts is None and tracker.calls > before:
        check_fired(points, fired)


def check_fired(points: Sequence[HookPoint], fired: Collection[HookPoint]) -> None:
    """Raise MeasurementError if a point never fired."""
    silent = [f"{point.module} (site {point.site})" for point in points if point not in fired]
    if silent:
        shown = ", ".join(silent[:3]) + (f" and {len(silent) - 3} more" if silent[3:] else "")
        raise MeasurementError(
            f"never reached in the forward pass: {shown}",
            "a fused kernel or another code path skips it; try attn_implementation='eager', or "
            "leave it out",
        )


def experts_of(points: Sequence[HookPoint]) -> list[str]:
    """Return the paths of the experts whose rows pass some points."""
    return [point.experts for point in points if point.experts is not None]


def _is_idle(point: HookPoint, routings: dict[str, Routing]) -> bool:
    """Whether no token came to the experts that a point belongs to."""
    return point.experts is not None and routings[point.experts].is_idle


def _attribute(
    point: HookPoint, rows: torch.Tensor, tracker: Tracker, routing: Routing | None
) -> tuple[torch.Tensor, Tokens] | None:
    """Return rows with the tokens they belong to; None while more rows of experts are to come."""
    if routing is None:
        return rows, tracker.current(point, rows.shape[0])
    whole = routing.take(point, rows)
    if whole is None:
        return None
    tokens = tracker.current(point, whole[1].n_tokens)
    return whole[0], replace(tokens, routed=whole[1])


Report = Callable[
    [HookPoint, "torch.Tensor", "torch.Tensor", "torch.Tensor", list[list[Plan | None]], Tokens],
    None,
]
"""Told of one point: rows before, rows after, which moved, a list of plans a row of the batch."""


@dataclass
class Redistribution:
    """ARM on some points of a model; what it did is handed to ``report`` if there is one."""

    arm: ARM
    points: Sequence[HookPoint]
    tracker: Tracker
    on: str = "both"
    report: Report | None = None
    writes: bool = True
    _pending: dict[HookPoint, list[_Change]] = field(default_factory=dict)

    @contextmanager
    def active(
        self, model: nn.Module, parts: set[HookPoint] | None = None
    ) -> Iterator[Redistribution]:
        """Put ARM behind the points; hooks come off on leaving, in every case.

        With ``parts`` a piece of one forward call is hooked, see `observe`.
        """
        fired: set[HookPoint] = set() if parts is None else parts
        before = self.tracker.calls
        with ExitStack() as stack:
            if parts is None:
                self.tracker.track_calls(model, stack)
            stack.enter_context(force_batched_experts(model, experts_of(self.points)))
            routings = stack.enter_context(track_routing(model, experts_of(self.points)))
            # First in line, so that whoever watches this place sees what ARM made.
            attach_hook(
                model, self.points, self._receiver(fired, routings), stack, first=self.writes
            )
            for path, routing in routings.items():
                self._rehearse_first(path, routing, stack)
            if self.writes:
                base = getattr(model, "base_model", model)
                _active[base] = _active.get(base, 0) + 1
                stack.callback(_deactivate, base)
            yield self
        fired.update(point for point in self.points if _is_idle(point, routings))
        if parts is None and self.tracker.calls > before:
            check_fired(self.points, fired)

    def _rehearse_first(self, path: str, routing: Routing, stack: ExitStack) -> None:
        """Where experts come one by one, let them run ahead: ARM needs the values of all."""
        here = [point for point in self.points if point.experts == path]

        def rehearse(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for point in here:
                self._pending.pop(point, None)
            comes_in_pieces = routing.layout is not None and len(routing.layout.sizes) > 1
            if self.writes and comes_in_pieces and self._is_wanted():
                routing.rehearse(args, kwargs)

        handle = routing.module.register_forward_pre_hook(rehearse, with_kwargs=True)
        stack.callback(handle.remove)

    def _is_wanted(self) -> bool:
        return self.on == "both" or (self.on == "decode") == (self.tracker.past > 0)

    def _receiver(self, fired: set[HookPoint], routings: dict[str, Routing]) -> Receive:
        def receive(point: HookPoint, output: torch.Tensor) -> torch.Tensor | None:
            fired.add(point)
            routing = routings[point.experts] if point.experts is not None else None
            rehearses = routing is not None and routing.is_leading
            if routing is not None and routing.is_rehearsing and not rehearses:
                return None
            if self._pending.get(point) and not rehearses:
                return self._written(output, self._pending[point].pop(0))
            rows = output.reshape(-1, output.shape[-1])
            seen = _attribute(point, rows, self.tracker, routing)
            if seen is None or not self._is_wanted():
                return None
            change = self._change(point, *seen, keeps_moved=rehearses or output.requires_grad)
            if not self.writes:
                return None
            if routing is not None and rehearses:
                self._pending[point] = change.split(routing)
                return None
            return self._written(output, change)

        return receive

    def _change(
        self, point: HookPoint, rows: torch.Tensor, tokens: Tokens, *, keeps_moved: bool
    ) -> _Change:
        new, plans, moved = self.arm.trace_rows(
            rows,
            tokens.sequences(),
            layer=point.layer,
            find_moved=keeps_moved or self.report is not None,
        )
        if self.report is not None and moved is not None:
            self.report(point, rows.detach(), new, moved, plans, tokens)
        return _Change(new, moved)

    def _written(self, output: torch.Tensor, change: _Change) -> torch.Tensor:
        import torch

        new = change.new
        if output.requires_grad and change.moved is not None:
            # A moved value is a constant to autograd (in mode "add": its old value plus one).
            old = output.reshape(new.shape)
            shift = old - old.detach() if self.arm.mode == "add" else torch.zeros_like(old)
            new = torch.where(change.moved.bool(), new + shift, old)
        return new.reshape(output.shape)


@dataclass(frozen=True)
class _Change:
    """Rows as ARM makes them, and which of their values it moved."""

    new: torch.Tensor
    moved: torch.Tensor | None

    def split(self, routing: Routing) -> list[_Change]:
        """Cut into the pieces in which the experts ask for them."""
        sizes = routing.layout.sizes if routing.layout is not None else ()
        ends = np.cumsum(sizes).tolist()
        spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return [
            _Change(self.new[span], None if self.moved is None else self.moved[span])
            for span in spans
        ]


def _deactivate(model: nn.Module) -> None:
    _active[model] -= 1
    if not _active[model]:
        del _active[model]


def phase_of(model: nn.Module) -> str:
    """Return ``"after"`` while ARM writes into the model, else ``"before"``."""
    return "after" if _active.get(getattr(model, "base_model", model)) else "before"


Layers = str | int | Collection[int] | Mapping[str, str | int | Collection[int]]
"""``"all"``, ``"0,3-5"``, an index, a list of indices; or any of them for each stack by name."""


def choose_points(model: nn.Module, sites: Sequence[str], layers: Layers) -> list[HookPoint]:
    """Return the points of some sites in some layers of a model.

    Layers given by stack reach every tower of the model; else a model that reads text is observed
    in its language stacks alone.

    Raises
    ------
    RequestError
        If a stack, layer or site does not exist, or the model has no MLP.
    """
    if not isinstance(layers, Mapping):
        mlps = find_mlps(model)
        chosen = _choose(layers, max(count_layers(mlps).values()))
        return find_points(mlps, model, sites, chosen) if chosen else []
    mlps = find_mlps(model, towers=True)
    counts = count_layers(mlps)
    for stack in layers:
        if stack not in counts:
            raise RequestError(f"there is no stack '{stack}'", f"allowed: {', '.join(counts)}")
    by_stack = {stack: _choose(of_it, counts[stack]) for stack, of_it in layers.items()}
    return find_points(mlps, model, sites, by_stack) if any(by_stack.values()) else []


def _choose(layers: str | int | Collection[int], n_layers: int) -> list[int]:
    if isinstance(layers, str):
        return parse_layers(layers, n_layers, "layers")
    wanted = [layers] if isinstance(layers, int) else sorted(set(layers))
    return parse_layers(",".join(map(str, wanted)) if wanted else "none", n_layers, "layers")


@contextmanager
def redistribute(
    model: nn.Module,
    arm: ARM | None = None,
    layers: Layers = 0,
    *,
    on: str = "both",
) -> Iterator[Redistribution]:
    """Put ARM behind the activation function of some layers while the context lasts.

    Works on any transformers model, inside ``generate`` and whatever calls the model; the model's
    code and weights are not touched. A model inside PEFT or data parallelism is found, and compiled
    code runs uncompiled meanwhile, with a warning.

    Parameters
    ----------
    model
        A transformers model with MLPs.
    arm
        The redistribution; None uses the published defaults.
    layers
        0-based indices, or text such as ``"0,3-5"`` and ``"all"``; or a mapping from the name of
        a stack to them (``{"vision_tower": "all"}``).
    on
        ``"prefill"``, ``"decode"`` (steps with a cache behind them) or ``"both"``.

    Raises
    ------
    RequestError
        If a layer does not exist, the model has no MLP, or ``on`` is unknown.
    MeasurementError
        On leaving, if the model was called and never reached one of the activations.
    """
    if on not in STEPS:
        raise RequestError(f"on is '{on}'", f"allowed: {', '.join(STEPS)}")
    given, model = model, bare(model)
    points = choose_points(model, ["act"], layers)
    work = Redistribution(arm or ARM(), points, Tracker(), on)
    with uncompiled(given), work.active(model):
        yield work


@contextmanager
def observing(
    model: nn.Module,
    points: Sequence[HookPoint],
    recorder: Recorder,
    tracker: Tracker,
    parts: set[HookPoint] | None = None,
) -> Iterator[None]:
    """Record the points; the phase is ``after`` while ARM writes into the model; see `observe`."""

    def receive(point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
        recorder.add(point, phase_of(model), values, tokens)

    with observe(model, points, receive, tracker, parts):
        yield
