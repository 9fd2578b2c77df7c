"""What was observed in a network of one's own, against its tensors in NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from distviz import Run
from support.brute_force import assert_stats, eps_of, on_grid, plain_arm

BATCH = 3
Change = Callable[[int, torch.Tensor], torch.Tensor]
_FUNCTIONS = [
    (functional, "relu"), (functional, "relu_"), (functional, "gelu"), (functional, "silu"),
    (torch, "tanh"),
]  # fmt: skip


def channels_last(tensor: torch.Tensor, dim: int) -> NDArray[np.float64]:
    """Return (batch, positions, channels); windows of an image are positions."""
    moved = np.moveaxis(tensor.detach().double().numpy(), dim, -1)
    return moved.reshape(BATCH, -1, moved.shape[-1])


def assert_place(run: Run, key: Any, values: NDArray[np.float64], dim: int) -> None:
    """Compare everything that is known of a place with (batch, positions, channels)."""
    at = {name: getattr(key, name) for name in ("layer", "site", "module", "phase")}

    def rows(table: Any) -> Any:
        return table[(table[list(at)] == list(at.values())).all(axis=1)]

    flat = values.reshape(-1, values.shape[-1])
    channels = rows(run.channels)
    assert (channels.get("channel_dim", -1) == dim).all() if dim != -1 else True
    assert channels["channel"].tolist() == list(range(flat.shape[1]))
    np.testing.assert_allclose(channels["mean"], flat.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(channels["std"], flat.std(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(channels["max"], flat.max(0))
    np.testing.assert_array_equal(channels["zeros"], (flat == 0).sum(0))
    documents = rows(run.documents)
    assert documents["count"].tolist() == [values[0].size] * len(values)
    means = [one.mean() for one in values]
    np.testing.assert_allclose(documents["mean"], means, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(
        np.repeat(*run.merged[key].pairs()), np.sort(on_grid(flat.ravel()))
    )
    if key.phase == "before":
        bands = [eps_of(one.ravel()) for one in values]
        np.testing.assert_allclose(documents["eps"], bands, rtol=1e-9)
        (row,) = rows(run.stats()).to_dict("records")
        assert_stats(row, flat.ravel(), eps_of(flat.ravel()))
    assert_extremes(rows(run.extremes), values)


def assert_extremes(table: Any, values: NDArray[np.float64]) -> None:
    """The largest magnitudes, the earliest first of equal ones."""
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[: len(table)]
    assert len(table) == min(20, values.size)
    document, position, channel = np.unravel_index(order, values.shape)
    assert table["value"].tolist() == values.ravel()[order].tolist()
    assert table["document"].tolist() == document.tolist()
    assert table["position"].tolist() == position.tolist()
    assert table["channel"].tolist() == channel.tolist()


def outputs_of(net: nn.Module, given: list[torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """Return what every module returns, run by run, as it is at that moment."""
    kept: dict[str, list[torch.Tensor]] = {}

    def keep(path: str, _module: Any, _args: Any, out: torch.Tensor) -> None:
        kept.setdefault(path, []).append(out.detach().clone())

    handles = [
        module.register_forward_hook(partial(keep, path))
        for path, module in net.named_modules()
        if path and not isinstance(module, nn.ModuleList)
    ]
    net(*given)
    for handle in handles:
        handle.remove()
    return kept


@contextmanager
def activations_of(
    net: nn.Module, change: Change | None = None
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Keep what enters and leaves every activation, in the order of the forward pass.

    ``change(number, output)`` replaces what leaves it, before it is kept.
    """
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    entered: list[torch.Tensor] = []

    def leave(before: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        new = out if change is None else change(len(kept), out)
        kept.append((before, new.detach().clone()))
        return new

    def called(original: Any, x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        if entered:  # in a module
            return original(x, *more, **named)
        before = x.detach().clone()
        return leave(before, original(x, *more, **named))

    handles = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in _FUNCTIONS:
            patch.setattr(owner, name, partial(called, getattr(owner, name)))
        for module in net.modules():
            if type(module).__module__ == "torch.nn.modules.activation":
                before = module.register_forward_pre_hook(
                    lambda _m, args: entered.append(args[0].detach().clone())
                )
                after = module.register_forward_hook(lambda _m, _a, out: leave(entered.pop(), out))
                handles += [before, after]
        yield kept
        for handle in handles:
            handle.remove()


def redistributed(number: int, output: torch.Tensor, dim: int, **arm: Any) -> torch.Tensor:
    """Return an activation after ARM, sample by sample; moved values have no gradient."""
    moved = output.movedim(dim, -1)
    whole = moved.reshape(len(output), -1, moved.shape[-1])
    rows, masks = [], []
    for document, one in enumerate(whole.detach()):
        keys = [(document, token) for token in range(len(one))]
        new, mask, _ = plain_arm(one, keys, layer=number, **arm)
        rows.append(new)
        masks.append(torch.from_numpy(mask))
    new = torch.where(torch.stack(masks), torch.stack(rows), whole)
    return new.reshape(moved.shape).movedim(-1, dim)
