"""Trace activations through the torch functions that one module's forward calls.

A chain names the operations from an activation function to a result: ``("silu",)`` is the result
of ``F.silu``, ``("silu", "mul")`` the first product with it, ``("sigmoid", "mul")`` the
``g * sigmoid(a * g)`` of gpt-oss, ``("relu", "square")`` that of RWKV, ``("act_fn()", "mul")`` the
product with the output of the child module ``act_fn``.

Cost: a Python call for each torch function inside that forward (some microseconds), nothing
elsewhere. Tensors are held by weak references, so none lives longer. Importing this module imports
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from weakref import ref

import torch
from torch.overrides import TorchFunctionMode

OpPath = tuple[str, ...]
Receive = Callable[[OpPath, Any, torch.Tensor], torch.Tensor | None]

_ACTIVATIONS = frozenset(
    (
        *("silu", "gelu", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "mish", "softplus"),
        *("sigmoid", "logsigmoid", "hardsigmoid", "hardswish", "hardtanh", "tanh", "erf"),
    )
)
ACTIVATION_FUNCTIONS = _ACTIVATIONS - {"erf"} | {
    *("prelu", "rrelu", "softsign", "tanhshrink", "softshrink", "hardshrink", "threshold"),
}
"""Names of the activation functions of torch, by which activations are found anywhere."""
# Softcaps use these: an operand with another activation takes precedence.
_WEAK = frozenset(("tanh", "erf"))
_SAME = frozenset(
    (
        *("dropout", "to", "type", "type_as", "float", "half", "bfloat16", "contiguous", "reshape"),
        *("clamp", "clip", "clamp_min", "clamp_max"),
    )
)
_PRODUCTS = frozenset(("mul", "multiply", "imul", "rmul"))
_SUMS = frozenset(("add", "radd", "iadd", "sub", "rsub"))
_POWERS = frozenset(("square", "pow"))


class FunctionTracer(TorchFunctionMode):
    """Traces chains while its context lasts.

    Parameters
    ----------
    receive
        Called with ``(chain, input of its first step, result)`` for every step of a wanted chain;
        its return value replaces the result unless it is None.
    wanted
        Chains to trace; None for all.
    on_linear
        Called with ``(chain, weight, output)`` where a traced result is the input of a linear
        layer.
    """

    def __init__(
        self,
        receive: Receive,
        wanted: Collection[OpPath] | None = None,
        on_linear: Callable[[OpPath, torch.Tensor, torch.Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._receive = receive
        self._wanted = wanted
        self._on_linear = on_linear
        self._known: dict[int, tuple[Any, OpPath, Any]] = {}
        self._unscaled: dict[int, tuple[Any, Any]] = {}

    def clear(self) -> None:
        """Forget the tensors of earlier calls."""
        self._known.clear()
        self._unscaled.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function and extend the chains of its operands."""
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, torch.Tensor):
            return result
        step = _step(func, args)
        if step in _ACTIVATIONS:
            entered = args[0] if args else (kwargs or {}).get("input")
            return self.note(result, (step,), self._raw(entered))
        before = self._before(args)
        if before is None:
            if step == "scale":
                self._remember_scale(result, args)
        elif step in _SAME:
            self._remember(result, *before)
        elif step:
            return self.note(result, (*before[0], step), before[1])
        elif self._on_linear is not None and func is torch.nn.functional.linear:
            self._on_linear(before[0], args[1], result)
        return result

    def note(self, result: torch.Tensor, chain: OpPath, entered: Any) -> torch.Tensor:
        """Record `result` as the end of `chain`; return it or its replacement."""
        if self._wanted is not None and not any(w[: len(chain)] == chain for w in self._wanted):
            return result
        with torch._C.DisableTorchFunction():  # noqa: SLF001  (also for the modes around this one)
            changed = self._receive(chain, entered, result)
        kept = result if changed is None else changed
        self._remember(kept, chain, entered)
        return kept

    def _before(self, args: tuple[Any, ...]) -> tuple[OpPath, Any] | None:
        """Return the chain of an operand, preferring that of an activation to that of a softcap."""
        found = [known for value in args[:2] if (known := self._look_up(value)) is not None]
        return min(found, key=lambda known: known[0][0] in _WEAK, default=None)

    def _look_up(self, value: Any) -> tuple[OpPath, Any] | None:
        known = self._known.get(id(value))
        if known is None or known[0]() is not value:
            return None
        return known[1], known[2]() if isinstance(known[2], ref) else known[2]

    def _remember(self, value: torch.Tensor, chain: OpPath, entered: Any) -> None:
        weak = ref(entered) if isinstance(entered, torch.Tensor) else entered
        self._known[id(value)] = (ref(value), chain, weak)

    def _remember_scale(self, result: torch.Tensor, args: tuple[Any, ...]) -> None:
        scaled = next((x for x in args if isinstance(x, torch.Tensor) and x.ndim), None)
        if scaled is not None:
            self._unscaled[id(result)] = (ref(result), ref(scaled))

    def _raw(self, value: Any) -> Any:
        """Undo a scale: the activation's input in ``sigmoid(1.702 * g)`` is g."""
        known = self._unscaled.get(id(value))
        raw = known[1]() if known is not None and known[0]() is value else None
        return value if raw is None else raw


def function_name(function: Any) -> str:
    """Return the name of a torch function, the same in place; of a property, such as ``T``."""
    name = str(getattr(function, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(function, "__self__", None), "__name__", ""))
    return name.strip("_")


def _step(function: Any, args: tuple[Any, ...]) -> str:
    name = function_name(function)
    if name in _ACTIVATIONS or name in _SAME:
        return name
    tensors = [value for value in args[:2] if isinstance(value, torch.Tensor) and value.ndim]
    if name in _POWERS or (name in _PRODUCTS and len(tensors) == 2 and tensors[0] is tensors[1]):
        return "square"
    if name in _PRODUCTS:
        return "mul" if len(tensors) == 2 else "scale"
    if name in ("div", "truediv"):
        return "scale"
    return "shift" if name in _SUMS and len(tensors) == 1 else ""
