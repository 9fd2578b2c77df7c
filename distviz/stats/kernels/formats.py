"""What the rows of a tensor lose in granular formats: compiled loops on the CPU, else torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distviz.stats.granular_formats import GranularFormat
from distviz.stats.kernels import cpu, device_types, format_loops
from distviz.stats.kernels.types import QuantizationSums
from distviz.stats.quantizers import largest_magnitudes, restore

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


def quantization_sums(
    values: torch.Tensor,
    windows: NDArray[np.int64],
    counted: NDArray[np.bool_],
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
        int64 (rows,): the window of each row, -1 for padding.
    counted
        bool (rows,): the rows to sum. Others have a part in the scales of their window.
    formats
        Of `distviz.stats.granular_formats.GRANULAR_FORMATS`.
    compiled
        Whether the compiled loops may be used.
    """
    values = values.detach()
    rows = np.flatnonzero(windows >= 0)
    counted = counted[rows]
    _, owners = np.unique(windows[rows], return_inverse=True)
    is_fast = compiled and values.device.type == "cpu" and values.dtype in _KINDS
    groups = {
        _in_loops: [of for of in formats if is_fast and not of.element.is_asymmetric],
        _in_torch: [of for of in formats if not is_fast or of.element.is_asymmetric],
    }
    found = [
        measure(values, rows, owners.reshape(-1), counted, chosen)
        for measure, chosen in groups.items()
        if chosen
    ]
    names = [of.name for chosen in groups.values() for of in chosen]
    places = [names.index(of.name) for of in formats]
    errors = np.concatenate([one.sums[1:] for one in found])[places]
    return QuantizationSums(
        rows[counted],
        np.concatenate([found[0].sums[:1], errors]),
        found[0].count,
        np.concatenate([one.losses for one in found])[places],
        np.concatenate([one.maxima for one in found])[places],
    )


def _in_loops(
    values: torch.Tensor,
    rows: NDArray[np.int64],
    windows: NDArray[np.int64],
    counted: NDArray[np.bool_],
    formats: Sequence[GranularFormat],
) -> QuantizationSums:
    width = values.shape[1]
    words, kind, floats = cpu.words_of(values), _KINDS[values.dtype], _patterns_of_fp16()
    n_windows = int(windows.max(initial=-1)) + 1
    blocks = np.empty((rows.size, -(-width // format_loops.STEP)), np.float32)

    def measure(part: NDArray[np.int64]) -> NDArray[np.float32]:
        span = _span(part)
        most = np.zeros((n_windows, width), np.float32)
        format_loops.find_maxima(words, rows[span], windows[span], kind, floats, blocks[span], most)
        return most

    channels = np.maximum.reduce(cpu.share(measure, cpu.chunks_of(np.arange(rows.size), width)))
    if not counted.all():
        rows, windows, blocks = rows[counted], windows[counted], blocks[counted]
    units = list(dict.fromkeys((of.unit, of.block) for of in formats))
    of_formats = [units.index((of.unit, of.block)) for of in formats]
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
    return QuantizationSums(
        rows, sums, sum(counts), np.stack(losses).sum(axis=0), maxima[of_formats]
    )


def _span(part: NDArray[np.int64]) -> slice:
    return slice(int(part[0]), int(part[-1]) + 1) if part.size else slice(0)


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
    values: torch.Tensor,
    rows: NDArray[np.int64],
    windows: NDArray[np.int64],
    counted: NDArray[np.bool_],
    formats: Sequence[GranularFormat],
) -> QuantizationSums:
    device = values.device
    x = values[torch.from_numpy(rows).to(device)]
    kept = torch.from_numpy(np.flatnonzero(counted)).to(device)
    finite = x.isfinite()
    wide = device_types.widened(torch.where(finite, x, 0))
    rows_of = [wide.square().sum(1)[kept]]
    losses, maxima = [], []
    for of in formats:
        restored = restore(x, of, windows)
        own = torch.where(finite, device_types.widened(restored.values), 0)
        rows_of.append((wide - own).square().sum(1)[kept])
        zeroed = (own == 0) & (wide != 0)
        losses.append([int(zeroed[kept].sum()), int(restored.clipped[kept].sum())])
        maxima.append(_codes_of_maxima(torch.where(finite, x.float(), 0), of, windows, counted))
    sums = torch.stack(rows_of).double() if device.type == "cpu" else torch.stack(rows_of)
    return QuantizationSums(
        rows[counted],
        sums.cpu().double().numpy(),
        int(finite[kept].sum()),
        np.array(losses, np.int64).reshape(-1, 2),
        np.stack(maxima),
    )


def _codes_of_maxima(
    x: torch.Tensor, of: GranularFormat, windows: NDArray[np.int64], counted: NDArray[np.bool_]
) -> NDArray[np.int64]:
    if not x.numel():
        return np.zeros(format_loops.CODES, np.int64)
    most = largest_magnitudes(x, of, torch.from_numpy(windows).to(x.device))
    kept = np.flatnonzero(counted)
    if of.unit in ("channel", "tensor"):
        kept = kept[np.unique(windows[kept], return_index=True)[1]]
    codes = most[torch.from_numpy(kept).to(x.device)].to(torch.bfloat16).view(torch.int16)
    codes = codes.clamp(max=_LARGEST_FINITE).to(torch.int64).flatten()
    table = torch.bincount(codes, minlength=format_loops.CODES)
    return np.asarray(table.cpu().numpy())
