"""Small trainings, and what plain hooks and `retain_grad` say of them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from support.padded_models import acts, kept_rows, padded, tiny

Batch = tuple[torch.Tensor, torch.Tensor]


def trainable(name: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model in training mode, without a cache and without dropout."""
    model = tiny(name, dtype).train()
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):  # OPT
            module.dropout = 0.0
    return model


def checkpointed(model: Any, *, reentrant: bool) -> Any:
    with warnings.catch_warnings(action="ignore"):  # transformers 5.24 has a new name for it
        options = {"use_reentrant": reentrant}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    return model


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """The loss; embeddings are given, because reentrant checkpoints need an input that has one."""
    ids, mask = batch
    embeds = model.get_input_embeddings()(ids) if hasattr(model, "get_input_embeddings") else None
    inputs = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
    labels = ids.masked_fill(mask == 0, -100)
    loss: torch.Tensor = model(**inputs, attention_mask=mask, labels=labels).loss
    return loss


def batches(step: int, n_micro: int = 2) -> list[Batch]:
    """The micro-batches of a step; each has padding on another side."""
    return [padded("right" if n % 2 == 0 else "left", n_micro * step + n) for n in range(n_micro)]


@dataclass
class Captured:
    """By place: the rows of each pass without padding, float64; values and their gradients."""

    values: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    gradients: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def together(self, kind: str, place: str) -> NDArray[np.float64]:
        return np.concatenate(getattr(self, kind)[place]).ravel()


@contextlib.contextmanager
def capturing(
    model: Any, places: dict[str, tuple[str, str]] | None = None
) -> Iterator[Callable[[Batch], Captured]]:
    """Keep the outputs of modules; the function, called after backward, takes what was kept."""
    kept: dict[str, list[torch.Tensor]] = {}
    handles = []
    captured = Captured()
    for name, (path, _) in (places or acts("llama")).items():

        def keep(_m: Any, _a: Any, out: torch.Tensor, name: str = name) -> None:
            if torch._C._current_graph_task_id() == -1:
                if out.requires_grad:
                    out.retain_grad()
                kept.setdefault(name, []).append(out)

        handles.append(model.get_submodule(path).register_forward_hook(keep))

    def take(batch: Batch) -> Captured:
        for name, tensors in kept.items():
            (tensor,) = tensors
            rows = kept_rows(tensor.detach(), batch[1]).double().numpy()
            captured.values.setdefault(name, []).append(rows)
            if tensor.grad is not None:
                grad = kept_rows(tensor.grad, batch[1]).double().numpy()
                captured.gradients.setdefault(name, []).append(grad)
        kept.clear()
        return captured

    try:
        yield take
    finally:
        for handle in handles:
            handle.remove()


def expected(
    n_steps: int, every: int, model: Any = None, n_micro: int = 2, start: int = 0
) -> dict[int, Captured]:
    """What plain hooks capture in every due step of the training that `train` does."""
    model = model or trainable()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = {}
    for step in range(start, n_steps):
        with capturing(model) as take:
            captured = Captured()
            for batch in batches(step, n_micro):
                (loss_of(model, batch) / n_micro).backward()
                captured = take(batch)
        if step % every == 0:
            found[step] = captured
        optimizer.step()
        optimizer.zero_grad()
    return found


def train(
    model: Any,
    monitor: Any,
    n_steps: int,
    n_micro: int = 2,
    start: int = 0,
    then: Callable[[int], None] = lambda _: None,
) -> None:
    """Train with a monitor that is entered; ``then`` is called after each step."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(start, n_steps):
        for batch in batches(step, n_micro):
            (loss_of(model, batch) / n_micro).backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.step()
        then(step)
