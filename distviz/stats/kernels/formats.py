"""What the rows of a tensor lose in granular formats: compiled loops on the CPU, else torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats.granular_formats import GranularFormat, Unit
from distviz.stats.kernels import cpu, device_types, format_loops
from distviz.stats.kernels.host_copies import to_device, to_host
from distviz.stats.kernels.types import QuantizationSums
from distviz.stats.quantizers import restore

_KINDS = {
    torch.float32: format_loops.FLOAT32,
    torch.bfloat16: format_loops.BF16,
    torch.float16: format_loops.FP16,
}
_UNITS = {
    "token": format_loops.TOKEN,
    "channel": format_loops.CHANNEL,
    "tensor": format_loops.WINDOW,
}
_SCALES = {
    "float32": format_loops.FLOAT_SCALE,
    "power of two": format_loops.POWER_SCALE,
    "e4m3": format_loops.E4M3_SCALE,
}
_LARGEST_FINITE = 0x7F7F


@dataclass(frozen=True)
class FormatWindows:
    """The rows of a tensor by window, and which of them are summed.

    Attributes
    ----------
    rows
        int64 (n,): without padding, one window after the other.
    sizes
        The number of rows of each window.
    counted
        bool (n,): whether each is summed. Others have a part in the scales of their window.
    """

    rows: NDArray[np.int64]
    sizes: tuple[int, ...]
    counted: NDArray[np.bool_]

    @classmethod
    def of(cls, windows: NDArray[np.int64], counted: NDArray[np.bool_]) -> FormatWindows:
        """Return the rows of windows; int64 (rows,), -1 for padding, and bool (rows,)."""
        order = np.argsort(windows, kind="stable")
        rows = order[np.searchsorted(windows[order], 0) :]
        sizes = np.unique(windows[rows], return_counts=True)[1]
        return cls(rows, tuple(sizes.tolist()), counted[rows])

    @property
    def owners(self) -> NDArray[np.int64]:
        """The number of the window of each row, from 0."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def on(self, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the rows of each window on a device, and the places among them that count."""
        ends = np.cumsum((0, *self.sizes))
        kept = np.flatnonzero(self.counted)
        sizes = np.diff(np.searchsorted(kept, ends)).tolist()
        places = to_device(kept - np.repeat(ends[:-1], sizes), device).split_with_sizes(sizes)
        rows = to_device(self.rows, device).split_with_sizes(self.sizes)
        return [*zip(rows, places, strict=True)]


def quantization_sums(
    values: torch.Tensor,
    windows: FormatWindows,
    formats: Sequence[GranularFormat],
    *,
    compiled: bool = True,
) -> QuantizationSums:
    """Quantize the rows of each window to every format and sum what the counted rows lose.

    Parameters
    ----------
    values
        (rows, channels), any floating-point type.
    windows
        Its windows.
    formats
        Of `distviz.stats.granular_formats.GRANULAR_FORMATS`.
    compiled
        Whether the compiled loops may be used.
    """
    values = values.detach()
    is_fast = compiled and values.device.type == "cpu" and values.dtype in _KINDS
    groups = {
        _in_loops: [of for of in formats if is_fast and not of.element.is_asymmetric],
        _in_torch: [of for of in formats if not is_fast or of.element.is_asymmetric],
    }
    found = [measure(values, windows, chosen) for measure, chosen in groups.items() if chosen]
    names = [of.name for chosen in groups.values() for of in chosen]
    places = [names.index(of.name) for of in formats]
    errors = np.concatenate([one.sums[1:] for one in found])[places]
    return QuantizationSums(
        np.concatenate([found[0].sums[:1], errors]),
        found[0].count,
        np.concatenate([one.losses for one in found])[places],
        np.concatenate([one.maxima for one in found])[places],
    )


