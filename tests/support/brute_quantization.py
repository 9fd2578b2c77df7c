"""Quantization of raw values by plain NumPy, and the data that it is tested on."""

from __future__ import annotations

import numpy as np
import torch


def values_like(kind: str, dtype: torch.dtype = torch.bfloat16, n: int = 20_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(n, generator=generator)
    made = {
        "silu": torch.nn.functional.silu(3 * x),
        "relu": torch.relu(x),
        "negative": -torch.exp(x),
        "wide": x * torch.exp(1.5 * torch.randn(n, generator=generator)),
        "shifted": x + 6,
        "outlier": torch.cat([x, torch.tensor([30_000.0])]),
        "tiny": x * 1e-6,
    }[kind]
    return made.to(dtype)


KINDS = ("silu", "relu", "negative", "wide", "shifted", "outlier", "tiny")


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return x.to(torch.float64).numpy()


def brute_levels(name: str, zero_point: int) -> np.ndarray:
    """Every number of a format at scale 1, ascending, from its definition."""
    if name.startswith("fp8"):
        dtype = {"fp8-e4m3": torch.float8_e4m3fn, "fp8-e5m2": torch.float8_e5m2}[name]
        codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype)
        values = codes.to(torch.float64).numpy()
        return np.unique(values[np.isfinite(values)])
    bits = int(name[3])
    if name.endswith("asym"):
        return np.arange(2.0**bits) - zero_point
    return np.arange(-(2.0 ** (bits - 1)) + 1, 2.0 ** (bits - 1))


def brute_keep(x: np.ndarray, name: str, scale: float, zero_point: int) -> np.ndarray:
    """Quantize raw values: the nearest number of the list, by distance alone."""
    if scale == 0:
        return np.zeros_like(x)
    grid = brute_levels(name, zero_point) * scale
    above = np.clip(np.searchsorted(grid, x), 1, grid.size - 1)
    low, high = grid[above - 1], grid[above]
    return np.where(np.abs(x - low) <= np.abs(x - high), low, high)
