"""Follow the modules of routed experts through their calls: whose is each row that passes?

What a module of experts is called with (hidden states, the experts chosen for each token, weights)
and the implementation it runs on decide in which order its rows come, see
:mod:`distviz.hooks.moe_layouts`. How the activation is captured does not matter here: rows go in,
tokens, experts and slots come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from distviz.errors import MeasurementError, RequestError
from distviz.hooks import moe_layouts
from distviz.hooks.moe_layouts import Layout, Routed
from distviz.models.architectures import has_forward
from distviz.sites import HookPoint

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Routing", "force_batched_experts", "replaced", "rows_shown", "track_routing"]

_AT_ONCE = ("grouped_mm", "batched_mm")
_OPEN = (*_AT_ONCE, "eager")
_NAMES_OF_COUNT = ("num_routed_experts", "num_experts", "n_shared_experts")
_rehearsing: WeakKeyDictionary[nn.Module, Routing] = WeakKeyDictionary()


@dataclass
class _Pieces:
    """What one point has shown of the call under way."""

    number: int = 0
    whole: torch.Tensor | None = None


class Routing:
    """Follows one module of experts through its calls.

    Parameters
    ----------
    module, path
        The module that holds the experts.
    """

    def __init__(self, module: nn.Module, path: str) -> None:
        self.module = module
        self.path = path
        self.layout: Layout | None = None
        self._routing: tuple[Any, Any] | None = None
        self._pieces: dict[HookPoint, _Pieces] = {}

    def hear_router(self, router: Any, _args: Any, output: Any) -> None:
        """Forward hook of a router, for experts that are not told what it chose."""
        if isinstance(output, tuple) and len(output) == 5 and isinstance(output[3], list):
            self._start(moe_layouts.by_sorted_index(output[0], output[3], router.top_k))
        else:
            self._routing = router, output

    def start(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the experts: read who goes where."""
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
        """Forward hook of the experts: every row announced must have come."""
        for point, pieces in self._pieces.items():
            of_all = f"{pieces.number} of {len(self.layout.sizes) if self.layout else 0}"
            raise _not_attributed(point, f"was reached by {of_all} experts")

    @property
    def is_idle(self) -> bool:
        """Whether the last call had no row for any expert."""
        return self.layout is not None and not self.layout.sizes

    def take(self, point: HookPoint, rows: torch.Tensor) -> tuple[torch.Tensor, Routed] | None:
        """Accept (rows, channels) of one firing; return all rows of the call once they are there.

        Raises
        ------
        MeasurementError
            If the rows are not those that the routing announced.
        """
        if self.layout is None:
            raise _not_attributed(point, f"ran, but {self.path} was not called")
        pieces = self._pieces.setdefault(point, _Pieces())
        sizes = self.layout.sizes
        expected = sizes[pieces.number] if pieces.number < len(sizes) else 0
        if rows.shape[0] != expected:
            raise _not_attributed(point, f"saw {rows.shape[0]} rows where {expected} were routed")
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
        """Whether the experts run ahead of their call, so that nothing counts."""
        return self.module in _rehearsing

    @property
    def is_leading(self) -> bool:
        """Whether they do so for the sake of whoever follows them by this object."""
        return _rehearsing.get(self.module) is self

    def rehearse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the experts run without being counted by anyone."""
        import torch

        _rehearsing[self.module] = self
        try:
            with torch.no_grad():
                self.module.forward(*args, **kwargs)
        finally:
            del _rehearsing[self.module]


class _Matched(Routing):
    """Follows a layer whose experts are plain modules in a list: nobody says who goes where.

    The layer runs ahead once, uncounted, to see which rows each expert is given; they are known by
    their content. That takes the layer's time once more.
    """

    def __init__(self, module: nn.Module, path: str) -> None:
        super().__init__(module, path)
        self._is_learning = False
        self._given: list[tuple[int, torch.Tensor]] = []
        self._choice: torch.Tensor | None = None

    @property
    def is_leading(self) -> bool:
        return super().is_leading and not self._is_learning

    def hear_expert(self, number: int, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of one expert."""
        if self._is_learning:
            self._given.append((number, args[0].reshape(-1, args[0].shape[-1])))

    def hear_router(self, _router: Any, _args: Any, output: Any) -> None:
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
                f"what enters the experts of {self.path} are not the hidden states of its tokens",
                "its rows cannot be attributed; leave this layer out",
            )
        self._start(layout)


