"""Start a forward pass after a layer: outputs of layers are recorded and reused in later passes.

The layers before return the recorded output at once; the model computes embeddings, masks and
position embeddings. It fails for models whose layers share anything else, such as keys and values,
so callers must compare one pass first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from distviz.models.architectures import Mlp


@dataclass
class LayerCache:
    """The outputs of some layers for one input.

    Parameters
    ----------
    layers
        The layers of one stack, in the order in which they run.
    """

    layers: Sequence[nn.Module]
    _outputs: dict[int, Any] = field(default_factory=dict)

    @contextmanager
    def recording(self, indices: Collection[int]) -> Iterator[None]:
        """Record the outputs of some layers in a pass made inside; earlier records are dropped."""
        self._outputs.clear()
        with ExitStack() as stack:
            for index in indices:

                def record(_module: Any, _args: Any, output: Any, index: int = index) -> None:
                    self._outputs[index] = output

                stack.callback(self.layers[index].register_forward_hook(record).remove)
            yield

    @contextmanager
    def start_after(self, index: int) -> Iterator[None]:
        """Start passes made inside after a layer that was recorded; -1 starts at the beginning."""
        output = self._outputs[index] if index >= 0 else None
        with ExitStack() as stack:
            for layer in self.layers[: index + 1]:
                own = layer.__dict__.get("forward")
                stack.callback(_restore, layer, own)
                layer.forward = lambda *_args, **_kwargs: output
            yield


def _restore(layer: nn.Module, forward: Any) -> None:
    if forward is None:
        del layer.__dict__["forward"]
    else:
        layer.__dict__["forward"] = forward


def find_layers(model: nn.Module, mlps: Sequence[Mlp], stack: str) -> list[nn.Module]:
    """Return the layers of a stack in order, including those without an MLP."""
    points = (point for mlp in mlps for point in mlp.points if point.stack == stack)
    path = next(point.module for point in points if point.site == "residual")
    layers: Any = model.get_submodule(path.rpartition(".")[0])
    return list(layers)
