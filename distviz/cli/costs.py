"""What one forward pass costs, read off a model that has shapes and no values.

The model runs on fake tensors: nothing is computed, every operation tells what it would have
multiplied, moved and held in memory. Attention counts as fused kernels do it, which never hold a
matrix of scores.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from distviz.hooks import attach_hook
from distviz.sites import HookPoint

__all__ = ["Cost", "rough_cost", "trace"]


@dataclass
class Cost:
    """One pass of one batch without a language head.

    Attributes
    ----------
    rows, tokens
        Shape of the batch.
    products
        Matrix products: (rows, inner, columns) of each, and how often it is made.
    attention
        (batch, heads, queries, keys, width) of each fused attention, and how often.
    moved
        Bytes that all other operations read and write.
    calls
        Operations.
    peak
        Bytes of activations alive at once.
    values
        How many values pass each point.
    is_rough
        Whether it was taken from the parameters alone.
    """

    rows: int
    tokens: int
    products: dict[tuple[int, int, int], int] = field(default_factory=dict)
    attention: dict[tuple[int, ...], int] = field(default_factory=dict)
    moved: float = 0.0
    calls: int = 0
    peak: int = 0
    values: dict[HookPoint, int] = field(default_factory=dict)
    is_rough: bool = False

    @property
    def operations(self) -> float:
        """Floating-point operations of matrix products and attention."""
        products = sum(2.0 * math.prod(shape) * times for shape, times in self.products.items())
        return products + sum(4.0 * math.prod(s) * times for s, times in self.attention.items())


def trace(
    model: nn.Module,
    points: Sequence[HookPoint],
    rows: int,
    tokens: int,
    until: Collection[str] = (),
) -> Cost | None:
    """Send a batch of ``rows`` by ``tokens`` through a model on the meta device.

    Parameters
    ----------
    points
        Where values are counted.
    until
        Paths of layers: the pass ends when all of them have run, as it does where a measurement
        needs no more. Empty: it goes to the end, without a head.

    Returns
    -------
    None where the path depends on values, as in some mixtures of experts.
    """
    cost = Cost(rows, tokens)
    base: Any = getattr(model, "base_model", model)

    def see(point: HookPoint, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple | list) else value
        width = tensor.shape[-1] if point.part is None else point.part[1] - point.part[0]
        seen = tensor.numel() // max(tensor.shape[-1], 1) * width
        cost.values[point] = cost.values.get(point, 0) + seen

    with ExitStack() as stack:
        stack.enter_context(_silent())
        attach_hook(model, points, see, stack)
        _stop_behind(model, until, stack)
        stack.enter_context(torch.no_grad())
        # Fake tensors rather than plain ones: transformers knows that they have no values.
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Attention(cost))
        stack.enter_context(_Counter(cost))
        ids = torch.zeros((rows, tokens), dtype=torch.long, device="meta")
        options = {"use_cache": False} if hasattr(base.config, "use_cache") else {}
        try:
            base(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        except _EnoughError:
            pass
        except Exception:  # whatever an architecture cannot do without values  # noqa: BLE001
            return None
    return cost


def rough_cost(model: nn.Module, points: Sequence[HookPoint], rows: int, tokens: int) -> Cost:
    """Take the cost from the matrices alone, as if every one met every token."""
    cost = Cost(rows, tokens, is_rough=True)
    base: Any = getattr(model, "base_model", model)
    positions, text = rows * tokens, base.config.get_text_config()
    experts = max(getattr(text, name, 0) or 0 for name in ("num_experts", "num_local_experts"))
    share = (getattr(text, "num_experts_per_tok", None) or 1) / experts if experts else 1.0
    embeddings = {
        id(module.weight) for module in base.modules() if isinstance(module, nn.Embedding)
    }
    for parameter in base.parameters():
        if parameter.dim() < 2 or id(parameter) in embeddings:
            continue
        copies = math.prod(parameter.shape[:-2])
        met = max(1, round(positions * (share if copies > 1 else 1.0)))
        shape = (met, int(parameter.shape[-1]), int(parameter.shape[-2]))
        cost.products[shape] = cost.products.get(shape, 0) + copies
    width = int(getattr(text, "hidden_size", 0) or 1024)
    layers = int(getattr(text, "num_hidden_layers", 0) or 1)
    cost.moved = 4.0 * positions * width * 30 * layers
    cost.calls, cost.peak = 60 * layers, 4 * positions * width * 16
    cost.values = dict.fromkeys(points, positions * width * 3)
    return cost


class _EnoughError(Exception):
    """All layers that were wanted have run."""


def _stop_behind(model: nn.Module, until: Collection[str], stack: ExitStack) -> None:
    left = set(until)

    def leave(path: str) -> None:
        left.discard(path)
        if not left:
            raise _EnoughError

    for path in until:
        layer = model.get_submodule(path)
        handle = layer.register_forward_hook(lambda *_, path=path: leave(path))
        stack.callback(handle.remove)


@contextmanager
def _silent() -> Iterator[None]:
    """What cannot be traced is reported by its absence, not by torch's log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Attention(TorchFunctionMode):
    """Counts fused attention, which would be taken apart otherwise."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, key, value = given["query"], given["key"], given["value"]
        batch, heads, queries, width = query.shape
        shape = (batch, heads, queries, key.shape[-2], width)
        self.cost.attention[shape] = self.cost.attention.get(shape, 0) + 1
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what every operation multiplies and moves, and what is alive at once."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = cost
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        given = kwargs or {}
        inputs = [value for value in _leaves((args, given)) if isinstance(value, torch.Tensor)]
        packet = func.overloadpacket
        is_grouped = packet is torch.ops.aten._grouped_mm  # noqa: SLF001
        # torch refuses to describe a grouped product of float32
        out = _grouped(*inputs[:2]) if is_grouped else func(*args, **given)
        outputs = [value for value in _leaves(out) if isinstance(value, torch.Tensor)]
        if is_grouped or packet in flop_registry:
            self._multiply(inputs, outputs[0])
        elif func.is_view or not outputs:
            return out
        else:
            self.cost.moved += sum(map(_bytes, [*inputs, *outputs]))
        self.cost.calls += 1
        for value in outputs:
            self._hold(value.untyped_storage())
        return out

    def _multiply(self, inputs: list[torch.Tensor], out: torch.Tensor) -> None:
        """File a product under its shape; a batch of small ones counts one by one."""
        left = [value for value in inputs if value.dim() > 1][-2]
        inner, columns = left.shape[-1], max(out.shape[-1], 1)
        batch = out.shape[0] if out.dim() > 2 else 1
        shape = (out.numel() // columns // batch, inner, columns)
        self.cost.products[shape] = self.cost.products.get(shape, 0) + batch

    def _hold(self, storage: Any) -> None:
        identity, size = id(storage), storage.nbytes()
        if identity in self._known:
            return
        self._known.add(identity)
        self._alive += size
        self.cost.peak = max(self.cost.peak, self._alive)
        weakref.finalize(storage, self._release, identity, size)

    def _release(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self._alive -= size


def _grouped(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left.new_empty((left.shape[0], right.shape[-1]))


def _bytes(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, dict):
        return _leaves(list(value.values()))
    return [value]
