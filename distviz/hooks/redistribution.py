"""Replace the values at some points of a model while a context lasts, by ARM or another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from distviz.arm import ARM, random_key
from distviz.errors import RequestError
from distviz.hooks.arguments import check_arm, check_common, site_names
from distviz.hooks.attach import Receive, attach_hook, is_replaceable
from distviz.hooks.moe_routing import Routing, force_batched_experts
from distviz.hooks.observation import (
    ChannelDim,
    HookedCalls,
    Layers,
    choose_points,
    experts_of,
    hooked_calls,
    match_tokens,
    redistributed,
)
from distviz.hooks.recomputation import PastRuns, is_recomputing
from distviz.hooks.token_tracker import Tracker, from_rows, rows_of
from distviz.hooks.tokens import Tokens
from distviz.models import bare, uncompiled
from distviz.sites import HookPoint

if TYPE_CHECKING:
    import torch
    from torch import nn

STEPS = ("both", "prefill", "decode")
"""When a redistribution acts: always, in calls without a cache, or in calls with one."""

Report = Callable[
    [HookPoint, "torch.Tensor", "torch.Tensor", "torch.Tensor", list[list[Any]], Tokens],
    None,
]
"""Called for each point: rows before, rows after, mask of moved values, decisions for each row of
the batch (see `Plan.of`), tokens."""


@dataclass
class Redistribution:
    """ARM at some points of a model; ``report``, if given, receives what it changed.

    The points are those that ``check_replaceable`` accepts.
    """

    arm: ARM
    points: Sequence[HookPoint]
    tracker: Tracker
    on: str = "both"
    report: Report | None = None
    writes: bool = True
    _pending: dict[HookPoint, list[_Change]] = field(default_factory=dict)
    _past: PastRuns = field(default_factory=PastRuns)

    @contextmanager
    def active(
        self, model: nn.Module, parts: set[HookPoint] | None = None
    ) -> Iterator[Redistribution]:
        """Apply ARM at the points; all hooks are removed on leaving, also after an error.

        With ``parts``, only a piece of one forward call is hooked, see `observe`.
        """
        with (
            force_batched_experts(model, experts_of(self.points)),
            hooked_calls(model, self.points, self.tracker, parts) as calls,
        ):
            # First, so that other hooks on these points receive what ARM returns.
            attach_hook(model, self.points, self._receiver(calls), calls.stack, first=self.writes)
            for path, routing in calls.routings.items():
                handle = routing.module.register_forward_pre_hook(
                    self._rehearser(path, routing), with_kwargs=True
                )
                calls.stack.callback(handle.remove)
            if self.writes:
                calls.stack.enter_context(redistributed(model))
            yield self

    def _rehearser(self, path: str, routing: Routing) -> Callable[..., None]:
        """Return the pre-hook that runs separate experts once ahead: ARM needs all their values."""
        here = [point for point in self.points if point.experts == path]

        def rehearse(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for point in here:
                self._pending.pop(point, None)
            is_split = routing.layout is not None and len(routing.layout.sizes) > 1
            if self.writes and is_split and self._acts():
                routing.rehearse(args, kwargs)

        return rehearse

    def _acts(self) -> bool:
        return self.on == "both" or (self.on == "decode") == (self.tracker.past > 0)

    def _receiver(self, calls: HookedCalls) -> Receive:
        def receive(point: HookPoint, output: torch.Tensor) -> torch.Tensor | None:
            calls.fired.add(point)
            routing = calls.routing_of(point)
            rehearses = routing is not None and routing.is_leading
            if routing is not None and routing.is_rehearsing and not rehearses:
                return None
            if self._pending.get(point) and not rehearses:
                return self._written(output, self._pending[point].pop(0))
            is_plain = routing is None and not is_recomputing()
            known = self.tracker.tokens if is_plain else None
            if is_plain:
                self.tracker.check_batch(point, output)
            rows = rows_of(output, known)
            with self._past.tokens_of(point, rows, self.tracker) as is_known:
                complete = match_tokens(point, rows, self.tracker, routing) if is_known else None
                if complete is None or not self._acts():
                    return None
            change = self._change(point, *complete, keeps_moved=rehearses or output.requires_grad)
            if not self.writes:
                return None
            if routing is not None and rehearses:
                self._pending[point] = change.split(routing)
                return None
            return self._written(output, change, known)

        return receive

    def _change(
        self, point: HookPoint, rows: torch.Tensor, tokens: Tokens, *, keeps_moved: bool
    ) -> _Change:
        new, decisions, moved = self.arm.at(point).redistribute_rows(
            rows,
            tokens.sequences(),
            layer=random_key(point.layer, point.site),
            find_moved=keeps_moved or self.report is not None,
        )
        if self.report is not None and moved is not None and not is_recomputing():
            self.report(point, rows.detach(), new, moved, decisions, tokens)
        return _Change(new, moved)

    def _written(
        self, output: torch.Tensor, change: _Change, tokens: Tokens | None = None
    ) -> torch.Tensor:
        import torch

        new = change.new
        if output.requires_grad and change.moved is not None:
            # A moved value is a constant to autograd (in mode "add": its old value plus one).
            old = rows_of(output, tokens)
            shift = old - old.detach() if self.arm.mode == "add" else torch.zeros_like(old)
            new = torch.where(change.moved.bool(), new + shift, old)
        return from_rows(new, output, tokens)


@dataclass(frozen=True)
class _Change:
    """Rows as ARM returns them, and the mask of the values it moved."""

    new: torch.Tensor
    moved: torch.Tensor | None

    def split(self, routing: Routing) -> list[_Change]:
        """Split into the rows of each expert, in the order in which the experts run."""
        sizes = routing.layout.sizes if routing.layout is not None else ()
        ends = np.cumsum(sizes).tolist()
        spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return [
            _Change(self.new[span], None if self.moved is None else self.moved[span])
            for span in spans
        ]


def check_replaceable(model: nn.Module, points: Sequence[HookPoint]) -> None:
    """Check that the values at some points can be replaced.

    Raises
    ------
    RequestError
        That names the site which cannot.
    """
    heads, routed = _holders_of_head(model), dict[str, str]()
    for point in points:
        why = ""
        if not is_replaceable(point):
            why = "the model applies its activation as a function, whose input no hook can replace"
        elif point.module in heads:
            why = "it holds the language head, behind which the effect is measured"
        elif "*" in point.module:
            other = routed.setdefault(f"{point.experts}", point.site)
            if other != point.site:
                why = f"routed experts that run one by one are changed at one site, here {other}"
        if why:
            raise RequestError(
                f"values at site {point.site} ({point.module}) cannot be replaced: {why}",
                "choose another site",
            )


def _holders_of_head(model: Any) -> set[str]:
    """Return the paths of the language head and of the modules that contain it."""
    find = getattr(model, "get_output_embeddings", None)
    head = None if find is None else find()
    found = set()
    for path, module in model.named_modules():
        if head is not None and module is head:
            parts = path.split(".")
            found |= {".".join(parts[: n + 1]) for n in range(len(parts))}
    return found


@contextmanager
def redistribute(
    model: nn.Module,
    arm: ARM | None = None,
    layers: Layers = 0,
    *,
    sites: str | Sequence[str] = "act",
    on: str = "both",
    channel_dim: ChannelDim | None = None,
) -> Iterator[Redistribution]:
    """Apply ARM to values in some layers of a model while the context lasts.

    By default to the output of the activation function.

    A sequence of ARM is a row of the batch with all its tokens, or positions, and channels; layers
    and channels of a model without transformer layers are those of `watch`.

    Works on any model, inside ``generate`` and any other caller; the model's code and
    weights stay unchanged. A model wrapped by PEFT or data parallelism is unwrapped first; compiled
    code runs uncompiled meanwhile, with a warning. With gradient checkpointing, run the backward
    pass inside the context, too: it computes layers again.

    Parameters
    ----------
    model
        Any module of torch.
    arm
        The redistribution; None uses the published defaults.
    layers
        0-based indices, or text such as ``"0,3-5"`` and ``"all"``; or a mapping from the name of
        a stack to them (``{"vision_tower": "all"}``).
    sites
        Names of `distviz.sites.SITES`, ``module:PATTERN`` or ``input:PATTERN``: where in these
        layers.
    on
        ``"prefill"`` (calls without a cache), ``"decode"`` (calls with one) or ``"both"``.
    channel_dim
        As of `watch`.

    Raises
    ------
    RequestError
        If an argument is of another kind, a layer or site does not exist, values there cannot be
        replaced, or ``on`` is unknown.
    MeasurementError
        In a call, if the channels or documents of a tensor are not known. On leaving, if the model
        was called and never reached one of the points. In a backward pass, if gradient
        checkpointing computes values that cannot be matched to a forward call.
    """
    if on not in STEPS:
        raise RequestError(f"on is '{on}'", f"allowed: {', '.join(STEPS)}")
    check_common(model, layers, channel_dim)
    check_arm(arm)
    given, model = model, bare(model)
    points = choose_points(model, site_names(sites), layers, channel_dim)
    check_replaceable(model, points)
    work = Redistribution(arm or ARM(), points, Tracker(), on)
    with uncompiled(given), work.active(model):
        yield work
