"""Find the norms, sums and scales of a layer by a forward pass without values (meta device).

Tensors have labels. ``x`` is the input of the layer; ``q``, ``k``, ``v``, ``a`` (of the attention)
and ``m`` (of the MLP) are outputs of projections, ``h`` of others; a norm adds its path. A result
has the labels of its operands. So a norm of ``a`` stands on the branch, one of ``x`` and ``a``
behind the addition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distviz.models.architectures.mlp import Mlp
from distviz.models.architectures.projections import linear_widths, parent
from distviz.sites import LayerOrder

_PRODUCTS = frozenset(("mul", "multiply", "imul", "rmul"))
_TOKENS = 8
_FUSED = {"q": r"q(uery)?_?(layer_?)?norm", "k": r"k(ey)?_?(layer_?)?norm", "v": r"v_?norm"}
"""Names of norms of queries, keys and values that leave one projection together."""
Labels = frozenset[str]


class _Finished(BaseException):
    """The layer is done, the rest of the pass is not needed."""


def trace_order(model: nn.Module, mlp: Mlp) -> LayerOrder | None:
    """Return what the layer of an MLP does around its branches; None where it cannot be traced.

    Parameters
    ----------
    model
        On the meta device.
    mlp
        One of its MLPs, from `find_mlps`.
    """
    layer = next((p.within or p.module for p in mlp.points if p.site == "residual"), "")
    if not layer or "*" in layer:
        return None
    # Routing needs values, so experts are replaced where they cannot be traced.
    for replaced in (None, False, True) if mlp.routed else (None,):
        tracer = _Tracer(model, mlp, layer)
        with ExitStack() as stack, suppress(Exception), torch.inference_mode():  # of any model
            if replaced is not None:
                _replace_experts(tracer.block, stack, with_router=replaced)
            tracer.attach(stack)
            try:
                stack.enter_context(tracer)
                _call(model)
            except _Finished:
                return tracer.order()
    return None


def _call(model: Any) -> None:
    ids = torch.zeros((1, _TOKENS), dtype=torch.long, device="meta")
    more: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    more |= {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    model(input_ids=ids, use_cache=False, **more)


def _replace_experts(block: Any, stack: ExitStack, *, with_router: bool) -> None:
    def forward(hidden: torch.Tensor, *_: Any, **__: Any) -> Any:
        made = hidden.clone()
        return (made, None) if with_router else made

    block.forward = forward
    stack.callback(delattr, block, "forward")


class _Tracer(TorchFunctionMode):
    """Labels the tensors of one layer."""

    def __init__(self, model: nn.Module, mlp: Mlp, layer: str) -> None:
        super().__init__()
        self._modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        self._layer, self._mlp, self._mlp_path = layer, mlp, mlp.path.partition(".experts")[0]
        at = {point.site: point.module for point in mlp.points}
        self._attention = parent(at.get("q") or at.get("k") or at.get("attention") or "")
        self._ends = {at.get("attention"): "a"} | (
            {self._mlp_path: "m"} if mlp.routed else {at.get("down"): "m"}
        )
        parts = {p.site for p in mlp.points if p.part is not None}
        self._named = {at[s]: s for s in "qkv" if s in at and s not in parts}
        self._known: dict[int, tuple[Any, Labels]] = {}
        self._norms: list[tuple[str, Labels]] = []
        self._steps: dict[str, list[str]] = {"a": [], "m": []}
        self._entered: dict[str, Labels] = {}
        self._in_norm = 0

    @property
    def block(self) -> nn.Module:
        """The MLP, or the block of experts with their router."""
        return self._modules[self._mlp_path]

    def attach(self, stack: ExitStack) -> None:
        """Attach hooks until the stack closes."""
        _hook(stack, self._modules[self._layer], self._start, self._finish)
        for path, module in self._modules.items():
            if not path.startswith(f"{self._layer}."):
                continue
            is_linear = linear_widths(module) is not None
            if "norm" in type(module).__name__.lower() and not is_linear:
                self._hook_norm(stack, path, module)
            elif is_linear or path in self._ends:
                self._hook_projection(stack, path, module)

    def _hook_norm(self, stack: ExitStack, path: str, module: nn.Module) -> None:
        def enter(given: Any) -> None:
            if self._in_norm == 0:
                self._norms.append((path, self._labels(given)))
            self._in_norm += 1

        def leave(made: Any) -> None:
            self._in_norm -= 1
            if self._in_norm == 0:
                at = self._norms[-1][1]
                self._remember(made, at | {path})
                if len(sources := _sources(at)) == 1 and (source := min(sources)) in self._steps:
                    self._steps[source].append("norm")

        _hook(stack, module, enter, leave)

    def _hook_projection(self, stack: ExitStack, path: str, module: nn.Module) -> None:
        is_attention = self._is_in_attention(path)
        is_mlp = not is_attention and (self._is_in_mlp(path) or path == self._mlp_path)
        end = self._ends.get(path)

        def enter(given: Any) -> None:
            if is_attention or (is_mlp and end != "m") or path == self._mlp_path:
                self._entered.setdefault("a" if is_attention else "m", self._labels(given))

        def leave(made: Any) -> None:
            label = end or self._named.get(path, "h")
            for one in _tensors([made]):
                self._remember(one, frozenset((label,)))

        _hook(stack, module, enter, leave)

    def _is_in_attention(self, path: str) -> bool:
        return bool(self._attention) and path.startswith(f"{self._attention}.")

    def _is_in_mlp(self, path: str) -> bool:
        return path.startswith(f"{self._mlp_path}.")

    def _start(self, given: Any) -> None:
        self._remember(given, frozenset("x"))

    def _finish(self, made: Any) -> None:
        self._entered["out"] = self._labels(next(_tensors([made]), None))
        raise _Finished

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function; its results have the labels of its operands."""
        if func is torch.Tensor.__bool__:
            return True  # no values: a mask that is asked whether it is full
        result = func(*args, **(kwargs or {}))
        given = (*args, *(kwargs or {}).values())
        labels = Labels().union(*map(self._labels, _tensors(given)))
        if labels:
            for made in _tensors([result]):
                self._remember(made, labels)
        name = str(getattr(func, "__name__", "")).strip("_")  # some functions have no name
        sources = _sources(labels)
        if name in _PRODUCTS and not self._in_norm and len(sources) == 1:
            self._note_scale(min(sources), args[:2])
        return result

    def _note_scale(self, source: str, operands: Iterable[Any]) -> None:
        """Note the factor of a product with a branch."""
        others = [one for one in operands if not self._labels(one)]
        if source not in self._steps or len(others) != 1:
            return
        if isinstance(others[0], torch.Tensor):
            self._steps[source].append("scale")
        elif others[0] != 1:
            self._steps[source].append(f"× {others[0]:g}")

    def _labels(self, value: Any) -> Labels:
        known = self._known.get(id(value))
        return known[1] if known is not None and known[0]() is value else Labels()

    def _remember(self, value: Any, labels: Labels) -> None:
        if isinstance(value, torch.Tensor):
            self._known[id(value)] = (ref(value), labels)

    def order(self) -> LayerOrder:
        """Return what was seen."""
        stream = self._entered["out"]
        paths = {path for path, _ in self._norms}
        to_attention, to_mlp = ((self._entered.get(end, Labels()) & paths) - stream for end in "am")
        inner = [(path, _sources(at)) for path, at in self._norms if self._is_in_attention(path)]
        on = {
            site: sum(
                at == {site} or (at == {"h"} and bool(re.match(names, path.rpartition(".")[2])))
                for path, at in inner
            )
            for site, names in _FUSED.items()
        }
        behind = [_sources(at) for path, at in self._norms if path in stream]
        sums = [at for at in behind if at & {"a", "m"} and len(at) > 1]
        in_mlp = [path for path in paths if self._is_in_mlp(path)]
        return LayerOrder(
            before_attention=len(to_attention),
            before_mlp=len(to_mlp),
            on_q=on["q"],
            on_k=on["k"],
            on_v=on["v"],
            before_output=sum(len(at) > 1 and "x" not in at for _, at in inner),
            before_down=0 if self._mlp_path == self._layer else len(in_mlp),
            after_attention=tuple(self._steps["a"]),
            after_mlp=tuple(self._steps["m"]),
            stream_after_attention=sum("m" not in at for at in sums),
            stream_after_mlp=sum("m" in at for at in sums),
            is_parallel="a" not in self._entered.get("m", ("a",)),
            shares_norm=bool(to_attention & to_mlp),
        )


def _sources(labels: Labels) -> Labels:
    """Return labels without the paths of norms."""
    return frozenset(label for label in labels if len(label) == 1)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _hook(
    stack: ExitStack,
    module: nn.Module,
    enter: Callable[[Any], None],
    leave: Callable[[Any], None],
) -> None:
    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        enter(next(_tensors((*args, *kwargs.values())), None))

    handles = (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(lambda _, __, made: leave(made)),
    )
    for handle in handles:
        stack.callback(handle.remove)
