"""Find an activation that is a function call, by tracing the forward of its MLP without computing.

The module is copied to the meta device without hooks, its linear layers replaced by plain ones of
the same widths. One call of its forward then shows which activation function is applied, and by
which operations its result reaches which linear layer.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distviz.models.architectures.projections import (
    Functional,
    down_beside,
    is_known_activation,
    is_stack_of_experts,
    linear_widths,
)

if TYPE_CHECKING:
    from torch import nn

    from distviz.models.architectures.function_tracer import OpPath

# Activations as formulas: g * sigmoid(g), relu(x) ** 2, x / 2 * (1 + erf(x / sqrt 2)).
_COMPLETE = re.compile(r"sigmoid mul|relu square|(?:erf|tanh) shift(?: scale)* mul|\S+")
_WIDTH = 16


def find_functional(path: str, modules: Mapping[str, nn.Module]) -> Functional | None:
    """Return the activation function of a module without an activation module; None if none.

    Fused experts (parameters with an axis for experts) are traced through ``_apply_gate``; others
    through their forward, if they have two linear layers, or one and another beside them.
    """
    module = modules[path]
    if any(is_stack_of_experts(value) for value in module.parameters(recurse=False)):
        return _of_experts(module) if hasattr(module, "_apply_gate") else None
    widths = [width for child in module.children() if (width := linear_widths(child))]
    beside = down_beside(path, modules) if len(widths) == 1 else None
    if not widths or (len(widths) == 1 and beside is None) or not _takes_one(module):
        return None
    return _of_forward(path, module, widths[0][0], beside)


def _of_experts(module: nn.Module) -> Functional | None:
    import torch

    from distviz.models.architectures.function_tracer import FunctionTracer

    steps: list[tuple[OpPath, torch.Tensor]] = []
    tracer = FunctionTracer(lambda chain, _, result: steps.append((chain, result)))
    product = None
    with contextlib.suppress(Exception), torch.no_grad():
        bare = _meta_copy(module)
        with tracer:
            product = bare._apply_gate(torch.empty(1, 2 * _WIDTH, device="meta"))  # noqa: SLF001
    for chain, result in steps:
        if result is product:
            return Functional(_act_of(chain), chain, None)
    return None


def _of_forward(path: str, module: nn.Module, width: int, beside: str | None) -> Functional | None:
    import torch

    from distviz.models.architectures.function_tracer import FunctionTracer

    ends: list[tuple[OpPath, torch.Tensor, torch.Tensor]] = []
    steps: list[tuple[OpPath, torch.Tensor]] = []
    tracer = FunctionTracer(
        lambda chain, _, result: steps.append((chain, result)),
        on_linear=lambda *end: ends.append(end),
    )
    output = None
    bare = _meta_copy(module)
    with contextlib.suppress(Exception), torch.no_grad(), tracer:
        output = bare(torch.empty(1, 2, width, device="meta"))
    if beside is not None:
        returned = next((chain for chain, result in steps if result is output), None)
        return None if returned is None else Functional(_act_of(returned), returned, beside)
    for chain, weight, result in ends:
        for name, child in bare.named_children():
            if getattr(child, "weight", None) is weight:
                is_last = output is None or output is result
                return Functional(_act_of(chain), chain, f"{path}.{name}", is_last)
    return None


def is_activation(path: str, module: nn.Module) -> bool:
    """Return whether a module is an activation, wherever it stands.

    By its class or name; or it has neither parameters nor children, and applies an activation
    function to a tensor whose shape it keeps.
    """
    from torch import nn

    if is_known_activation(path, module):
        return not isinstance(module, nn.Identity)
    has_parts = any(True for _ in (*module.children(), *module.parameters()))
    return bool(path) and not has_parts and _keeps_shape(module)


def _keeps_shape(module: nn.Module) -> bool:
    import torch

    from distviz.models.architectures.function_tracer import ACTIVATION_FUNCTIONS, FunctionTracer

    if type(module).__module__.startswith("torch.nn."):
        return False
    steps: list[str] = []
    given, output = torch.empty(1, 2, _WIDTH, device="meta"), None
    tracer = FunctionTracer(lambda chain, *_: steps.append(chain[0]))
    with contextlib.suppress(Exception), torch.no_grad(), tracer:
        output = _meta_copy(module)(given)
    is_alike = isinstance(output, torch.Tensor) and output.shape == given.shape
    return is_alike and bool({*ACTIVATION_FUNCTIONS, "erf"}.intersection(steps))


def _takes_one(module: nn.Module) -> bool:
    """Return whether the forward requires only hidden states."""
    given = inspect.signature(type(module).forward).parameters.values()
    named = [p for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return sum(p.default is p.empty for p in named) == 2


def _act_of(chain: OpPath) -> OpPath:
    found = _COMPLETE.match(" ".join(chain))
    return tuple(found[0].split()) if found else chain[:1]


def _meta_copy(module: nn.Module) -> Any:
    """Return a copy on the meta device without hooks; the module itself does not change."""
    from torch import nn

    widths = linear_widths(module)
    if widths is not None:
        return nn.Linear(*widths, device="meta")
    bare: Any = copy.copy(module)
    own = bare.__dict__
    for name in ("_parameters", "_buffers"):
        own[name] = {key: _on_meta(value) for key, value in own[name].items()}
    own["_modules"] = {
        key: None if child is None else _meta_copy(child) for key, child in own["_modules"].items()
    }
    for name in [key for key in own if key.endswith("_hooks") or "_hooks_" in key]:
        own[name] = type(own[name])()
    for name in ("forward", "_hf_hook", "_old_forward"):
        own.pop(name, None)
    with contextlib.suppress(AttributeError):
        bare.eval()
    return bare


def _on_meta(tensor: Any) -> Any:
    import torch

    if tensor is None:
        return None
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="meta")
