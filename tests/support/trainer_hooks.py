"""A callback of a Trainer that keeps with plain hooks what a `Monitor` counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from support.padded_models import kept_rows


class PlainHooks(TrainerCallback):
    """Values and gradients of modules without padding, by (step, name), in training mode.

    Parameters
    ----------
    model
        The model; its hooks stay.
    places
        Name -> path of the module whose output is kept.
    is_kept
        Of which steps.
    """

    def __init__(
        self, model: Any, places: dict[str, str], is_kept: Callable[[int], bool] = bool
    ) -> None:
        self.values: dict[tuple[int, str], list[NDArray[np.float64]]] = {}
        self.gradients: dict[tuple[int, str], list[NDArray[np.float64]]] = {}
        self.passes: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        self.step, self.is_training, self.is_kept = 0, False, is_kept
        self.mask = torch.empty(0)
        model.register_forward_pre_hook(self.enter, with_kwargs=True)
        for name, path in places.items():
            module = model.get_submodule(path)
            module.register_forward_hook(lambda _m, _a, out, name=name: self.keep(name, out))

    def enter(self, model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        self.mask, self.is_training = kwargs["attention_mask"], model.training

    def keep(self, name: str, out: torch.Tensor) -> None:
        if self.is_training and self.is_kept(self.step):
            out.retain_grad()
            self.passes.append((name, out, self.mask))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for name, out, mask in self.passes:
            for kept, tensor in ((self.values, out.detach()), (self.gradients, out.grad)):
                assert tensor is not None
                rows = kept_rows(tensor, mask).double().numpy().ravel()
                kept.setdefault((self.step, name), []).append(rows)
        self.passes.clear()
        self.step = state.global_step
