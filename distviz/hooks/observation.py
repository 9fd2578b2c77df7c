"""Observe the points of a model: hooks that are removed again, and rows matched to their tokens.

The attention mask is read from the model's own call, so it is right in a padded batch and in
``generate`` (left padding, one token per step). A hooked point that never fires is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from distviz.errors import MeasurementError, RequestError
from distviz.hooks.attach import attach_hook
from distviz.hooks.moe_routing import Routing, track_routing
from distviz.hooks.recomputation import is_recomputing
from distviz.hooks.recorder import Recorder
from distviz.hooks.token_tracker import Tracker, rows_of
from distviz.hooks.tokens import Tokens
from distviz.models import is_of_transformers
from distviz.models.architectures import count_layers, find_mlps, find_points, is_activation
from distviz.output import counted, first_of
from distviz.results import MOST_LAYERS
from distviz.sites import (
    EveryActivation,
    HookPoint,
    parse_layers,
    pattern_of,
    with_channel_dim,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

Layers = str | int | Collection[int] | Mapping[str, str | int | Collection[int]]
"""``"all"``, ``"0,3-5"``, an index, a list of indices; or any of them for each stack by name."""

ChannelDim = int | Mapping[str, int]
"""A dimension, or that of the modules whose paths match a pattern."""
_EVERYWHERE = ("act", "gate")
"""Sites of an activation, whatever is around it."""

_redistributed: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@contextmanager
def observe(
    model: nn.Module,
    points: Sequence[HookPoint],
    receive: Callable[[HookPoint, torch.Tensor, Tokens], None],
    tracker: Tracker,
    parts: set[HookPoint] | None = None,
) -> Iterator[None]:
    """Call ``receive(point, (rows, channels), tokens)`` for every point of every forward call.

    What gradient checkpointing computes again inside a backward pass is left out. All hooks are
    removed on leaving, also after an error. With ``parts``, only a piece of one
    forward call is hooked: the caller sets the tracker's tokens, points that fire are added to the
    set, and the caller runs `check_fired` when the forward call is complete.

    Raises
    ------
    MeasurementError
        On leaving, if a call of the model has finished and a point never fired.
    """
    with hooked_calls(model, points, tracker, parts) as calls:

        def deliver(point: HookPoint, value: torch.Tensor) -> None:
            if is_recomputing():
                return
            found = rows_with_tokens(calls, point, value, tracker)
            if found is not None:
                receive(point, *found)

        attach_hook(model, points, deliver, calls.stack)
        yield


class HookedCalls(NamedTuple):
    """State of the hooked calls of one model: hooks, fired points, and routings by path."""

    stack: ExitStack
    fired: set[HookPoint]
    routings: dict[str, Routing]

    def routing_of(self, point: HookPoint) -> Routing | None:
        """Return the routing of the experts that a point belongs to."""
        return None if point.experts is None else self.routings[point.experts]


def rows_with_tokens(
    calls: HookedCalls, point: HookPoint, value: torch.Tensor, tracker: Tracker
) -> tuple[torch.Tensor, Tokens] | None:
    """Return the (rows, channels) of a value that has fired, with their tokens.

    None where they are not to be counted, or further rows of experts are missing.
    """
    calls.fired.add(point)
    routing = calls.routing_of(point)
    if routing is not None and routing.is_rehearsing:
        return None
    tracker.check_batch(point, value)
    rows = rows_of(value.detach(), tracker.tokens)
    complete = match_tokens(point, rows, tracker, routing)
    return None if complete is None else (complete[0].contiguous(), complete[1])


@contextmanager
def hooked_calls(
    model: nn.Module, points: Sequence[HookPoint], tracker: Tracker, parts: set[HookPoint] | None
) -> Iterator[HookedCalls]:
    """Track tokens and routing of a model's calls; see `observe` for ``parts`` and errors."""
    fired: set[HookPoint] = set() if parts is None else parts
    before = tracker.calls - len(tracker.unfinished)
    with ExitStack() as stack:
        if parts is None:
            tracker.track_calls(model, stack)
        routings = stack.enter_context(track_routing(model, experts_of(points)))
        calls = HookedCalls(stack, fired, routings)
        yield calls
    # Experts that no token was routed to cannot fire.
    idle = {path for path, routing in routings.items() if routing.is_idle}
    fired.update(point for point in points if point.experts in idle)
    if parts is None and tracker.calls - len(tracker.unfinished) > before:
        check_fired(points, fired)


