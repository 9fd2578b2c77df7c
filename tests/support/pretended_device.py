"""A device that is none: its tensors hold memory of the CPU, and code sees another device.

Inside hooks, operations are refused for which a real device would make the host wait: those that
read a result, those whose result has a size that depends on values, and copies between host and
device that block. So are divisions by a number, which CUDA rounds otherwise than the CPU. Copies to
the device are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from distviz.hooks import attach
from distviz.stats.kernels.device_counts import _ordered_on
from distviz.stats.kernels.device_summary import magnitudes_on

DEVICE = torch.device("meta")
WAITING = {
    "_local_scalar_dense", "nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount",
    "histc", "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
    "is_nonzero", "equal", "repeat_interleave",
}  # fmt: skip
_DIVIDING = {"div", "div_", "true_divide"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class WouldWait(AssertionError):
    """A real device would make the host wait here, or give another result."""


class Pretended(torch.Tensor):
    """A tensor of the device; ``elem`` is its memory."""

    elem: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.shape,
            dtype=elem.dtype,
            device=DEVICE,
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
        )
        made.elem = elem
        return made

    def data_ptr(self) -> int:
        return self.elem.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise WouldWait(f"{func} of a device tensor where the device is not active")


class PretendedDevice(TorchDispatchMode):
    """Computes what is asked of the device, and refuses to wait where ``is_strict``.

    Attributes
    ----------
    sent
        Shapes of tensors copied to the device inside hooks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_strict = False
        self.sent: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # an operation made of others arrives whole in inference mode
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        was_there = any(isinstance(one, Pretended) for one in given)
        named = kwargs.get("device")
        is_there = was_there if named is None else torch.device(named) == DEVICE
        name = func._schema.name.removeprefix("aten::")
        if self.is_strict:
            self._check(name, args, kwargs, was_there, is_there, given)
        result = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        if name.endswith("_") and not name.endswith("__") and isinstance(args[0], Pretended):
            return args[0]
        return tree_map(_there, result) if is_there else result

    def _check(
        self, name: str, args: Any, kwargs: Any, was_there: bool, is_there: bool, given: Any
    ) -> None:
        why = ""
        if was_there and name in WAITING and not kwargs.get("output_size"):
            why = name
        if was_there and name in _DIVIDING and not isinstance(args[1], Pretended):
            why = "division by a number"
        if was_there and name in _INDEXING:
            indices = [one for one in args[1] if one is not None]
            if any(one.dtype in (torch.bool, torch.uint8) for one in indices):
                why = f"{name} by a mask"
            if any(not isinstance(one, Pretended) for one in indices):
                why = f"{name} by places on the host"
        if name == "copy_" and isinstance(args[0], Pretended) != isinstance(args[1], Pretended):
            is_there, was_there = isinstance(args[0], Pretended), isinstance(args[1], Pretended)
        if name in ("_to_copy", "copy_"):
            waits = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            if was_there and not is_there and waits:
                why = "copy to the host"
            if is_there and not was_there:
                self.sent.append(tuple(given[-1].shape))
                why = "blocking copy to the device" if waits else ""
        if why:
            raise WouldWait(f"{why}: a real device would make the host wait, or round otherwise")


def _here(value: Any) -> Any:
    if isinstance(value, Pretended):
        return value.elem
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _there(value: Any) -> Any:
    return Pretended(value) if isinstance(value, torch.Tensor) else value


@contextmanager
def pretended() -> Iterator[PretendedDevice]:
    """Let values that reach hooks be on the device; their results return to the CPU."""
    device = PretendedDevice()

    def there(receive: Callable[..., Any]) -> Callable[..., Any]:
        def outside(point: Any, value: torch.Tensor) -> torch.Tensor | None:
            before, device.is_strict = device.is_strict, True
            try:
                new = receive(point, Pretended(value.detach()))
            finally:
                device.is_strict = before
            return None if new is None else new.elem

        return outside

    constants = magnitudes_on, _ordered_on
    for kept in constants:  # what one mode of inference made does not suit another
        kept.cache_clear()
    with patch.object(attach, "_outside_modes", there), device:
        yield device
    for kept in constants:
        kept.cache_clear()


@contextmanager
def strictly(device: PretendedDevice) -> Iterator[None]:
    """Refuse waiting, as inside hooks."""
    before, device.is_strict = device.is_strict, True
    try:
        yield
    finally:
        device.is_strict = before
