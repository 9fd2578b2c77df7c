"""Rotate rows by a Hadamard matrix, as quantization schemes do to spread large values."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats.kernels import cpu, rotation_loops


def rotation_block(width: int) -> int:
    """Return the number of channels that are rotated together: the largest power of 2 in width."""
    return width & -width


def rotate(values: torch.Tensor, *, compiled: bool = True) -> torch.Tensor:
    """Return (rows, channels) with each block of channels multiplied by a Hadamard matrix, float32.

    The matrix is Sylvester's over the root of its size, a power of two (`rotation_block`), and is
    its own inverse: the norm of a block stays. A block with NaN or infinite values has no other
    values afterwards. ``compiled`` allows the compiled loop, whose results are the same.
    """
    values = values.detach()
    block = rotation_block(values.shape[1])
    if values.device.type == "cpu" and compiled:
        rows = values.to(torch.float32, copy=True).contiguous()

        def one(part: NDArray[np.int64]) -> None:
            if part.size:
                rotation_loops.rotate_rows(rows[part[0] : part[-1] + 1].numpy(), block)

        cpu.share(one, cpu.chunks_of(np.arange(len(rows)), values.shape[1]))
        return rows
    found = values.float()
    half = 1
    while half < block:
        first, second = found.reshape(len(found), -1, 2, half).unbind(2)
        found = torch.stack([first + second, first - second], dim=2).reshape(values.shape)
        half *= 2
    return found * (1 / math.sqrt(block))
