"""Statistics of many tables of counts, and the largest values, computed on their device."""

from __future__ import annotations

from functools import cache

import torch

from distviz.stats import float_grid
from distviz.stats.kernels.device_types import CHUNK_VALUES, DeviceRows, widened
from distviz.stats.kernels.host_copies import to_device
from distviz.stats.statistics import MAD_TO_SIGMA


@cache
def magnitudes_on(grid: str, device: torch.device) -> torch.Tensor:
    """Return the finite magnitudes of a grid on a device, float64, ascending."""
    return to_device(float_grid.magnitudes(grid).copy(), device)


def weighted_rank(values: torch.Tensor, counts: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """Return the value of a rank (from 0) in each row of values with counts; all (rows, n)."""
    ascending, order = values.sort(dim=1)
    return ranked(ascending, counts.gather(1, order), rank)


def ranked(ascending: torch.Tensor, counts: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """Return the value of a rank in each row of ascending values (rows, n) with counts."""
    before = (counts.cumsum(1) <= rank[:, None]).sum(1, keepdim=True)
    return ascending.gather(1, before.clamp(max=ascending.shape[1] - 1))[:, 0]


def summarise_on_device(
    tables: torch.Tensor, grid: str, c: float, given_eps: torch.Tensor
) -> torch.Tensor:
    """Return what :func:`distviz.stats.kernels.summarise` does, float64 (tables, 9).

    Parameters
    ----------
    tables
        Integers (n, 65536): counts of codes.
    given_eps
        float64 (n,): below 0 asks for the table's own.
    """
    cells = magnitudes_on(grid, tables.device)
    negative = tables[:, float_grid.SIGN :][:, : cells.numel()].long()
    positive = tables[:, : cells.numel()].long()
    counts, signed = positive + negative, positive - negative
    total = counts.sum(1)
    number = total.clamp(min=1).double()
    rank = (total - 1).clamp(min=0) // 2
    sizes = cells.expand(counts.shape)
    center = ranked(sizes, counts, rank)
    mad = weighted_rank((sizes - center[:, None]).abs(), counts, rank)
    eps = torch.where(given_eps < 0, MAD_TO_SIGMA * mad * c, given_eps)
    near = torch.where(sizes >= eps[:, None], 0, counts).sum(1)
    weights = counts.double()
    mean = (cells * signed).sum(1) / number
    variance = positive * (cells - mean[:, None]) ** 2 + negative * (cells + mean[:, None]) ** 2
    l1, squares = (weights * cells).sum(1), (weights * cells * cells).sum(1)
    below = (counts.cumsum(1) - counts).double()
    order = (cells * weights * (below + 0.5 * (weights + 1))).sum(1)
    gini = 2 * order / (number * l1) - (number + 1) / number
    lost = torch.where(total > 0, 0.0, torch.nan)
    gini = torch.where(l1 > 0, gini, torch.nan)
    std = (variance.sum(1) / number).sqrt()
    found = [total.double(), mean + lost, std + lost, eps + lost, near / number + lost]
    absmax = torch.where(counts > 0, sizes, 0.0).amax(1) + lost
    return torch.stack([*found, l1, squares.sqrt(), gini, absmax], 1)


def largest_on_device(
    values: torch.Tensor, rows: DeviceRows, most: int, sizes: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the largest finite magnitudes, of equal ones the first in the order of rows.

    At most ``most``, by descending magnitude: the values with sign (NaN where there are no more),
    their positions among the rows, and their channels. ``sizes`` are the largest of each row, -1
    without any, where they are known.
    """
    if sizes is None:
        sizes = torch.cat([_sizes(picked).amax(1) for _, picked, _ in rows.pieces(values, None)])
    first = sizes.sort(descending=True, stable=True).indices[:most]
    first = first.sort().values
    block = values[first if rows.index is None else rows.index[first]]
    flat = _sizes(block).flatten()
    best = flat.sort(descending=True, stable=True).indices[:most]
    found = torch.where(flat[best] >= 0, widened(block.flatten()[best]), torch.nan)
    return found, first[best // values.shape[1]], best % values.shape[1]


def movement_on_device(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``|after - before|`` and the number of pairs of finite values, (2,)."""
    total = torch.zeros(2, dtype=torch.float64, device=after.device)
    step = max(1, CHUNK_VALUES // max(after.shape[1], 1))
    for start in range(0, len(after), step):
        a, b = (side[start : start + step].double() for side in (before, after))
        is_pair = a.isfinite() & b.isfinite()
        moved = torch.where(is_pair, b - a, 0.0).abs().sum()
        total += torch.stack([moved, is_pair.sum()])
    return total


def _sizes(values: torch.Tensor) -> torch.Tensor:
    """Return magnitudes, -1 for what is not finite."""
    return torch.where(torch.isfinite(values), values.abs(), -1.0)
