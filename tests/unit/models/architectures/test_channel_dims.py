"""Where tensors have their channels, followed through torch functions.

The convolution marks its channels: channel n has the constant value n, so that the dimension along
which values differ is known without the code under test.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from distviz.models.architectures.channel_dims import ChannelTracer, has_channels_last

Change = Callable[[torch.Tensor], torch.Tensor]
FOLLOWED: dict[str, Change] = {
    "relu": functional.relu,
    "in place": lambda x: x.relu_(),
    "batch norm": lambda x: functional.batch_norm(x, torch.zeros(6), torch.ones(6)),
    "residual": lambda x: x + x.sigmoid(),
    "gate of a parameter": lambda x: torch.ones(1, 6, 1, 1) * x,
    "pool": lambda x: functional.max_pool2d(x, 2),
    "global pool": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3)),
    "mean kept": lambda x: x.mean((2, 3), keepdim=True),
    "maximum": lambda x: torch.max(x, x * 0.5),
    "maximum of a dimension": lambda x: x.max(dim=-1).values,
    "to tokens": lambda x: x.flatten(2).transpose(1, 2),
    "flatten": lambda x: x.flatten(2),
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "there and back": lambda x: x.permute(0, 2, 3, 1).tanh().permute(0, 3, 1, 2),
    "layer norm of images": lambda x: functional.layer_norm(
        x.permute(0, 2, 3, 1), (6,), eps=1e9, bias=torch.arange(6.0)
    ).permute(0, 3, 1, 2),
    "movedim": lambda x: x.movedim(1, 2),
    "T": lambda x: x.mean((2, 3)).T,
    "mT": lambda x: x.flatten(2).mT,
    "first position": lambda x: x[:, :, 0],
    "ellipsis": lambda x: x[..., 0, :],
    "half the channels": lambda x: x[:, ::2],
    "chunk": lambda x: x.chunk(2, dim=1)[1],
    "unbind": lambda x: x.unbind(2)[0],
    "select": lambda x: x.select(3, 4),
    "new dimension": lambda x: x[:, None].squeeze(1).unsqueeze(2),
    "cat": lambda x: torch.cat([x, x + 6], dim=1),
    "stack": lambda x: torch.stack([x, x], dim=1),
    "shuffle": lambda x: (
        x.view(2, 3, 2, 4, 5).transpose(1, 2).contiguous().view(2, 6, 4, 5).clone()
    ),
    "windows": lambda x: x.view(2, 6, 2, 2, 5).permute(0, 2, 3, 4, 1).reshape(4, 2, 5, 6),
    "expand": lambda x: x[:, :, :1, :1].expand(2, 6, 3, 3),
    "pixel shuffle": lambda x: functional.pixel_unshuffle(
        functional.interpolate(x, scale_factor=2), 1
    ),
    "roll": lambda x: x.roll(1, dims=3),
    "attention over channels": lambda x: x.flatten(2) @ torch.eye(20),
    "values first": lambda x: torch.eye(20) @ x.flatten(2).transpose(1, 2),
}


def marked() -> torch.Tensor:
    """Return a convolution's output, (2, 6, 4, 5), whose channel n is n."""
    return functional.conv2d(torch.zeros(2, 3, 4, 5), torch.zeros(6, 3, 1, 1), torch.arange(6.0))


def dims_that_vary(tensor: torch.Tensor) -> list[int]:
    spread = [tensor.amax(dim) - tensor.amin(dim) for dim in range(tensor.ndim)]
    return [dim for dim, one in enumerate(spread) if one.max() > 0]


@pytest.mark.parametrize("name", FOLLOWED)
def test_channels_are_followed(name: str) -> None:
    tracer = ChannelTracer(True)
    with tracer:
        found = FOLLOWED[name](marked())
    (dim,) = dims_that_vary(found)
    assert tracer.dim_of(found) == (-1 if dim == found.ndim - 1 else dim)


