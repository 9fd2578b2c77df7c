"""The fused kernel in Triton's interpreter against the operations of torch."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from distviz.stats.kernels import device_counts
from distviz.stats.kernels.device_counts import count_on_device
from distviz.stats.kernels.device_types import DeviceRows

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="builds of torch for CUDA bring Triton along")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_powers", [2, 5])
@pytest.mark.parametrize("shape", [(300, 130), (5, 7)])
def test_like_the_operations(dtype: torch.dtype, n_powers: int, shape: tuple[int, int]) -> None:
    from distviz.stats.kernels.triton_loops import count_fused

    generator = torch.Generator().manual_seed(4)
    x = (torch.randn(shape, generator=generator) + 2).to(dtype)
    x[2, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    slots = np.random.default_rng(1).integers(-1, 3, shape[0])
    slots[2] = 1
    places = np.random.default_rng(2).permutation(np.flatnonzero(slots >= 0))
    rows = DeviceRows.of(places, slots, 3, x.device)
    expected = count_on_device(x, rows, details=n_powers == 5)
    table = torch.zeros(3 * 65_536, dtype=torch.int32)
    at = torch.from_numpy(places)
    given = (x, at, rows.slots, table, expected.origin.shift)
    signs, powers, ends, tops, first = count_fused(*given, n_powers=n_powers)
    assert torch.equal(table.view(3, -1), expected.tables)
    sums = expected.channels
    assert torch.equal(signs, sums.signs)
    assert torch.equal(ends.double(), torch.stack([sums.low, sums.high]))
    scale = x.nan_to_num(0, 0, 0).double().abs().sum(0)
    assert torch.allclose(powers, sums.powers, rtol=1e-12, atol=1e-12 * float(scale.max()))
    picked = x[at].float()
    sizes = torch.where(picked.isfinite(), picked.abs(), -1.0).amax(1)
    assert torch.equal(tops, sizes)
    assert torch.equal(first, torch.where(picked.isfinite(), picked.abs(), -1.0).argmax(1))
    again = count_fused(*given, n_powers=n_powers)
    assert all(
        torch.equal(*pair) for pair in zip(again[1:], (powers, ends, tops, first), strict=True)
    )


@pytest.mark.parametrize("details", [False, True])
def test_an_observation_by_it(details: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 200, generator=torch.Generator().manual_seed(6)).bfloat16()
    x[3], x[4, 1], x[:9, 7] = torch.nan, 0.0, 3.0
    slots = np.arange(40) % 3 - 1
    rows = DeviceRows.of(np.flatnonzero(slots >= 0), slots, 2, x.device)
    expected = count_on_device(x, rows, details=details)
    monkeypatch.setattr(device_counts, "is_fused", lambda _: True)
    found = count_on_device(x, rows, expected.origin, details=details)
    for part, other in zip(found.parts(), expected.parts(), strict=True):
        assert torch.allclose(part.double(), other.double(), rtol=1e-12, atol=1e-12, equal_nan=True)
    assert torch.equal(found.tables, expected.tables)
    sizes = torch.where(x.isfinite(), x.abs(), -1.0).amax(1).double()
    assert torch.equal(found.tops, sizes[rows.index])


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from distviz.stats.kernels.triton_loops import _count

names = "infinite n_powers rows step columns".split()
signature = {"codes": "*i16", "rows_slots_shift": ("*i64", "*i64", "*fp64"), "table": "*i32"}
signature |= {"outputs": ("*i32", "*fp64", "*fp32", "*fp32", "*i32"), "n_rows": "i32"}
signature |= {"width": "i32"} | dict.fromkeys(names, "constexpr")
for numbers in ((0x7F80, 2), (0x7C00, 5)):
    constants = dict(zip(names, (*numbers, 256, 8, 128), strict=True))
    source = ASTSource(fn=_count, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(len(made.asm["cubin"]) > 0)
"""


@pytest.mark.extended
def test_it_compiles_for_a_gpu() -> None:
    """The interpreter accepts more than the compiler does, which needs no GPU."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "True"], done.stderr
