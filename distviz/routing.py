"""Which token, expert and slot each row of a mixture-of-experts layer belongs to.

The module that holds the experts is followed: what it is called with (hidden states, the experts
chosen for each token, weights) and the implementation it runs on decide in which order the rows of
its activation come. How the activation is captured does not matter here: rows go in, tokens,
experts and slots come out. After transformers 5.23, ``integrations/moe.py`` and the models.

==============  ==============================================================================
implementation  rows
==============  ==============================================================================
batched_mm      once, ordered by (token, slot)
grouped_mm      once, ordered by expert as ``torch.sort`` orders them
eager           once for each expert that is hit, ascending; inside, by (slot, token)
Llama 4         once, every expert sees every token; those it was not chosen for are zeros
JetMoe          once, as its router sorted them
==============  ==============================================================================

An index that names no expert (a slot masked by expert parallelism, a token over the capacity)
belongs to no token: where its row is computed nevertheless, it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from distviz.errors import MeasurementError, RequestError
from distviz.sites import Point

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Layout", "Routed", "Routing", "follow", "rows_at_once"]

_AT_ONCE = ("grouped_mm", "batched_mm")
_NAMES_OF_COUNT = ("num_routed_experts", "num_experts", "n_shared_experts")
_rehearsing: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class Routed:
    """Whose each row is.

    Attributes
    ----------
    tokens
        int64 (rows,): index among all tokens of the call, batch-major; -1 where no token's.
    experts
        int64 (rows,): index of the expert; undefined where the token is -1.
    slots
        int64 (rows,): the expert's rank among those of its token, 0 the first choice.
    n_tokens, n_experts
        Tokens of the call, experts of the layer.
    """

    tokens: NDArray[np.int64]
    experts: NDArray[np.int64]
    slots: NDArray[np.int64]
    n_tokens: int
    n_experts: int

    def spread(self, per_token: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give every row what its token has; -1 where it has none."""
        return np.where(self.tokens < 0, -1, per_token[self.tokens])