LAST: dict[str, Change] = {
    "linear": lambda x: functional.linear(x, torch.ones(7, 5)),
    "heads": lambda x: functional.linear(x, torch.ones(6, 5)).view(2, 6, 4, 2, 3).transpose(2, 3),
    "features": lambda x: x.flatten(1),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
    "embedding": lambda x: functional.embedding(x[..., 0].long(), torch.ones(9, 3)),
    "gram": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "position": lambda x: functional.linear(x, torch.ones(7, 5)) + torch.ones(4, 7),
}


@pytest.mark.parametrize("name", LAST)
def test_channels_are_last(name: str) -> None:
    tracer = ChannelTracer(True)
    with tracer:
        found = LAST[name](marked())
    assert tracer.dim_of(found) == -1


UNKNOWN: dict[str, Change] = {
    "scrambled": lambda x: x.reshape(2, 20, 6),
    "without channels": lambda x: x.mean(1),
    "some in two dimensions": lambda x: x.view(2, 3, 2, 4, 5),
    "looked up by numpy": lambda x: x[np.array([[0, 1], [1, 0]]), np.array([2, 3])],
    "looked up": lambda x: x[:, torch.tensor([[0, 1], [2, 3]])],
    "einsum": lambda x: torch.einsum("bchw->bhwc", x),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_lost_channels_are_not_guessed(name: str) -> None:
    tracer = ChannelTracer(True)
    with tracer:
        found = UNKNOWN[name](marked())
    assert tracer.dim_of(found) is None
    with tracer:
        row = UNKNOWN[name](marked()).reshape(1, 1, 1, -1)
        again = functional.conv2d(row, torch.ones(2, 1, 1, 1))
    assert tracer.dim_of(again) == 1


@pytest.mark.parametrize(("kind", "shape", "dim"), [
    ("conv1d", (2, 3, 9), 1), ("conv2d", (2, 3, 9, 9), 1), ("conv3d", (2, 3, 9, 9, 9), 1),
    ("conv2d", (3, 9, 9), 0),
])  # fmt: skip
def test_convolutions_of_every_size(kind: str, shape: tuple[int, ...], dim: int) -> None:
    tracer = ChannelTracer(True)
    n = int(kind[4])
    with tracer:
        plain = getattr(functional, kind)(torch.ones(shape), torch.ones(4, 3, *[1] * n))
        back = getattr(functional, f"conv_transpose{n}d")(plain, torch.ones(4, 3, *[1] * n))
        pooled = getattr(functional, f"adaptive_max_pool{n}d")(plain, 2)
    assert [tracer.dim_of(one) for one in (plain, back, pooled)] == [dim] * 3


def test_tensors_from_elsewhere() -> None:
    convolutional, other = ChannelTracer(True), ChannelTracer(False)
    for n_dims in (1, 2):
        assert convolutional.dim_of(torch.ones([2] * n_dims)) == -1
    tokens, images = torch.ones(2, 3, 4), torch.ones(2, 3, 4, 4)
    assert (other.dim_of(tokens), convolutional.dim_of(tokens)) == (-1, None)
    assert (other.dim_of(images), convolutional.dim_of(images)) == (None, None)


@pytest.mark.parametrize(("change", "dim"), [
    (lambda x: x.permute(0, 2, 3, 1), -1),
    (lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2), 1),
    (lambda x: x.squeeze(3), 1),
    (lambda x: x.squeeze(), -1),
    (lambda x: functional.linear(x.flatten(2), torch.ones(1, 4)).transpose(1, 2), 1),
])  # fmt: skip
def test_one_channel_is_followed(change: Change, dim: int | None) -> None:
    tracer = ChannelTracer(True)
    with tracer:
        found = change(functional.conv2d(torch.ones(3, 2, 4, 1), torch.ones(1, 2, 1, 1)))
    assert tracer.dim_of(found) == dim


def test_the_class_tells_what_is_last() -> None:
    class Images(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert has_channels_last(nn.Linear(2, 2))
    assert has_channels_last(nn.LayerNorm(2))
    assert not has_channels_last(Images(2))
    assert not has_channels_last(nn.Conv2d(2, 2, 1))
