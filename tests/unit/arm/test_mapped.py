"""Redistributions of all values: zeros up to a magnitude, and quantized values, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distviz.arm.arm import ARM
from distviz.arm.controls import has_bounds, has_selection, make_redistribution, names_callable
from distviz.errors import RequestError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LENGTHS = (9, 4, 6)


def batch(side: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Three sequences; padding holds huge values, which no scale may see."""
    x = torch.randn(3, 9, 40, generator=torch.Generator().manual_seed(2)).to(dtype)
    mask = torch.zeros(3, 9, dtype=torch.bool)
    for row, size in enumerate(LENGTHS):
        mask[row, slice(None, size) if side == "right" else slice(9 - size, None)] = True
    return x.masked_fill(~mask[..., None], 3e4), mask


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_up_to_a_magnitude_become_zero(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 0.5, -0.5, 0.25, -0.75, torch.inf, -torch.inf, torch.nan]]).to(dtype)
    made, plans, moved = make_redistribution("threshold:0.5", ARM()).trace(x)
    expected = torch.tensor([[0.0, 0, 0, 0, -0.75, torch.inf, -torch.inf, torch.nan]]).to(dtype)
    assert torch.equal(made.nan_to_num(7), expected.nan_to_num(7))
    assert moved is not None
    assert moved[0].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
    assert plans == [[None]]


def by_hand(name: str, x: np.ndarray) -> np.ndarray:
    """Symmetric int8, range at the largest magnitude, in float64 but for the float32 division."""
    axis = {"int8-token": 1, "int8-channel": 0, "int8": None}[name]
    top = np.abs(x).max(axis=axis, keepdims=axis is not None)
    scale = (top.astype(np.float32) / np.float32(127)).astype(np.float32)
    levels = np.rint((x.astype(np.float32) * (np.float32(1) / scale)).astype(np.float64))
    return (np.clip(levels, -127, 127).astype(np.float32) * scale).astype(np.float64)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["int8-token", "int8-channel", "int8"])
def test_scales_are_those_of_the_window_without_padding(
    name: str, dtype: torch.dtype, side: str
) -> None:
    x, mask = batch(side, dtype)
    made = make_redistribution(f"quantize:{name}", ARM())(x, mask)
    assert torch.equal(made[~mask], x[~mask])
    for row in range(3):
        own = x[row][mask[row]]
        expected = torch.from_numpy(by_hand(name, own.double().numpy())).to(dtype)
        assert torch.equal(made[row][mask[row]], expected)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "mxfp8", "fp8-token", "int4-group128", "int4"])
def test_every_format_acts_on_a_sequence_as_on_a_window(name: str) -> None:
    from distviz.stats import quantize

    x, mask = batch("left", torch.bfloat16)
    made = make_redistribution(f"quantize:{name}", ARM())(x, mask)
    for row in range(3):
        assert torch.equal(made[row][mask[row]], quantize(x[row][mask[row]], name))


def test_values_that_are_not_finite_stay() -> None:
    x = torch.tensor([[1.0, torch.nan, -0.26], [torch.inf, 0.5, 0.1]])
    made, _, moved = make_redistribution("quantize:int8-token", ARM()).trace(x)
    assert torch.isnan(made[0, 1])
    assert torch.isinf(made[1, 0])
    assert moved is not None
    assert moved[0, 1] == moved[1, 0] == 0


def test_names_before_the_colon() -> None:
    for name in ("quantize:nvfp4", "threshold:0.1", "threshold:a.csv", "scale:2"):
        assert not names_callable(name)
    assert names_callable("a:b")
    assert not has_bounds("quantize:int8")
    assert [has_selection(n) for n in ("threshold", "threshold:1", "quantize:int8", "a:b")] == [
        True, False, False, True,
    ]  # fmt: skip
    with pytest.raises(RequestError, match=r"'nvpf4' .did you mean 'nvfp4'"):
        make_redistribution("quantize:nvpf4", ARM())
    with pytest.raises(RequestError, match="no magnitude"):
        make_redistribution("threshold:-1", ARM())