def _in_loops(
    values: torch.Tensor, of: FormatWindows, formats: Sequence[GranularFormat]
) -> QuantizationSums:
    rows, windows, counted, width = of.rows, of.owners, of.counted, values.shape[1]
    words, kind, floats = cpu.words_of(values), _KINDS[values.dtype], _patterns_of_fp16()
    blocks = np.empty((rows.size, -(-width // format_loops.STEP)), np.float32)

    def measure(part: NDArray[np.int64]) -> NDArray[np.float32]:
        span = _span(part)
        most = np.zeros((len(of.sizes), width), np.float32)
        format_loops.find_maxima(words, rows[span], windows[span], kind, floats, blocks[span], most)
        return most

    channels = np.maximum.reduce(cpu.share(measure, cpu.chunks_of(np.arange(rows.size), width)))
    if not counted.all():
        rows, windows, blocks = rows[counted], windows[counted], blocks[counted]
    units, of_formats = units_of(formats)
    specs = np.array([_spec(of) for of in formats])
    specs[:, 5] = [u if u not in of_formats[:n] else -1 for n, u in enumerate(of_formats)]
    tops = np.array([of.top for of in formats], np.float32)
    sums = np.empty((1 + len(formats), rows.size))

    def lose(part: NDArray[np.int64]) -> tuple[Any, ...]:
        span = _span(part)
        tables = np.zeros((len(units), format_loops.CODES), np.uint32)
        own = np.empty((1 + len(formats), part.size))
        place = (words, rows[span], kind, floats, blocks[span], windows[span], channels)
        losses, count = format_loops.sum_errors(*place, specs, tops, tables, own)
        sums[:, span] = own
        return tables, losses, count

    found = cpu.share(lose, cpu.chunks_of(np.arange(rows.size), width))
    tables, losses, counts = zip(*found, strict=True)
    maxima = np.stack(tables).sum(axis=0, dtype=np.int64)
    present = channels[np.unique(windows)]
    for number, (unit, _) in enumerate(units):
        of_windows = present if unit == "channel" else present.max(axis=1, initial=0)
        if unit in ("channel", "tensor"):
            format_loops.count_codes(of_windows.ravel(), maxima[number])
    return QuantizationSums(sums, sum(counts), np.stack(losses).sum(axis=0), maxima[of_formats])


def _span(part: NDArray[np.int64]) -> slice:
    return slice(int(part[0]), int(part[-1]) + 1) if part.size else slice(0)


def units_of(formats: Sequence[GranularFormat]) -> tuple[list[tuple[Unit, int]], list[int]]:
    """Return what shares a scale in some format: unit and block; and its number for each format."""
    of_formats = [(of.unit, of.block) for of in formats]
    units = list(dict.fromkeys(of_formats))
    return units, [*map(units.index, of_formats)]


def _spec(of: GranularFormat) -> list[int]:
    """Return what the loops know of a format, without a table."""
    unit = of.block or _UNITS[of.unit]
    fraction = of.element.fraction_bits if of.element.is_float else -1
    exponents = of.element.least_exponent, math.frexp(of.top)[1] - 1
    return [unit, _SCALES[of.scale], fraction or 0, *exponents, -1]


@cache
def _patterns_of_fp16() -> NDArray[np.uint32]:
    with np.errstate(invalid="ignore"):
        floats = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return floats.view(np.uint32)


def _in_torch(
    values: torch.Tensor, of: FormatWindows, formats: Sequence[GranularFormat]
) -> QuantizationSums:
    parts = [_of_window(values, *one, formats) for one in of.on(values.device)]
    if not parts:
        empty = np.zeros((len(formats), format_loops.CODES), np.int64)
        return QuantizationSums(np.zeros((1 + len(formats), 0)), 0, empty[:, :2], empty)
    found = iter(to_host([tensor for part in parts for tensor in part]))
    sums, counts, tables = zip(*zip(found, found, found, strict=True), strict=True)
    total, maxima = np.sum(counts, axis=0), np.sum(tables, axis=0)
    return QuantizationSums(
        np.concatenate(sums, axis=1).astype(np.float64),
        int(total[0, 0]),
        total[1:],
        maxima[units_of(formats)[1]],
    )


class DeviceLosses(NamedTuple):
    """What counted rows lose in several formats, on their device.

    Attributes
    ----------
    sums
        (1 + formats, rows): see `QuantizationSums`; or (1 + 2 formats,): the sums of these, and of
        the share of each error in the squares of its row.
    counts
        int64 (1 + formats, 2): finite values, and rows with a value that is not zero; then of each
        format values that become zero, and clipped values.
    maxima
        int64 (units, 32768): see `QuantizationSums`, of each of `units_of`.
    """

    sums: torch.Tensor
    counts: torch.Tensor
    maxima: torch.Tensor

    def plus(self, other: DeviceLosses | None) -> DeviceLosses:
        """Return the sums over the rows of both."""
        return self if other is None else DeviceLosses(*map(torch.add, other, self))


def losses_on_device(
    values: torch.Tensor,
    windows: Sequence[tuple[torch.Tensor, torch.Tensor]],
    formats: Sequence[GranularFormat],
) -> DeviceLosses | None:
    """Return sums over all rows that count, without waiting; None without windows.

    ``windows`` are those of `FormatWindows.on`; other arguments as of `quantization_sums`.
    """
    total = None
    for rows, kept in windows:
        sums, counts, maxima = _of_window(values.detach(), rows, kept, formats)
        squares, errors = sums[:1], sums[1:]
        shares = torch.where(squares > 0, errors / squares, 0.0)
        total = DeviceLosses(torch.cat([sums, shares]).sum(1), counts, maxima).plus(total)
    return total


def _of_window(
    values: torch.Tensor,
    rows: torch.Tensor,
    kept: torch.Tensor,
    formats: Sequence[GranularFormat],
) -> DeviceLosses:
    x, tables = values[rows], dict[tuple[Unit, int], torch.Tensor]()
    finite = x.isfinite()
    wide = device_types.widened(torch.where(finite, x, 0))
    sums = [wide.square().sum(1)]
    counts = [torch.stack([finite.sum(1), sums[0] > 0])]
    for of in formats:
        restored = restore(x, of)
        own = torch.where(finite, device_types.widened(restored.values), 0)
        sums.append((wide - own).square().sum(1))
        zeroed = (own == 0) & (wide != 0)
        counts.append(torch.stack([zeroed.sum(1), restored.clipped.sum(1)]))
        if (of.unit, of.block) not in tables:
            is_whole = of.unit in ("channel", "tensor")
            largest = restored.largest[: len(kept)] if is_whole else restored.largest[kept]
            tables[of.unit, of.block] = _codes_of(largest)
    found = torch.stack(counts)[..., kept].sum(2)
    return DeviceLosses(torch.stack(sums)[:, kept], found, torch.stack([*tables.values()]))


def _codes_of(largest: torch.Tensor) -> torch.Tensor:
    """Count magnitudes by bf16 code."""
    codes = largest.to(torch.bfloat16).view(torch.int16).clamp(max=_LARGEST_FINITE).long()
    table = torch.zeros(format_loops.CODES, dtype=torch.int64, device=largest.device)
    one = torch.ones((), dtype=torch.int64, device=largest.device)
    return table.scatter_add_(0, codes.flatten(), one.expand(codes.numel()))
