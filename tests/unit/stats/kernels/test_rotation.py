"""The Hadamard rotation against scipy's matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from distviz.stats.kernels.rotation import rotate, rotation_block


@pytest.mark.parametrize(("width", "block"), [(1, 1), (576, 64), (1536, 512), (35, 1), (64, 64)])
def test_equal_to_the_matrix(width: int, block: int) -> None:
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
    assert rotation_block(width) == block
    matrix = np.kron(np.eye(width // block), hadamard(block)) / math.sqrt(block)
    found = rotate(x)
    np.testing.assert_allclose(found.numpy(), x.double().numpy() @ matrix, atol=1e-5)
    torch.testing.assert_close(rotate(found), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_gives_the_same_bits(dtype: torch.dtype) -> None:
    x = torch.randn(40, 96, generator=torch.Generator().manual_seed(2)).to(dtype)
    before = x.clone()
    assert torch.equal(rotate(x), rotate(x, compiled=False))
    assert torch.equal(x, before)
    x[3, 40] = math.inf
    found = rotate(x)
    assert not found[3, 32:64].isfinite().any()
    assert found[3, :32].isfinite().all()
