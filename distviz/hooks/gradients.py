"""The gradients of the values at points, with the tokens of the forward call; each once.

A hook on the tensor itself gets the whole gradient, from all that reads the tensor. Where gradient
checkpointing runs the forward call without gradients (reentrant), the tensor that gets one exists
only inside the backward pass; its tokens are found again by its values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import MeasurementError
from distviz.hooks.attach import part_of
from distviz.hooks.recomputation import checksum_of
from distviz.hooks.token_tracker import rows_of
from distviz.hooks.tokens import Tokens
from distviz.sites import HookPoint

if TYPE_CHECKING:
    import torch

GRADIENT_PREFIX = "gradient:"
"""Prefix of the site of gradients."""


@dataclass(frozen=True, eq=False)
class _Forward:
    """A value of a forward call: its tokens, and those that its rows are matched to."""

    tokens: Tokens
    of_call: Tokens | None
    checksum: torch.Tensor | None = None

    @property
    def valid(self) -> NDArray[np.bool_]:
        return self.tokens.valid


@dataclass
class Gradients:
    """Receives the gradients of values, as (rows, channels).

    Parameters
    ----------
    receive
        Called with the point, the gradient and its tokens, inside the backward pass.
    fail
        Called with what is wrong, inside the backward pass.
    scale
        Returns by what the loss was multiplied; gradients are divided by it.

    Attributes
    ----------
    seen, reached
        How many values of forward calls there were, and how many of their gradients.
    """

    receive: Callable[[HookPoint, torch.Tensor, Tokens], None]
    fail: Callable[[Exception], None]
    scale: Callable[[], float]
    seen: Counter[HookPoint] = field(default_factory=Counter)
    reached: Counter[HookPoint] = field(default_factory=Counter)
    _unmatched: dict[HookPoint, list[_Forward]] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)

    def see(
        self, point: HookPoint, value: torch.Tensor, tokens: Tokens, of_call: Tokens | None
    ) -> None:
        """Wait for the gradient of a value of a forward call."""
        self.seen[point] += 1
        if value.requires_grad:
            self._wait(point, value, _Forward(tokens, of_call))
            return
        rows = rows_of(value.detach(), of_call)
        known = self._unmatched.setdefault(point, [])
        known.append(_Forward(tokens, of_call, checksum_of(rows)))

    def see_again(self, point: HookPoint, value: torch.Tensor) -> None:
        """Wait for the gradient of a value that a backward pass computes again.

        Raises
        ------
        MeasurementError
            If it is the value of no forward call, or of several that differ in their padding.
        """
        known = self._unmatched.get(point)
        if not known or not value.requires_grad:
            return
        seen = int(checksum_of(rows_of(value.detach(), known[0].of_call)))
        same = [one for one in known if int(one.checksum) == seen]  # type: ignore[arg-type]
        if not same or not all(np.array_equal(same[0].valid, one.valid) for one in same):
            which = "several forward calls with other padding" if same else "no forward call"
            raise MeasurementError(
                f"gradient checkpointing computes {point.module} again with the values of {which}",
                "use checkpoints with use_reentrant=False, or measure without gradients",
            )
        known.remove(same[0])
        self._wait(point, value, same[0])

    def close(self) -> None:
        """Remove the hooks of tensors."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._unmatched = [], {}

    def _wait(self, point: HookPoint, value: torch.Tensor, forward: _Forward) -> None:
        passes = 0

        def arrive(gradient: torch.Tensor) -> None:
            nonlocal passes
            passes += 1
            try:
                if passes > 1:
                    raise _passed_twice(point)
                self._take(point, gradient, forward)
            except Exception as error:  # noqa: BLE001  (observing must not end a training)
                self.fail(error)

        handle = value.register_hook(arrive)  # type: ignore[no-untyped-call]
        self._handles.append(handle)

    def _take(self, point: HookPoint, gradient: torch.Tensor, forward: _Forward) -> None:
        import torch

        values, scale = gradient.detach(), self.scale()
        if scale != 1:
            wide = values if values.dtype == torch.float64 else values.float()
            values = wide / scale
        rows = rows_of(part_of(point, values), forward.of_call).contiguous()
        self.receive(point, rows, forward.tokens)
        self.reached[point] += 1


def _passed_twice(point: HookPoint) -> MeasurementError:
    return MeasurementError(
        f"two backward passes go through the same forward pass, so {point.module} has two "
        "gradients",
        "call backward once for each forward pass, or measure without gradients",
    )