def check_fired(points: Sequence[HookPoint], fired: Collection[HookPoint]) -> None:
    """Raise MeasurementError if a point never fired."""
    missing = [point for point in points if point not in fired and not point.may_be_silent]
    for point in missing:
        if isinstance(point, EveryActivation):
            point.check(fired)
    silent = [
        f"{point.module} (site {point.site})"
        for point in missing
        if not isinstance(point, EveryActivation)
    ]
    if silent:
        raise MeasurementError(
            f"never reached in the forward pass: {first_of(silent, 3)}",
            "a fused kernel or another code path skips it: remove it from the sites, or, if it "
            "belongs to attention, try --attn-implementation eager",
        )


def experts_of(points: Sequence[HookPoint]) -> list[str]:
    """Return the paths of the experts whose rows pass these points."""
    return [point.experts for point in points if point.experts is not None]


def match_tokens(
    point: HookPoint, rows: torch.Tensor, tracker: Tracker, routing: Routing | None
) -> tuple[torch.Tensor, Tokens] | None:
    """Return rows with their tokens; None while rows of further experts are missing."""
    if routing is None:
        return rows, tracker.current(point, rows.shape[0])
    whole = routing.take(point, rows)
    if whole is None:
        return None
    tokens = tracker.current(point, whole[1].n_tokens)
    return whole[0], replace(tokens, routed=whole[1])


