"""Deliver tensors with their channels as the last dimension, wherever the model has them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from distviz.errors import MeasurementError
from distviz.hooks.calls import TracedCalls
from distviz.models.architectures import ChannelTracer, is_convolutional, layers_around
from distviz.sites import HookPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

_tracers: WeakKeyDictionary[nn.Module, tuple[ChannelTracer, TracedCalls]] = WeakKeyDictionary()
"""All who observe a model share one, so that each knows the tensors that another replaces."""


@dataclass
class ChannelDims:
    """The channel dimensions at the points of one model.

    Parameters
    ----------
    tracer
        Follows the channels; None where the points tell their dimension.
    calls
        The calls in which it does.
    """

    tracer: ChannelTracer | None
    calls: TracedCalls | None = None
    _known: dict[tuple[HookPoint, int], HookPoint] = field(default_factory=dict)

    @classmethod
    def at(cls, model: nn.Module, points: Sequence[HookPoint]) -> ChannelDims:
        """Return those of some points of a model."""
        if all(point.channel_dim is not None for point in points):
            return cls(None)
        if model not in _tracers:
            tracer = ChannelTracer(is_convolutional(model))
            calls = TracedCalls(tracer.__torch_function__, tracer.clear)
            _tracers[model] = tracer, calls
        return cls(*_tracers[model])

    def follow(self, model: nn.Module, points: Sequence[HookPoint], stack: ExitStack) -> None:
        """Follow the calls of the model until the stack closes."""
        if self.calls is None:
            return
        paths = [point.module for point in points if point.channel_dim is None]
        # A layer may be called alone, where a model is streamed or computed again.
        for path in ("", *layers_around(model, paths)):
            self.calls.attach(model.get_submodule(path), stack)

    def replaced(self, whole: torch.Tensor, new: torch.Tensor) -> None:
        """Note that a tensor has the channels of the one that it replaces."""
        if self.tracer is not None:
            self.tracer.copy(whole, new)

    def resolve(self, point: HookPoint, whole: torch.Tensor) -> HookPoint:
        """Return the point with the dimension of its channels in this tensor."""
        if point.channel_dim == -1:
            return point
        given, n_dims, name = point.channel_dim, whole.ndim, f"{point.module} (site {point.site})"
        dim = given
        if given is None and self.tracer is not None:
            dim = self.tracer.dim_of(whole)
            if dim is None and (point, n_dims) in self._known:  # computed again, outside a call
                return self._known[point, n_dims]
        if dim is None:
            raise MeasurementError(
                f"which dimension of {name}, shape {tuple(whole.shape)}, holds the channels is not "
                "known",
                "say it in Python: channel_dim=1 (of a convolution), -1 (the last), or "
                f"{{'{point.module}': 1}}; or leave the module out",
            )
        if not -n_dims <= dim < n_dims:
            raise MeasurementError(
                f"{name} has shape {tuple(whole.shape)}, which has no dimension {dim}",
                "give channel_dim for its modules apart: {'PATTERN': 1}",
            )
        dim %= n_dims
        if dim == 0 and n_dims > 1:
            raise MeasurementError(
                f"{name} has its channels in the first dimension of {tuple(whole.shape)}, where "
                "the batch has to be",
                "call the model with a batch, such as x[None]",
            )
        found = replace(point, channel_dim=-1 if dim == n_dims - 1 else dim)
        return self._known.setdefault((point, n_dims), found)