@dataclass(frozen=True)
class Layout:
    """The rows of one call of the experts, and how many come at a time, in order."""

    routed: Routed
    sizes: tuple[int, ...]


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
        self._pieces: dict[Point, _Pieces] = {}

    def hear_router(self, router: Any, _args: Any, output: Any) -> None:
        """Forward hook of a router, for experts that are not told what it chose."""
        if isinstance(output, tuple) and len(output) == 5 and isinstance(output[3], list):
            self._start(_by_sorted_index(output[0], output[3], router.top_k))
        else:
            self._routing = router, output

    def start(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the experts: read who goes where."""
        given = [*args, *kwargs.values()]
        index = next((value for value in given[1:] if _is_index(value)), None)
        if index is not None:
            layout = _from_index(index, _count_experts(self.module), _implementation(self.module))
            self._start(layout)
        elif self._routing is not None:
            router, (_, logits) = self._routing
            self._start(_chosen_of_every_expert(logits, router.top_k))
        else:
            self._start(_every_expert(given[0], _count_experts(self.module)))

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

    def take(self, point: Point, rows: torch.Tensor) -> tuple[torch.Tensor, Routed] | None:
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

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Let the experts run without being counted by anyone."""
        _rehearsing.add(self.module)
        try:
            yield
        finally:
            _rehearsing.discard(self.module)


def _not_attributed(point: Point, why: str) -> MeasurementError:
    return MeasurementError(
        f"{point.module} (site {point.site}) {why}",
        "its rows cannot be attributed to tokens and experts; leave this site out",
    )


@contextmanager
def follow(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Routing]]:
    """Follow the modules of experts at some paths; gives a `Routing` by path.

    An implementation that fuses the activation away is replaced while this lasts.
    """
    found: dict[str, Routing] = {}
    with ExitStack() as stack:
        for path in dict.fromkeys(paths):
            module = model.get_submodule(path)
            stack.enter_context(_replacing(module, *_AT_ONCE, "eager"))
            routing = found[path] = Routing(module, path)
            handle = module.register_forward_pre_hook(routing.start, with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(module.register_forward_hook(routing.finish).remove)
            router = _router(model, path)
            if router is not None:
                stack.callback(router.register_forward_hook(routing.hear_router).remove)
        yield found


@contextmanager
def rows_at_once(model: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Let the experts at some paths compute all rows in one piece, where their code can."""
    with ExitStack() as stack:
        for path in dict.fromkeys(paths):
            stack.enter_context(_replacing(model.get_submodule(path), *_AT_ONCE))
        yield


def _router(model: nn.Module, path: str) -> nn.Module | None:
    """The router inside the module (JetMoe) or beside it (Llama 4), if there is one."""
    above = model.get_submodule(path.rpartition(".")[0])
    own = getattr(model.get_submodule(path), "router", None)
    return own if own is not None else getattr(above, "router", None)


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


# Layouts ------------------------------------------------------------------------------------


def _is_index(value: Any) -> bool:
    import torch

    is_whole = isinstance(value, torch.Tensor) and not value.is_floating_point()
    return is_whole and value.dim() in (2, 3) and value.dtype != torch.bool


def _from_index(index: torch.Tensor, n_experts: int, name: str) -> Layout:
    """Lay out (tokens, slots) of expert indices, or (tokens, slots, experts) of zeros and ones."""
    import torch

    if index.dim() == 3:
        index = torch.where(index.any(dim=-1), index.argmax(dim=-1), -1)
    n_tokens, k = index.shape
    flat = index.detach().reshape(-1)
    order = np.arange(n_tokens * k)
    if name == "grouped_mm":
        order = torch.sort(flat)[1].cpu().numpy()  # as transformers calls it: not stable
    experts = flat.cpu().numpy().astype(np.int64)
    is_real = (experts >= 0) & (experts < n_experts)
    if name == "eager":
        tokens, slots = np.divmod(order, k)
        order = np.lexsort((tokens, slots, experts))
        order = order[is_real[order]]
    sizes = (order.size,)
    if name == "eager":
        sizes = tuple(np.unique(experts[order], return_counts=True)[1].tolist())
    tokens, slots = np.divmod(order, k)
    tokens = np.where(is_real[order], tokens, -1)
    return Layout(Routed(tokens, experts[order], slots, n_tokens, n_experts), sizes)


def _by_sorted_index(index: torch.Tensor, sizes: list[int], k: int) -> Layout:
    """JetMoe: flat (token, slot) indices sorted by expert, and how many each expert has."""
    order = index.detach().cpu().numpy().astype(np.int64)
    experts = np.repeat(np.arange(len(sizes)), sizes)
    tokens, slots = np.divmod(order, k)
    return Layout(Routed(tokens, experts, slots, order.size // k, len(sizes)), (order.size,))


def _chosen_of_every_expert(logits: torch.Tensor, k: int) -> Layout:
    """Llama 4: rows are (expert, token); chosen are the k largest logits of a token."""
    n_tokens, n_experts = logits.shape
    index = logits.detach().topk(k, dim=1)[1].cpu().numpy()
    slots = np.full((n_tokens, n_experts), -1, np.int64)
    np.put_along_axis(slots, index, np.arange(k)[None], axis=1)
    experts, tokens = (part.ravel() for part in np.indices((n_experts, n_tokens)))
    ranks = slots.T.ravel()
    tokens = np.where(ranks < 0, -1, tokens)
    return Layout(Routed(tokens, experts, ranks, n_tokens, n_experts), (tokens.size,))


def _every_expert(hidden: torch.Tensor, n_experts: int) -> Layout:
    """Every expert works on every token (Inkling's shared experts): rows are (expert, token)."""
    n_tokens = hidden.numel() // hidden.shape[-1]
    experts, tokens = (part.ravel() for part in np.indices((n_experts, n_tokens)))
    return Layout(Routed(tokens, experts, experts, n_tokens, n_experts), (tokens.size,))
