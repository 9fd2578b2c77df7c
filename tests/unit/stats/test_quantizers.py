"""Granular formats against plain loops, and against the libraries that define them, bit for bit."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.brute_formats import BRUTE_FORMATS, brute_restore

from distviz.stats import quantize
from distviz.stats.granular_formats import GRANULAR_FORMATS
from distviz.stats.quantizers import restore

GOLDEN = Path(__file__).parents[2] / "golden"


def values_like(kind: str, rows: int = 12, width: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, width, generator=generator)
    wide = torch.exp(2 * torch.randn(rows, width, generator=generator))
    if kind == "massive":
        x = torch.nn.functional.silu(3 * x)
        x[3, 4] = 20_000.0
        x[:, 7], x[9] = 0, 0
    made = {
        "normal": x,
        "wide": x * wide,
        "massive": x,
        "bf16": x.bfloat16().float(),
        "grid": (4 * x).round() / 4,
        "small": x * 1e-30,
        "tiny": x * 1e-36,
    }
    return made[kind]


def by_window(windows: np.ndarray) -> list[torch.Tensor]:
    """Return the rows of each window but -1, which is padding."""
    return [torch.from_numpy(windows == window) for window in sorted(set(windows) - {-1})]


KINDS = ("normal", "wide", "massive", "bf16", "grid", "small", "tiny")


@pytest.mark.parametrize("width", [1, 145])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BRUTE_FORMATS)
def test_equal_to_plain_loops(name: str, kind: str, width: int) -> None:
    x = values_like(kind, width=width) if kind != "massive" else values_like(kind)[:, :width]
    windows = np.array([0] * 4 + [-1] + [7] * 7)
    brute = brute_restore(x.numpy(), name, windows)
    maxima: list[float] = []
    for rows in by_window(windows):
        found = restore(x[rows], GRANULAR_FORMATS[name])
        np.testing.assert_array_equal(found.values.numpy(), brute.values[rows])
        np.testing.assert_array_equal(found.clipped.numpy(), brute.clipped[rows])
        assert torch.equal(found.values, quantize(x[rows], name))
        maxima += found.largest.flatten().tolist()
    assert maxima == brute.maxima


@pytest.mark.parametrize("name", BRUTE_FORMATS)
def test_zeros_subnormals_and_what_is_not_finite(name: str) -> None:
    x = values_like("normal", 6, 40)
    x[0], x[1, :20], x[2] = 0, 0, 1e-41
    x[3, 3], x[4, 4], x[5, 39] = math.inf, math.nan, -math.inf
    windows = np.arange(6)
    found = torch.cat([quantize(row[None], name) for row in x])
    brute = brute_restore(x.numpy(), name, windows)
    np.testing.assert_array_equal(found.numpy(), brute.values)
    assert not found[0].any()
    others = torch.where(x.isfinite(), x, 0.0)
    kept = torch.cat([quantize(row[None], name) for row in others])
    assert torch.equal(found[x.isfinite()], kept[x.isfinite()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_stays_and_float32_is_what_is_computed(dtype: torch.dtype) -> None:
    x = values_like("normal").to(dtype)
    found = quantize(x, "nvfp4")
    assert found.dtype == dtype
    assert torch.equal(found, quantize(x.float(), "nvfp4").to(dtype))


def test_numpy_arrays_and_nothing() -> None:
    x = values_like("normal").numpy()
    found = quantize(x, "mxfp4")
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, quantize(torch.from_numpy(x), "mxfp4").numpy())
    for shape in ((0, 8), (3, 0)):
        assert quantize(torch.zeros(shape), "nvfp4").shape == shape


@pytest.mark.parametrize("name", BRUTE_FORMATS)
def test_what_is_restored_is_restored_again(name: str) -> None:
    x = values_like("normal")
    once = quantize(x, name)
    again = quantize(once, name)
    assert (again - once).norm() <= 0.02 * (once - x).norm()


Oracle = Callable[[torch.Tensor], torch.Tensor]


def _torchao_integer(block: Callable[[int, int], list[int]], bits: int, kind: str) -> Oracle:
    """Affine: float32, x * (1 / scale), ties to even, limits given, restored in float32."""

    def run(x: torch.Tensor) -> torch.Tensor:
        from torchao.quantization import quant_primitives as ao

        size = block(*x.shape)
        low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
        dtype = torch.int8
        if kind == "ASYMMETRIC":
            low, high, dtype = 0, 2**bits - 1, torch.uint8
        scale, zero = ao._choose_qparams_affine(x, kind, size, dtype, low, high)
        stored = ao._quantize_affine(x, size, scale, zero, dtype, low, high)
        return ao._dequantize_affine(stored, size, scale, zero, dtype, low, high)

    return run


def _torchao_float8(block: Callable[[int, int], list[int]], dtype: torch.dtype) -> Oracle:
    """Float32, x / scale, saturating cast; a unit of zeros gives NaN there."""

    def run(x: torch.Tensor) -> torch.Tensor:
        from torchao.quantization import quant_primitives as ao

        scale = ao._choose_scale_float8(x, block(*x.shape), dtype)
        stored = ao._quantize_affine_float8(x, scale, dtype)
        return torch.nan_to_num(ao._dequantize_affine_float8(stored, scale))

    return run


def _torchao_mx(dtype: torch.dtype) -> Oracle:
    """ScaleCalculationMode.FLOOR, float32 in and out."""

    def run(x: torch.Tensor) -> torch.Tensor:
        from torchao.prototype.mx_formats import mx_tensor as mx

        scale, stored = mx.to_mx(x, dtype, 32, mx.ScaleCalculationMode.FLOOR)
        return mx.to_dtype(stored, scale, dtype, 32, torch.float32)

    return run


def _compressed_nvfp4(x: torch.Tensor) -> torch.Tensor:
    """tensor_group, dynamic local: float32, x / (e4m3 scale / global scale)."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import (
        compute_dynamic_scales_and_zp,
        generate_gparam,
    )

    args = QuantizationArgs(
        num_bits=4,
        type="float",
        strategy="tensor_group",
        group_size=16,
        symmetric=True,
        dynamic="local",
        scale_dtype=torch.float8_e4m3fn,
        zp_dtype=torch.float8_e4m3fn,
    )
    whole = generate_gparam(x.min(), x.max())
    scale, zero = compute_dynamic_scales_and_zp(x, args, torch.nn.Module(), global_scale=whole)
    kept: torch.Tensor = fake_quantize(x, scale, zero, args, global_scale=whole)
    return kept


