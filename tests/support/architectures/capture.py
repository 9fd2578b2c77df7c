"""What a model computes, seen from below: every operation that reaches the dispatcher.

Knows nothing of distviz. Activations are the modules of the classes that transformers and torch
call activations (as wholes), and the elementwise operators outside them; what enters a linear map
is known by the storage of its weight.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn.modules import activation as torch_activation
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import activations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ACTIVATIONS = (
    "silu", "gelu", "relu", "sigmoid", "tanh", "erf", "softplus", "elu", "leaky_relu", "hardtanh",
    "mish", "hardswish", "hardsigmoid", "log_sigmoid_forward", "celu", "relu6",
)  # fmt: skip
MADE_OF = ("mul", "pow", "square")
LINEAR = ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm")
CLASSES = tuple({
    one[0] if isinstance(one, tuple) else one for one in activations.ACT2CLS.values()
} | {
    getattr(torch_activation, name)
    for name in torch_activation.__all__
    if name not in ("MultiheadAttention", "GLU", "Softmax", "Softmax2d", "Softmin", "LogSoftmax")
})  # fmt: skip


@dataclass
class Op:
    """One result: what made it, in which module, and from what."""

    kind: str
    holder: str
    inputs: list[torch.Tensor]
    output: torch.Tensor
    is_activation: bool


@dataclass
class Capture:
    """Everything of one forward pass, in order; results may be replaced by their number."""

    model: nn.Module
    replace: dict[int, Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    entering: dict[int, list[torch.Tensor]] = field(default_factory=lambda: defaultdict(list))

    def __enter__(self) -> Self:
        self._frames: list[nn.Module] = []
        self._stack = ExitStack()
        for register, hook in (
            (torch_module.register_module_forward_pre_hook, self._enter),
            (torch_module.register_module_forward_hook, self._leave),
        ):
            self._stack.callback(register(hook).remove)
        self._stack.enter_context(_Below(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _enter(self, module: nn.Module, _args: Any) -> None:
        self._frames.append(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        self._frames.pop()
        if not isinstance(module, CLASSES) or self._inside():
            return None
        if not args or not isinstance(output, torch.Tensor):
            return None
        return self._add(type(module).__name__, [args[0]], output, is_activation=True)

    def below(self, func: Any, args: Any, result: Any) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name in LINEAR:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            x, weight = tensors[-2:]
            if name == "_grouped_mm":
                x, weight = tensors[:2]
            self.entering[weight.untyped_storage().data_ptr()].append(x.clone())
        if self._inside() or not (name in ACTIVATIONS or name in MADE_OF):
            return result
        if not isinstance(result, torch.Tensor):
            return result
        inputs = [value for value in args if isinstance(value, torch.Tensor)]
        changed = self._add(name, inputs, result, is_activation=name in ACTIVATIONS)
        return result if changed is None else changed

    def _inside(self) -> bool:
        return any(isinstance(module, CLASSES) for module in self._frames)

    def _add(
        self, kind: str, inputs: list[torch.Tensor], output: torch.Tensor, *, is_activation: bool
    ) -> torch.Tensor | None:
        number = len(self.ops)
        holder = type(self._frames[-1]).__name__ if self._frames else ""
        kept = [one.clone() for one in inputs]
        self.ops.append(Op(kind, holder, kept, output.clone(), is_activation))
        if number not in self.replace:
            return None
        with torch.utils._python_dispatch._disable_current_modes():  # not the model's operations
            return self.replace[number](output)

    def find(self, value: torch.Tensor, taken: set[int]) -> int | None:
        """Return the number of the first free result that is `value`; activations first."""
        flat = value.reshape(-1)
        for wants_activation in (True, False):
            for number, op in enumerate(self.ops):
                is_free = number not in taken and op.is_activation == wants_activation
                if is_free and _same(op.output, flat):
                    return number
        return None

    def factors(self, product: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield what was multiplied to give `product`."""
        for op in self.ops:
            if op.kind == "mul" and _same(op.output, product.reshape(-1)):
                yield from op.inputs

    def multiplied(self, value: torch.Tensor) -> Iterator[Op]:
        """Yield the products that `value` enters."""
        for op in self.ops:
            if op.kind == "mul" and any(_same(one, value.reshape(-1)) for one in op.inputs):
                yield op

    def elsewhere(self, taken: set[int]) -> dict[str, int]:
        """Count the activations that nobody has claimed, by module class and function."""
        left = [
            op for number, op in enumerate(self.ops) if op.is_activation and number not in taken
        ]
        return dict(sorted(Counter(f"{op.holder}: {op.kind}" for op in left).items()))


def _same(one: torch.Tensor, flat: torch.Tensor) -> bool:
    return one.numel() == flat.numel() and torch.equal(one.reshape(-1).to(flat.dtype), flat)


class _Below(TorchDispatchMode):
    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self._capture = capture

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        with torch.utils._python_dispatch._disable_current_modes():
            return self._capture.below(func, args, result)
