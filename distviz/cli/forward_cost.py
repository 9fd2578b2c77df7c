"""Operations and memory of a forward pass of one batch, on fake tensors: no weights are loaded.

torch's own formulas count operations; the tensors alive at once are the memory.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from distviz.hooks import attach_hook
from distviz.sites import HookPoint


@dataclass
class ForwardCost:
    """One forward pass of one batch, without the language head.

    ``peak`` is bytes of activations alive at once, ``values`` the number of values at each point.
    ``is_rough`` means that all of these are estimated from the parameters alone.
    """

    operations: float = 0.0
    peak: int = 0
    values: Counter[HookPoint] = field(default_factory=Counter)
    is_rough: bool = False


def trace(model: nn.Module, points: Sequence[HookPoint], rows: int, tokens: int) -> ForwardCost:
    """Send a batch through a model on the meta device; values are counted at ``points``."""
    cost = ForwardCost()
    base: Any = getattr(model, "base_model", model)

    def see(point: HookPoint, value: torch.Tensor) -> None:
        cost.values[point] += value.numel()

    with ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)  # torch logs what it cannot trace
        attach_hook(model, points, see, stack)
        stack.enter_context(torch.no_grad())
        # With fake tensors transformers skips what needs values; with plain ones it fails.
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Attention(cost))
        stack.enter_context(_Operations(cost))
        ids = torch.zeros((rows, tokens), dtype=torch.long, device="meta")
        options = {"use_cache": False} if hasattr(base.config, "use_cache") else {}
        try:
            base(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        except Exception:  # whatever an architecture cannot do without values  # noqa: BLE001
            return _rough_cost(base, points, rows * tokens)
    return cost


def _rough_cost(base: Any, points: Sequence[HookPoint], positions: int) -> ForwardCost:
    """Estimate from the parameters: each matrix meets every token, an expert its share of them."""
    text = base.config.get_text_config()
    experts = max(getattr(text, name, 0) or 0 for name in ("num_experts", "num_local_experts"))
    share = (getattr(text, "num_experts_per_tok", None) or 1) / experts if experts else 1.0
    embeddings = {id(one.weight) for one in base.modules() if isinstance(one, nn.Embedding)}
    met = sum(
        value.numel() * (share if value.dim() > 2 else 1.0)
        for value in base.parameters()
        if value.dim() > 1 and id(value) not in embeddings
    )
    width = int(getattr(text, "hidden_size", 0) or 1024)
    values = Counter(dict.fromkeys(points, positions * width * 3))
    return ForwardCost(2.0 * positions * met, 64 * positions * width, values, is_rough=True)


class _Attention(TorchFunctionMode):
    """Counts attention as fused kernels do it, which hold no matrix of scores."""

    def __init__(self, cost: ForwardCost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, key, value = given["query"], given["key"], given["value"]
        self.cost.operations += sdpa_flop_count(  # type: ignore[no-untyped-call]
            query.shape, key.shape, value.shape
        )
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the bytes of tensors alive at once."""

    def __init__(self, cost: ForwardCost) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = cost
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        packet, given = func.overloadpacket, kwargs or {}
        if packet is torch.ops.aten._grouped_mm:  # noqa: SLF001
            # torch has no formula for it, and refuses fake tensors of float32.
            left, right = args[:2]
            out = left.new_empty((left.shape[0], right.shape[-1]))
            self.cost.operations += 2.0 * left.numel() * right.shape[-1]
        else:
            out = func(*args, **given)
        if packet in flop_registry:
            self.cost.operations += flop_registry[packet](*args, **given, out_val=out)
        for value in () if func.is_view else tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._hold(value.untyped_storage())
        return out

    def _hold(self, storage: Any) -> None:
        if id(storage) not in self._alive:
            self._alive[id(storage)] = storage.nbytes()
            self.cost.peak = max(self.cost.peak, sum(self._alive.values()))
            weakref.finalize(storage, self._alive.pop, id(storage), None)
