"""The loops that quantize rows and sum their errors on a CPU, compiled by Numba.

Each row is read once for all formats; what is computed of it stays in the cache. Elements are
float32 as in `distviz.stats.quantizers`, errors are summed in float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

STEP = 16
"""Channels of the smallest block; every other block is a multiple of it."""
TOKEN, CHANNEL, WINDOW = 0, -1, -2
"""Units that are no blocks: a row, a channel of a window, a window."""
FLOAT_SCALE, POWER_SCALE, E4M3_SCALE = 0, 1, 2
FLOAT32, BF16, FP16 = 0, 1, 2
CODES = 1 << 15
"""Number of bf16 codes of magnitudes."""

_OPTIONS = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
# Numba compiles a function with the flags of its first caller, unless it has its own.
_EXACT = _OPTIONS | {"fastmath": False}
_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST = np.float32(2.0**-126)
_MAGNITUDE, _EXPONENT = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_FRACTION = np.uint32(23)
_E4M3_TOP, _E4M3_UP = np.float32(448), np.float32(448 * 6)
_SUBNORMAL = np.uint32(1 << 22)  # of 2^-127
_SUMS = {"reassoc", "nsz"}
_NONE = np.uint32(0)
_E4M3 = (np.uint32((127 - 6) << 23), np.uint32(20 << 23))


@intrinsic
def bits_of(_context, _value):
    """Return the bit pattern of a float32."""
    from llvmlite import ir

    def convert(_target, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), convert


@intrinsic
def float_of(_context, _bits):
    """Return the float32 of a bit pattern."""
    from llvmlite import ir

    def convert(_target, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), convert


@njit(**_EXACT)
def _bf16_code(magnitude):
    """Return the bf16 code of a finite magnitude, rounded to nearest, ties to even."""
    word = bits_of(magnitude)
    word = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return min(word, np.uint32(0x7F7F))


@njit(**_EXACT)
def _load(words, kind, floats, bits):
    """Store the bit patterns of finite magnitudes as float32, 0 for others; return how many.

    ``floats`` maps the codes of fp16 to patterns of float32.
    """
    if kind == FLOAT32:
        for column in range(words.size):
            bits[column] = np.uint32(words[column])
    elif kind == BF16:
        for column in range(words.size):
            bits[column] = np.uint32(words[column]) << np.uint32(16)
    else:
        for column in range(words.size):
            bits[column] = floats[words[column]]
    count = np.uint32(0)
    for column in range(bits.size):
        word = bits[column] & _MAGNITUDE
        is_finite = word < _EXPONENT
        count += np.uint32(is_finite)
        bits[column] = word if is_finite else np.uint32(0)
    return count


@njit(**_EXACT)
def find_maxima(words, rows, windows, kind, floats, blocks, channels):
    """Store the largest magnitudes of blocks of `STEP` channels, and of each window's channels.

    ``windows`` int64 (n,) has the window of each of ``rows``; ``blocks`` float32 (n, blocks) is
    set; ``channels`` float32 (windows, channels) has the largest so far.
    """
    width = words.shape[1]
    bits = np.zeros(blocks.shape[1] * STEP, np.uint32)
    values = bits.view(np.float32)
    for index in range(rows.size):
        _load(words[rows[index]], kind, floats, bits[:width])
        for block in range(blocks.shape[1]):
            start = block * STEP
            most = _ZERO
            for column in range(STEP):
                most = max(most, values[start + column])
            blocks[index, block] = most
        own = channels[windows[index]]
        for column in range(width):
            own[column] = max(own[column], values[column])


@njit(**_EXACT)
def _nearest(ratio, least, up):
    """Round a magnitude to an element, see `distviz.stats.quantizers.round_float`."""
    step = float_of(max(bits_of(ratio) & _EXPONENT, least) + up)
    return (ratio + step) - step


@njit(**_EXACT)
def _float_scale(most, top):
    return max(most / top, _LEAST)


@njit(**_EXACT)
def _nearest_integer(value, scale, _least, _up):
    return np.rint(value * (_ONE / scale))


@njit(**_EXACT)
def _nearest_float(value, scale, least, up):
    return _nearest(value / scale, least, up)


@njit(**_EXACT)
def _loss(value, nearest, scale, top):
    """Return the squared error of a magnitude, whether it becomes zero, whether it is clipped."""
    error = np.float64(value) - np.float64(min(nearest, top) * scale)
    is_zeroed = np.int32((nearest == _ZERO) & (value > _ZERO))
    return error * error, is_zeroed, np.int32(nearest > top)


@njit(**_EXACT)
def count_codes(magnitudes, table):
    """Count finite magnitudes, float32 (n,), by bf16 code."""
    for index in range(magnitudes.size):
        table[_bf16_code(magnitudes[index])] += np.uint32(1)


@njit(**_EXACT)
def _set_scales(blocks, spec, top, up, largest, scales, tables):
    """Find the scale of each block of a row; count the largest magnitudes of the units.

    ``largest`` is float32 (blocks,) to work in.
    """
    unit, kind, _, _, exponent, number = spec
    size = unit // STEP if unit > 0 else blocks.size
    for first in range(0, blocks.size, size):
        last = min(first + size, blocks.size)
        most = _ZERO
        for block in range(first, last):
            most = max(most, blocks[block])
        if number >= 0:
            tables[number, _bf16_code(most)] += np.uint32(1)
        for block in range(first, last):
            largest[block] = most
    if kind == FLOAT_SCALE:
        for block in range(blocks.size):
            scales[block] = _float_scale(largest[block], top)
    elif kind == POWER_SCALE:
        for block in range(blocks.size):
            power = np.int32(np.int32(bits_of(largest[block]) >> _FRACTION) - np.int32(exponent))
            bits = np.uint32(np.uint32(max(power, np.int32(0))) << _FRACTION)
            scales[block] = float_of(bits if power > 0 else _SUBNORMAL)
    else:
        for block in range(blocks.size):
            stored = min(_nearest(up * (largest[block] / top), *_E4M3), _E4M3_TOP)
            scales[block] = (stored if stored > _ZERO else _ONE) / up


def _losing(nearest_of):
    """Return the loop over a row of magnitudes, ``nearest_of`` is how they become elements.

    It returns the sum of squared errors, the values made zero, and those clipped.
    """

    @njit(fastmath=_SUMS, **_OPTIONS)
    def lose(values, scales, top, least, up):
        total, zeroed, clipped = 0.0, np.int32(0), np.int32(0)
        for block in range(scales.size):
            start, scale = block * STEP, scales[block]
            for offset in range(STEP):
                value = values[start + offset]
                lost = _loss(value, nearest_of(value, scale, least, up), scale, top)
                total += lost[0]
                zeroed = np.int32(zeroed + lost[1])
                clipped = np.int32(clipped + lost[2])
        return total, zeroed, clipped

    return lose


_lose_integers, _lose_floats = _losing(_nearest_integer), _losing(_nearest_float)


@njit(fastmath=_SUMS, **_OPTIONS)
def _lose_by_channel(values, channels, top):
    """Like the loops of `_losing`, for integers with a scale per channel by its magnitude."""
    total, zeroed, clipped = 0.0, np.int32(0), np.int32(0)
    for column in range(channels.size):
        value, scale = values[column], _float_scale(channels[column], top)
        lost = _loss(value, _nearest_integer(value, scale, _NONE, _NONE), scale, top)
        total += lost[0]
        zeroed = np.int32(zeroed + lost[1])
        clipped = np.int32(clipped + lost[2])
    return total, zeroed, clipped


@njit(fastmath=_SUMS, **_OPTIONS)
def _sum_squares(values):
    total = 0.0
    for column in range(values.size):
        total += np.float64(values[column]) * np.float64(values[column])
    return total


@njit(**_EXACT)
def sum_errors(words, rows, kind, floats, blocks, windows, channels, specs, tops, tables, sums):
    """Quantize rows to several symmetric formats and sum what they lose.

    Parameters
    ----------
    words
        (rows, channels): bit patterns; ``kind`` says of which type.
    rows
        int64 (n,): which to take.
    blocks, windows, channels
        Of these rows, as in `find_maxima`.
    specs
        int64 (formats, 6): unit (channels of a block, or a constant above), kind of scale, bits of
        the fraction (-1: integers), least exponent, exponent of the largest element, table or -1.
    tops
        float32 (formats,): the largest elements.
    tables
        uint32 (tables, `CODES`): largest magnitudes of blocks and rows by bf16 code, added to.
    sums
        float64 (1 + formats, n), set: sums of squares, then of the squared errors of each format.

    Returns
    -------
    int64 (formats, 2), values that became zero and clipped values; and the number of finite values.
    """
    width = words.shape[1]
    bits = np.zeros(blocks.shape[1] * STEP, np.uint32)
    values = bits.view(np.float32)
    scales, largest = np.empty(blocks.shape[1], np.float32), np.empty(blocks.shape[1], np.float32)
    losses = np.zeros((tops.size, 2), np.int64)
    wholes = np.empty(channels.shape[0], np.float32)
    for number in range(channels.shape[0]):
        wholes[number] = channels[number].max()
    count = 0
    for index in range(rows.size):
        own, whole = channels[windows[index]], wholes[windows[index]]
        up = _ONE / max(whole, _LEAST) * _E4M3_UP
        up = up if up < np.float32(np.inf) else _ONE
        count += _load(words[rows[index]], kind, floats, bits[:width])
        sums[0, index] = _sum_squares(values)
        for number in range(tops.size):
            spec, top = specs[number], tops[number]
            unit, _, fraction, least, _, _ = spec
            if unit == WINDOW:
                scales[:] = _float_scale(whole, top)
            elif unit != CHANNEL:
                _set_scales(blocks[index], spec, top, up, largest, scales, tables)
            if unit == CHANNEL:
                lost = _lose_by_channel(values, own, top)
            else:
                base, shift = np.uint32((least + 127) << 23), np.uint32((23 - fraction) << 23)
                if fraction < 0:
                    lost = _lose_integers(values, scales, top, base, shift)
                else:
                    lost = _lose_floats(values, scales, top, base, shift)
            sums[1 + number, index] = lost[0]
            losses[number, 0] += lost[1]
            losses[number, 1] += lost[2]
    return losses, count