def _not_attributed(point: HookPoint, why: str) -> MeasurementError:
    return MeasurementError(
        f"{point.module} (site {point.site}) {why}",
        "its rows cannot be attributed to tokens and experts; leave this site out",
    )


@contextmanager
def track_routing(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Routing]]:
    """Follow the modules of experts at some paths; gives a `Routing` by path.

    An implementation that fuses the activation away is replaced while this lasts.
    """
    found: dict[str, Routing] = {}
    with ExitStack() as stack:
        for path in dict.fromkeys(paths):
            module = model.get_submodule(path)
            stack.enter_context(_replacing(module, *_OPEN))
            routing = found[path] = _routing(module, path, stack)
            handle = module.register_forward_pre_hook(routing.start, with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(module.register_forward_hook(routing.finish).remove)
            router = _router(model, path)
            if router is not None:
                stack.callback(router.register_forward_hook(routing.hear_router).remove)
        yield found


@contextmanager
def force_batched_experts(model: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Let the experts at some paths compute all rows in one piece, where their code can."""
    with ExitStack() as stack:
        for path in dict.fromkeys(paths):
            stack.enter_context(_replacing(model.get_submodule(path), *_AT_ONCE))
        yield


@contextmanager
def rows_shown(model: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Let the experts at some paths run on an implementation that `track_routing` supports."""
    with ExitStack() as stack:
        for path in dict.fromkeys(paths):
            stack.enter_context(_replacing(model.get_submodule(path), *_OPEN))
        yield


def replaced(model: nn.Module, paths: Iterable[str], *, at_once: bool) -> list[str]:
    """Return the implementations that `force_batched_experts` or `track_routing` replaces."""
    allowed = _AT_ONCE if at_once else _OPEN
    modules = (model.get_submodule(path) for path in dict.fromkeys(paths))
    names = (_implementation(module) for module in modules if hasattr(module, "is_concatenated"))
    return list(dict.fromkeys(name for name in names if name not in allowed))


def _routing(module: nn.Module, path: str, stack: ExitStack) -> Routing:
    """Choose how the experts of a module are followed."""
    inside: Any = getattr(module, "experts", None)
    if inside is None or has_forward(inside):
        return Routing(module, path)
    matched = _Matched(module, path)
    for number, expert in enumerate(inside.children()):
        hear = partial(_hear_expert, matched, number)
        stack.callback(expert.register_forward_pre_hook(hear).remove)
    return matched


def _hear_expert(matched: _Matched, number: int, _expert: Any, args: tuple[Any, ...]) -> None:
    matched.hear_expert(number, args)


def _router(model: nn.Module, path: str) -> nn.Module | None:
    """The router inside the module (JetMoe, lists) or beside it (Llama 4), if there is one."""
    own = model.get_submodule(path)
    above = model.get_submodule(path.rpartition(".")[0])
    places = ((own, "router"), (own, "gate"), (above, "router"))
    found = (getattr(module, name, None) for module, name in places)
    return next((router for router in found if router is not None), None)


# Implementations ----------------------------------------------------------------------------


def _implementation(module: nn.Module) -> str:
    """Return the name of what a module of experts runs on; ``eager`` is the model's own code."""
    if not hasattr(module, "is_concatenated"):  # set by transformers' use_experts_implementation
        return "eager"
    config: Any = module.config
    return str(getattr(config, "_experts_implementation", None) or "eager")


@contextmanager
def _replacing(module: nn.Module, *allowed: str) -> Iterator[None]:
    """Run on the first of the allowed implementations, unless on one of them already.

    Raises
    ------
    RequestError
        If the implementation was fixed when the model was loaded.
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
