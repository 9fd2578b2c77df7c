"""Find the activations of a model without transformer layers while it runs.

An activation is a module of a known class or name, a module without parameters or children whose
forward applies an activation function, or an activation function anywhere else. Layers are numbered
in the order in which they first run, once for a model: later observations use the same numbers.

Cost: two hooks on every module, and a Python call for each torch function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from distviz.hooks.calls import TracedCalls
from distviz.models.architectures import ACTIVATION_FUNCTIONS, function_name, is_activation
from distviz.sites import EveryActivation, HookPoint

if TYPE_CHECKING:
    from torch import nn

Deliver = Callable[[HookPoint, Any], Any]
Place = tuple[int, str]
"""The layer of an activation, and its path."""

_numbers: WeakKeyDictionary[nn.Module, dict[str, int]] = WeakKeyDictionary()


def search_activations(
    model: nn.Module,
    wanted: Sequence[EveryActivation],
    deliver: Deliver,
    stack: ExitStack,
    *,
    first: bool,
) -> None:
    """Call ``deliver(point, tensor)`` at every activation that is wanted, until the stack closes.

    What it returns replaces the tensor, unless it is None. See `attach_hook` for ``first``.
    """
    search = _Search(wanted, deliver, _numbers.setdefault(model, {}))
    for path, module in model.named_modules():
        is_one = is_activation(path, module)
        enter = search.enter_activation if is_one else search.enter
        leave = search.leave_activation if is_one else search.leave
        for handle in (
            module.register_forward_pre_hook(partial(enter, path), with_kwargs=True, prepend=first),
            module.register_forward_hook(
                partial(leave, path), always_call=True, prepend=first == is_one
            ),
        ):
            stack.callback(handle.remove)
    stack.callback(search.calls.end)


@dataclass
class _Running:
    """A running module, and how often it has run each activation in this call."""

    path: str
    module: nn.Module
    is_activation: bool = False
    place: Place | None = None
    runs: Counter[str] = field(default_factory=Counter)

    def name_next(self, name: str) -> str:
        """Return the name of the next run of an activation in this module."""
        self.runs[name] += 1
        return name if self.runs[name] == 1 else f"{name}_{self.runs[name] - 1}"

    def path_of(self, path: str, module: nn.Module) -> str:
        """Return the path of a module that this one calls, by this one where others share it."""
        children = self.module.named_children()
        own = next((name for name, child in children if child is module), "")
        if not own and not path.startswith(f"{self.path}."):
            own = path.rpartition(".")[2]
        return _join(self.path, own) if own else path


class _Search:
    """The state of one observation: the running modules, outermost first."""

    def __init__(
        self, wanted: Sequence[EveryActivation], deliver: Deliver, numbers: dict[str, int]
    ) -> None:
        self.calls = TracedCalls(self.trace)
        self._wanted = {point.takes: point for point in wanted}
        self._deliver = deliver
        self._numbers = numbers
        self._running: list[_Running] = []
        self._points: dict[tuple[str, Place], HookPoint] = {}

    def enter(self, path: str, module: nn.Module, *_: Any) -> None:
        """Forward pre-hook of any module."""
        caller = self._caller()
        self.calls.enter(module)
        is_inside = caller is not None and caller.is_activation
        self._running.append(_Running(path, module, is_activation=is_inside))

    def leave(self, _: str, module: nn.Module, *__: Any) -> None:
        """Forward hook of any module, also after an error."""
        self.calls.leave(module)
        self._caller()

    def _caller(self) -> _Running | None:
        """Return the innermost running module."""
        del self._running[self.calls.depth :]
        return self._running[-1] if self._running else None

    def enter_activation(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Forward pre-hook of an activation module."""
        caller = self._caller()
        self.enter(path, module)
        own = self._running[-1]
        if own.is_activation:  # a part of another
            return None
        name = path if caller is None else caller.name_next(caller.path_of(path, module))
        own.is_activation, own.place = True, self._place(name)
        return self._entering(own.place, args, kwargs)

    def leave_activation(self, path: str, module: nn.Module, _: Any, result: Any) -> Any:
        """Forward hook of an activation module."""
        own = self._caller()
        self.leave(path, module)
        if own is None or own.place is None:
            return None
        return self._passing("output", own.place, result)

    def trace(self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call the function; an activation function is an activation of the running module."""
        kwargs = kwargs or {}
        name = function_name(func)
        caller = self._caller()
        if caller is None or caller.is_activation or name not in ACTIVATION_FUNCTIONS:
            return func(*args, **kwargs)
        place = self._place(caller.name_next(_join(caller.path, name)))
        args, kwargs = self._entering(place, args, kwargs) or (args, kwargs)
        result = func(*args, **kwargs)
        new = self._passing("output", place, result)
        return result if new is None else new

    def _place(self, name: str) -> Place:
        return self._numbers.setdefault(name, len(self._numbers)), name

    def _entering(
        self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Deliver what enters an activation; return the arguments with its replacement."""
        name = next(iter(kwargs), "")
        new = self._passing("input", place, args[0] if args else kwargs.get(name))
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

    def _passing(self, takes: str, place: Place, value: Any) -> Any:
        point = self._wanted.get(takes)
        if point is None or not point.wants(place[0]):
            return None
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return None
        found = self._points.setdefault((takes, place), point.found(*place))
        with torch._C.DisableTorchFunction():  # noqa: SLF001  (also for the modes around this one)
            return self._deliver(found, value)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