@contextmanager
def observing(
    model: nn.Module,
    points: Sequence[HookPoint],
    recorder: Recorder,
    tracker: Tracker,
    parts: set[HookPoint] | None = None,
) -> Iterator[None]:
    """Record the points, in the phase that `phase_of` returns; see `observe`."""

    def receive(point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
        recorder.add(point, phase_of(model), values, tokens)

    with observe(model, points, receive, tracker, parts):
        yield


@contextmanager
def redistributed(model: nn.Module) -> Iterator[None]:
    """Mark a model: ARM replaces its activations while the context lasts; contexts nest."""
    base = getattr(model, "base_model", model)
    _redistributed[base] = _redistributed.get(base, 0) + 1
    try:
        yield
    finally:
        _redistributed[base] -= 1


def phase_of(model: nn.Module) -> str:
    """Return ``"after"`` while ARM replaces activations of the model, else ``"before"``."""
    return "after" if _redistributed.get(getattr(model, "base_model", model)) else "before"


def choose_points(
    model: nn.Module,
    sites: Sequence[str],
    layers: Layers,
    channel_dim: ChannelDim | None = None,
) -> list[HookPoint]:
    """Return the points of some sites in some layers of a model.

    Layers given by stack reach every tower of the model; otherwise a model that reads text is
    observed in its language stacks only. In a model without transformer layers, ``act`` and
    ``gate`` are those of every activation in the order of the forward pass.

    Parameters
    ----------
    channel_dim
        The dimension of the channels at every point, or at the modules that match a pattern, in
        place of that which is found.

    Raises
    ------
    RequestError
        If a stack, layer or site does not exist, or a pattern of ``channel_dim`` matches nothing.
    """
    points = _points_of(model, sites, layers)
    if not is_of_transformers(model):  # where a layer may be convolutional
        points = [replace(p, channel_dim=None) if p.part is None else p for p in points]
    if channel_dim is None:
        return points
    by_pattern = channel_dim if isinstance(channel_dim, Mapping) else {"*": channel_dim}
    given = tuple(by_pattern.items())
    _check_patterns([pattern for pattern, _ in given], points)
    return [
        replace(point, channel_dims=given)
        if isinstance(point, EveryActivation)
        else with_channel_dim(point, given)
        for point in points
    ]


def note_of_others(model: nn.Module, points: Sequence[HookPoint]) -> list[str]:
    """Return a line if an own model has activations outside the layers that are observed."""
    if is_of_transformers(model) or any(isinstance(point, EveryActivation) for point in points):
        return []
    sites = dict.fromkeys(point.site for point in points if point.site in _EVERYWHERE)
    in_layers = [
        point for mlp in find_mlps(model, towers=True, needed=False) for point in mlp.points
    ]
    known = {point.module for point in (*points, *in_layers)}  # with * for each expert
    others = [path for path, m in model.named_modules() if is_activation(path, m)]
    others = [one for one in others if not any(fnmatchcase(one, path) for path in known)]
    if not sites or not others:
        return []
    left_out = f"{counted(len(others), 'other activation')}, such as {others[0]}"
    return [f"{', '.join(sites)}: of layers with MLPs, without {left_out} (module:PATTERN)"]


def _check_patterns(patterns: Sequence[str], points: Sequence[HookPoint]) -> None:
    if any(isinstance(point, EveryActivation) for point in points):
        return  # its modules are not known yet
    for pattern in patterns:
        if not any(fnmatchcase(point.module, pattern) for point in points):
            raise RequestError(
                f"channel_dim: '{pattern}' matches no observed module",
                f"observed: {', '.join(point.module for point in points[:5])}",
            )


def _points_of(model: nn.Module, sites: Sequence[str], layers: Layers) -> list[HookPoint]:
    mlps = find_mlps(model, towers=isinstance(layers, Mapping), needed=False)
    has_input = any(point.site == "mlp_in" for mlp in mlps for point in mlp.points)
    if not mlps or not (has_input or is_of_transformers(model)):
        return _points_anywhere(model, sites, layers)
    counts = count_layers(mlps)
    if not isinstance(layers, Mapping):
        chosen = _indices(layers, max(counts.values()))
        return find_points(mlps, model, sites, chosen) if chosen else []
    _check_stacks(layers, counts)
    by_stack = {stack: _indices(given, counts[stack]) for stack, given in layers.items()}
    return find_points(mlps, model, sites, by_stack) if any(by_stack.values()) else []


def _points_anywhere(model: nn.Module, sites: Sequence[str], layers: Layers) -> list[HookPoint]:
    """Return the points in a model without transformer layers: stack ``model``, no fixed number."""
    if isinstance(layers, Mapping):
        _check_stacks(layers, ("model",))
        layers = layers.get("model", ())
    is_all = isinstance(layers, str) and layers.strip().lower() == "all"
    chosen = None if is_all else frozenset(_indices(layers, MOST_LAYERS))
    if chosen is not None and not chosen:
        return []
    points: list[HookPoint] = []
    for site in sites:
        if pattern_of(site):
            points += find_points((), model, [site], chosen)
        elif site in _EVERYWHERE:
            points.append(EveryActivation.of(site, chosen))
        else:
            raise RequestError(
                f"site '{site}' does not exist in {type(model).__name__}, which has no layers with "
                "MLPs",
                f"it has: {', '.join(_EVERYWHERE)} (of every activation), module:PATTERN for the "
                "output of modules, and input:PATTERN for their input",
            )
    return points


def _check_stacks(layers: Iterable[str], known: Collection[str]) -> None:
    for stack in layers:
        if stack not in known:
            raise RequestError(f"there is no stack '{stack}'", f"allowed: {', '.join(known)}")


def _indices(layers: str | int | Collection[int], n_layers: int) -> list[int]:
    if isinstance(layers, str):
        return parse_layers(layers, n_layers, "layers")
    wanted = sorted(set(layers)) if isinstance(layers, Collection) else [layers]
    return parse_layers(",".join(map(str, wanted)) if wanted else "none", n_layers, "layers")