ORACLES: dict[str, Oracle] = {
    "nvfp4": _compressed_nvfp4,
    "mxfp4": _torchao_mx(torch.float4_e2m1fn_x2),
    "mxfp8": _torchao_mx(torch.float8_e4m3fn),
    "mxfp8-e5m2": _torchao_mx(torch.float8_e5m2),
    "int8-token": _torchao_integer(lambda _, width: [1, width], 8, "SYMMETRIC"),
    "int8-channel": _torchao_integer(lambda rows, _: [rows, 1], 8, "SYMMETRIC"),
    "int4-group128": _torchao_integer(lambda *_: [1, 128], 4, "SYMMETRIC"),
    "fp8-token": _torchao_float8(lambda _, width: [1, width], torch.float8_e4m3fn),
    "int8": _torchao_integer(lambda *size: [*size], 8, "SYMMETRIC"),
    "int4": _torchao_integer(lambda *size: [*size], 4, "SYMMETRIC"),
    "int8-asym": _torchao_integer(lambda *size: [*size], 8, "ASYMMETRIC"),
    "int4-asym": _torchao_integer(lambda *size: [*size], 4, "ASYMMETRIC"),
    "fp8-e4m3": _torchao_float8(lambda *size: [*size], torch.float8_e4m3fn),
    "fp8-e5m2": _torchao_float8(lambda *size: [*size], torch.float8_e5m2),
}


def golden_values() -> torch.Tensor:
    """Values of layer 0 of SmolLM2 at ``act``, float32 (64, 1536)."""
    with np.load(GOLDEN / "layer0_smollm2.npz") as arrays:
        return torch.from_numpy(arrays["x"].reshape(-1, 1536))


def digest(values: torch.Tensor) -> str:
    return hashlib.sha256((values + 0.0).numpy().astype("<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("name", ORACLES)
def test_real_values_become_what_the_library_made_of_them(name: str) -> None:
    known = json.loads((GOLDEN / "formats_smollm2.json").read_text("utf-8"))
    assert digest(quantize(golden_values(), name)) == known[name]


@pytest.mark.oracle
@pytest.mark.extended
@pytest.mark.parametrize("name", ORACLES)
def test_what_the_library_made_of_them_is_pinned(name: str) -> None:
    known = json.loads((GOLDEN / "formats_smollm2.json").read_text("utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("compressed_tensors" if name == "nvfp4" else "torchao")
        assert digest(ORACLES[name](golden_values())) == known[name]


@pytest.mark.oracle
@pytest.mark.extended
@pytest.mark.parametrize("kind", KINDS[:-1])  # torchao divides by 2^-126 instead of 2^-127
@pytest.mark.parametrize("name", ORACLES)
def test_equal_to_the_library_bit_for_bit(name: str, kind: str) -> None:
    library = "compressed_tensors" if name == "nvfp4" else "torchao"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(library)
        x = values_like(kind)
        assert torch.equal(quantize(x, name), ORACLES[name](x))
