"""Start a forward pass behind a layer: outputs of layers are kept, and handed on in a later pass.

Layers below are called, but return at once; embedding, masks and position embeddings are computed
by the model itself. A model whose layers pass anything else to one another (shared keys and values,
for instance) cannot be entered so: whoever uses it must try first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from distviz.models.architectures import Mlp

__all__ = ["LayerCache", "find_layers"]


@dataclass
class LayerCache:
    """The outputs of some layers for one input.

    Parameters
    ----------
    layers
        The layers of one stack, in the order in which they run.
    """

    layers: Sequence[nn.Module]
    _kept: dict[int, Any] = field(default_factory=dict)

    @contextmanager
    def keeping(self, indices: Collection[int]) -> Iterator[None]:
        """Keep what these layers give in the pass that is made inside; earlier ones are dropped."""
        self._kept.clear()
        with ExitStack() as stack:
            for index in indices:

                def keep(_module: Any, _args: Any, output: Any, index: int = index) -> None:
                    self._kept[index] = output

                stack.callback(self.layers[index].register_forward_hook(keep).remove)
            yield

    @contextmanager
    def start_after(self, index: int) -> Iterator[None]:
        """Let passes made inside start behind a layer whose output was kept; -1 skips nothing."""
        output = self._kept[index] if index >= 0 else None
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
    """Return the layers of a stack, in order, those without an MLP included."""
    points = (point for mlp in mlps for point in mlp.points if point.stack == stack)
    path = next(point.module for point in points if point.site == "residual")
    layers: Any = model.get_submodule(path.rpartition(".")[0])
    return list(layers)
