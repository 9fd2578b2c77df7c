"""Track routed experts through their calls: the token, expert and slot of each row.

The arguments of a module of experts (hidden states, chosen experts, weights) and its implementation
determine the order of its rows, see :mod:`distviz.hooks.moe_layouts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from distviz.errors import MeasurementError, RequestError
from distviz.hooks import moe_layouts
from distviz.hooks.moe_layouts import Layout, Routed
from distviz.models.architectures import has_forward
from distviz.output import counted
from distviz.sites import HookPoint

if TYPE_CHECKING:
    import torch
    from torch import nn

_BATCHED = ("grouped_mm", "batched_mm")
_SUPPORTED = (*_BATCHED, "eager")
_NAMES_OF_COUNT = ("num_routed_experts", "num_experts", "n_shared_experts")
_rehearsing: WeakKeyDictionary[nn.Module, Routing] = WeakKeyDictionary()


@dataclass
class _Pieces:
    """The rows of one point in the current call."""

    number: int = 0
    whole: torch.Tensor | None = None


class Routing:
    """Tracks one module of experts through its calls.

    Parameters
    ----------
    module, path
        The module of the experts.
    """

    def __init__(self, module: nn.Module, path: str) -> None:
        self.module = module
        self.path = path
        self.layout: Layout | None = None
        self._routing: tuple[Any, Any] | None = None
        self._pieces: dict[HookPoint, _Pieces] = {}

    def read_router(self, router: Any, _args: Any, output: Any) -> None:
        """Forward hook of a router, for experts that do not receive its choice."""
        if isinstance(output, tuple) and len(output) == 5 and isinstance(output[3], list):
            self._start(moe_layouts.by_sorted_index(output[0], output[3], router.top_k))
        else:
            self._routing = router, output

    def start(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the experts: read the routing."""
        given = [*args, *kwargs.values()]
        index = next((value for value in given[1:] if moe_layouts.is_index(value)), None)
        if index is not None:
            layout = moe_layouts.from_index(
                index, _count_experts(self.module), _implementation(self.module)
            )
            self._start(layout)
        elif self._routing is not None:
            router, (_, logits) = self._routing
            self._start(moe_layouts.chosen_of_every_expert(logits, router.top_k))
        else:
            self._start(moe_layouts.every_expert(given[0], _count_experts(self.module)))

    def _start(self, layout: Layout) -> None:
        self.layout = layout
        self._pieces = {}

    def finish(self, *_: Any) -> None:
        """Forward hook of the experts: check that all expected rows have arrived."""
        for point, pieces in self._pieces.items():
            of_all = f"{pieces.number} of {len(self.layout.sizes) if self.layout else 0}"
            raise _unmatched(point, f"was reached by {counted(of_all, 'expert')}")

    @property
    def is_idle(self) -> bool:
        """Whether the last call routed no token to any expert."""
        return self.layout is not None and not self.layout.sizes

    def take(self, point: HookPoint, rows: torch.Tensor) -> tuple[torch.Tensor, Routed] | None:
        """Add the (rows, channels) of one hook call; return all rows once they are complete.

        Raises MeasurementError if the number of rows contradicts the routing.
        """
        if self.layout is None:
            raise _unmatched(point, f"ran, but {self.path} was not called")
        pieces = self._pieces.setdefault(point, _Pieces())
        sizes = self.layout.sizes
        expected = sizes[pieces.number] if pieces.number < len(sizes) else 0
        if rows.shape[0] != expected:
            raise _unmatched(
                point, f"has {counted(rows.shape[0], 'row')} where {expected} were routed"
            )
        if len(sizes) > 1:
            if pieces.whole is None:
                pieces.whole = rows.new_empty((sum(sizes), rows.shape[1]))
            begin = sum(sizes[: pieces.number])
            pieces.whole[begin : begin + expected] = rows.detach()
            rows = pieces.whole
        pieces.number += 1
        if pieces.number < len(sizes):
            return None
        del self._pieces[point]
        return rows, self.layout.routed

    @property
    def is_rehearsing(self) -> bool:
        """Whether the experts run ahead of their call; nothing is counted then."""
        return self.module in _rehearsing

    @property
    def is_leading(self) -> bool:
        """Whether they run ahead for this object."""
        return _rehearsing.get(self.module) is self

    def rehearse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the experts without counting."""
        import torch

        _rehearsing[self.module] = self
        try:
            with torch.no_grad():
                self.module.forward(*args, **kwargs)
        finally:
            del _rehearsing[self.module]


class _Matched(Routing):
    """Tracks a layer whose experts are modules in a list, without an argument for the routing.

    The layer runs ahead once, uncounted, to collect the rows of each expert; their tokens are
    found by content. This doubles the time of the layer.
    """

    def __init__(self, module: nn.Module, path: str) -> None:
        super().__init__(module, path)
        self._is_learning = False
        self._given: list[tuple[int, torch.Tensor]] = []
        self._choice: torch.Tensor | None = None

    @property
    def is_leading(self) -> bool:
        return super().is_leading and not self._is_learning

    def read_expert(self, number: int, _expert: Any, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of one expert."""
        if self._is_learning:
            self._given.append((number, args[0].reshape(-1, args[0].shape[-1])))

    def read_router(self, _router: Any, _args: Any, output: Any) -> None:
        parts = output if isinstance(output, tuple) else (output,)
        flat = [part.reshape(-1, part.shape[-1]) for part in parts if hasattr(part, "reshape")]
        listed = next((part for part in flat if moe_layouts.is_index(part)), None)
        self._choice = listed if listed is not None else next(iter(flat), None)

    def start(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._given, self._choice, self._is_learning = [], None, True
        try:
            self.rehearse(args, kwargs)
        finally:
            self._is_learning = False
        hidden = args[0] if args else next(iter(kwargs.values()))
        hidden = hidden.reshape(-1, hidden.shape[-1])
        n_experts = len(self.module.get_submodule("experts"))  # type: ignore[arg-type]
        layout = moe_layouts.by_content(hidden, self._given, self._choice, n_experts)
        self._given = []
        if layout is None:
            raise MeasurementError(
                f"the input of the experts of {self.path} are not the hidden states of its tokens",
                "its rows cannot be matched to tokens; remove this layer from the layers",
            )
        self._start(layout)


def _unmatched(point: HookPoint, why: str) -> MeasurementError:
    return MeasurementError(
        f"{point.module} (site {point.site}) {why}",
        "its rows cannot be matched to tokens and experts; remove this site, or narrow its pattern",
    )


@contextmanager
def track_routing(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Routing]]:
    """Track the modules of experts at some paths; yields a `Routing` by path.

    An implementation that hides the activation in a fused kernel is replaced meanwhile.
    """
    found: dict[str, Routing] = {}
    with ExitStack() as stack:
        for path in dict.fromkeys(paths):
            module = model.get_submodule(path)
            stack.enter_context(_replacing(module, _SUPPORTED))
            routing = found[path] = _routing(module, path, stack)
            handle = module.register_forward_pre_hook(routing.start, with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(module.register_forward_hook(routing.finish).remove)
            router = _router(model, path)
            if router is not None:
                stack.callback(router.register_forward_hook(routing.read_router).remove)
        yield found


def force_batched_experts(model: nn.Module, paths: Iterable[str]) -> AbstractContextManager[None]:
    """Let the experts at some paths compute all rows at once, where their code can."""
    return _replacing_all(model, paths, _BATCHED)


def rows_shown(model: nn.Module, paths: Iterable[str]) -> AbstractContextManager[None]:
    """Let the experts at some paths run on an implementation that `track_routing` supports."""
    return _replacing_all(model, paths, _SUPPORTED)


@contextmanager
def _replacing_all(
    model: nn.Module, paths: Iterable[str], allowed: tuple[str, ...]
) -> Iterator[None]:
    with ExitStack() as stack:
        for path in dict.fromkeys(paths):
            stack.enter_context(_replacing(model.get_submodule(path), allowed))
        yield


def replaced(model: nn.Module, paths: Iterable[str], *, at_once: bool) -> list[str]:
    """Return the implementations that `force_batched_experts` or `track_routing` replaces."""
    allowed = _BATCHED if at_once else _SUPPORTED
    modules = (model.get_submodule(path) for path in dict.fromkeys(paths))
    names = (_implementation(module) for module in modules if hasattr(module, "is_concatenated"))
    return list(dict.fromkeys(name for name in names if name not in allowed))


def _routing(module: nn.Module, path: str, stack: ExitStack) -> Routing:
    """Choose how the experts of a module are tracked."""
    inside: Any = getattr(module, "experts", None)
    if inside is None or has_forward(inside):
        return Routing(module, path)
    matched = _Matched(module, path)
    for number, expert in enumerate(inside.children()):
        read = partial(matched.read_expert, number)
        stack.callback(expert.register_forward_pre_hook(read).remove)
    return matched


def _router(model: nn.Module, path: str) -> nn.Module | None:
    """Return the router inside the module (JetMoe, lists) or next to it (Llama 4), if any."""
    own = model.get_submodule(path)
    above = model.get_submodule(path.rpartition(".")[0])
    places = ((own, "router"), (own, "gate"), (above, "router"))
    found = (getattr(module, name, None) for module, name in places)
    return next((router for router in found if router is not None), None)


# Implementations ----------------------------------------------------------------------------


def _implementation(module: nn.Module) -> str:
    """Return the implementation of a module of experts; ``eager`` is the model's own code.

    Experts that keep the blocks of a GGUF have one of their own, with the rows of ``batched_mm``.
    """
    if type(module).__name__ == "GgufExperts":
        return "batched_mm"
    if not hasattr(module, "is_concatenated"):  # set by transformers' use_experts_implementation
        return "eager"
    config: Any = module.config
    return str(getattr(config, "_experts_implementation", None) or "eager")


@contextmanager
def _replacing(module: nn.Module, allowed: tuple[str, ...]) -> Iterator[None]:
    """Switch to the first allowed implementation, unless the current one is allowed.

    Raises RequestError if the implementation was fixed when the model was loaded.
    """
    name = _implementation(module)
    if name in allowed or not hasattr(module, "is_concatenated"):
        yield
        return
    if name == "deepgemm_megamoe":
        raise RequestError(
            f"the experts run on {name}, which hides their activation",
            "load the model with experts_implementation='grouped_mm'",
        )
    config: Any = module.config
    before = config._experts_implementation_internal  # noqa: SLF001  (the setter recurses)
    config._experts_implementation_internal = allowed[0]  # noqa: SLF001
    try:
        yield
    finally:
        config._experts_implementation_internal = before  # noqa: SLF001


def _count_experts(module: nn.Module) -> int:
    """Return how many experts a module holds."""
    for owner in (module, getattr(module, "router", None)):
        for name in _NAMES_OF_COUNT:
            number = getattr(owner, name, None)
            if isinstance(number, int):
                return number
    return len(list(module.children()))
