"""The loops that touch every activation on a CPU, compiled by Numba.

Every function releases the GIL and works on the rows that it is handed, so the callers in
:mod:`distviz.stats.kernels.cpu` share work among plain threads and the answers do not depend on how
many there are. 16-bit values come as their codes (uint16), 32-bit values as float32 with a uint32
view of the same memory.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from distviz.stats.kernels.format_loops import float_of
from distviz.stats.statistics import MAD_TO_SIGMA

_BLOCK = 4
_OPTIONS = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_OPTIONS |= {"no_cfunc_wrapper": True}  # nothing calls them from C
_INNER = _OPTIONS | {"no_cpython_wrapper": True}  # called by compiled code alone


@njit(**_OPTIONS)
def round_row(bits, codes):
    """Round float32 bit patterns to bf16 codes; what would become infinite stays finite."""
    for column in range(bits.size):
        word = bits[column]
        magnitude = word & np.uint32(0x7FFFFFFF)
        half = np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))
        # What is cut instead of rounded keeps its code, and the largest values stay finite.
        word = np.uint32(word + (half if magnitude < np.uint32(0x7F7F8000) else np.uint32(0)))
        word = word if magnitude <= np.uint32(0x7F800000) else np.uint32(0x7FC00000)
        codes[column] = np.uint16(word >> np.uint32(16))


@njit(**_OPTIONS)
def count_magnitudes_16(codes, rows, table):
    """Add the 15 magnitude bits of 16-bit rows to uint32[32768]."""
    for index in range(rows.size):
        row = codes[rows[index]]
        for column in range(row.size):
            table[row[column] & np.uint16(0x7FFF)] += np.uint32(1)


@njit(**_OPTIONS)
def count_magnitudes_32(words, rows, table):
    """Like :func:`count_magnitudes_16` for the bit patterns of float32, rounded to bf16."""
    width = words.shape[1]
    codes = np.empty(width, np.uint16)
    for index in range(rows.size):
        round_row(words[rows[index]], codes)
        for column in range(width):
            table[codes[column] & np.uint16(0x7FFF)] += np.uint32(1)


@njit(**_OPTIONS)
def observe_16(codes, floats, rows, shift, table, sums, ends, signs):
    """Count 16-bit rows and accumulate each channel; see :func:`_accumulate`.

    ``floats`` maps a code to float32.
    """
    width = codes.shape[1]
    block = np.empty((_BLOCK, width), np.float32)
    for start in range(0, rows.size, _BLOCK):
        size = min(_BLOCK, rows.size - start)
        for index in range(size):
            row = codes[rows[start + index]]
            for column in range(width):
                code = row[column]
                table[code] += np.uint32(1)
                block[index, column] = floats[code]
        if size == _BLOCK:  # a constant, so that the loops over rows are unrolled
            _accumulate(block, _BLOCK, len(sums), shift, sums, ends, signs)
        else:
            _accumulate(block, size, len(sums), shift, sums, ends, signs)


@njit(**_OPTIONS)
def observe_bf16(codes, rows, shift, table, sums, ends, signs):
    """Like :func:`observe_16` for bf16, whose codes are the upper half of a float32."""
    width = codes.shape[1]
    block = np.empty((_BLOCK, width), np.float32)
    for start in range(0, rows.size, _BLOCK):
        size = min(_BLOCK, rows.size - start)
        for index in range(size):
            row = codes[rows[start + index]]
            for column in range(width):
                table[row[column]] += np.uint32(1)
            for column in range(width):
                word = np.uint32(np.uint32(row[column]) << np.uint32(16))
                block[index, column] = float_of(word)
        if size == _BLOCK:  # a constant, so that the loops over rows are unrolled
            _accumulate(block, _BLOCK, len(sums), shift, sums, ends, signs)
        else:
            _accumulate(block, size, len(sums), shift, sums, ends, signs)


@njit(**_OPTIONS)
def observe_32(values, bits, rows, shift, table, sums, ends, signs):
    """Count float32 rows rounded to bf16 and accumulate each channel, unrounded."""
    width = values.shape[1]
    block = np.empty((_BLOCK, width), np.float32)
    codes = np.empty(width, np.uint16)
    for start in range(0, rows.size, _BLOCK):
        size = min(_BLOCK, rows.size - start)
        for index in range(size):
            row = values[rows[start + index]]
            round_row(bits[rows[start + index]], codes)
            for column in range(width):
                table[codes[column]] += np.uint32(1)
            for column in range(width):
                block[index, column] = row[column]
        if size == _BLOCK:  # a constant, so that the loops over rows are unrolled
            _accumulate(block, _BLOCK, len(sums), shift, sums, ends, signs)
        else:
            _accumulate(block, size, len(sums), shift, sums, ends, signs)


@njit(inline="always", **_OPTIONS)
def _accumulate(block, size, n_powers, shift, sums, ends, signs):
    """Add ``size`` rows of float32 (rows, channels) to accumulators of each channel.

    ``sums`` are 2 or 5 times float64 (channels,): of the first and second powers of ``x - shift``,
    then of the third, the fourth and of ``abs(x)``; ``ends`` float32 (2, channels): smallest and
    largest; ``signs`` uint32 (2, channels): zeros and positive values. Several rows at once, since
    the accumulators are what the memory is busy with. ``n_powers`` is how many ``sums`` there are,
    known to the compiler, which leaves out what two do not need.
    """
    first, second = sums[0], sums[1]
    if n_powers == 5:
        third, fourth, absolute = sums[2], sums[3], sums[4]
    for column in range(block.shape[1]):
        origin = np.float64(shift[column])
        total, squares, cubes, quarts, size_sum = 0.0, 0.0, 0.0, 0.0, 0.0
        for index in range(size):
            value = np.float64(block[index, column])
            centred = value - origin
            square = centred * centred
            total += centred
            squares += square
            if n_powers == 5:
                cubes += square * centred
                quarts += square * square
                size_sum += abs(value)
        first[column] += total
        second[column] += squares
        if n_powers == 5:
            third[column] += cubes
            fourth[column] += quarts
            absolute[column] += size_sum
    lows, highs, zeros, positive = ends[0], ends[1], signs[0], signs[1]
    for column in range(block.shape[1]):
        low, high = lows[column], highs[column]
        none, above = np.uint32(0), np.uint32(0)
        for index in range(size):
            narrow = block[index, column]
            low, high = min(low, narrow), max(high, narrow)
            none += np.uint32(narrow == np.float32(0))
            above += np.uint32(narrow > np.float32(0))
        lows[column], highs[column] = low, high
        zeros[column] += none
        positive[column] += above


@njit(fastmath={"reassoc", "nsz"}, **_OPTIONS)
def pool_channels(count, shift, sums, ends, signs, pooled):
    """Combine what `_accumulate` has found of ``count`` rows in all channels.

    ``pooled`` is float64 (8,): zeros, smallest, largest, mean, sums of the second, third and fourth
    powers of deviations from the mean, of abs(x); the last three only if there are five ``sums``.
    """
    width, number = shift.size, np.float64(count)
    means = np.empty(width)
    zeros, low, high, center = 0.0, np.inf, -np.inf, 0.0
    for column in range(width):
        means[column] = np.float64(shift[column]) + sums[0][column] / number
        center += means[column]
        zeros += np.float64(signs[0, column])
        low, high = min(low, np.float64(ends[0, column])), max(high, np.float64(ends[1, column]))
    center /= max(width, 1)
    pooled[0], pooled[1], pooled[2], pooled[3] = zeros, low, high, center
    second, third, fourth, absolute = 0.0, 0.0, 0.0, 0.0
    for column in range(width):
        total, squares = sums[0][column], sums[1][column]
        mean, offset = total / number, means[column] - center
        m2, moved = max(squares - mean * total, 0.0), number * offset * offset
        second += m2 + moved
        if len(sums) == 2:
            continue
        shifted = mean * total
        m3 = sums[2][column] - mean * (3 * squares - 2 * shifted)
        m4 = sums[3][column] - mean * (4 * sums[2][column] - mean * (6 * squares - 3 * shifted))
        m4 = max(m4, m2 * m2 / number)
        third += m3 + offset * (3 * m2 + moved)
        fourth += m4 + 4 * offset * m3 + offset * offset * (6 * m2 + moved)
        absolute += sums[4][column]
    pooled[4], pooled[5], pooled[6], pooled[7] = second, third, fourth, absolute


@njit(**_OPTIONS)
def count_tops(words, rows, magnitude_mask, limit, found):
    """Count by channel (int64) the rows whose first largest magnitude below ``limit`` is there.

    ``words`` are bit patterns; magnitudes of at least ``limit`` are not finite.
    """
    width = words.shape[1]
    for index in range(rows.size):
        row = words[rows[index]]
        most = np.uint32(0)
        for column in range(width):
            magnitude = np.uint32(row[column]) & magnitude_mask
            most = max(most, magnitude if magnitude < limit else np.uint32(0))
        for column in range(width):
            if np.uint32(row[column]) & magnitude_mask == most:
                found[column] += 1
                break


@njit(**_OPTIONS)
def find_largest(words, rows, channels, magnitude_mask, limits, places):
    """Find the largest magnitudes of some channels, by descending magnitude.

    ``limits`` is (the largest that there is, the first that is not finite); of equal ones those of
    the earlier rows, then channels, are kept. ``places`` is int64 (most, 2): position in ``rows``
    and in ``channels``; returns how many are filled.
    """
    highest, infinite = limits
    most, filled = places.shape[0], 0
    sizes = np.zeros(most, np.uint32)
    for index in range(rows.size):
        row = words[rows[index]]
        for number in range(channels.size):
            size = np.uint32(row[channels[number]]) & magnitude_mask
            if size >= infinite or (filled == most and size <= sizes[most - 1]):
                continue
            place = filled if filled < most else most - 1
            while place > 0 and sizes[place - 1] < size:
                sizes[place] = sizes[place - 1]
                # One by one: the assignment of a row takes a second to compile.
                places[place, 0], places[place, 1] = places[place - 1, 0], places[place - 1, 1]
                place -= 1
            sizes[place], places[place, 0], places[place, 1] = size, index, number
            filled = min(filled + 1, most)
        if filled == most and sizes[most - 1] == highest:  # later rows have nothing larger
            break
    return filled


@njit(**_INNER)
def _parts_of(word):
    """Return sign, 53-bit integer and its power of two of the bit pattern of a finite float64."""
    exponent = np.int64((word >> np.uint64(52)) & np.uint64(0x7FF))
    bits = word & np.uint64(0xFFFFFFFFFFFFF)
    if exponent:
        bits |= np.uint64(1) << np.uint64(52)
    else:
        exponent = np.int64(1)
    sign = np.int64(1) - np.int64((word >> np.uint64(63)) << np.uint64(1))
    return sign, bits, exponent - np.int64(1075)


@njit(**_OPTIONS)
def exact_span(words):
    """Return exponents that no bit of finite float64 (terms, channels) is below, or reaches.

    ``words`` are their bit patterns, uint64; (0, 0) where all are 0.
    """
    low, high = 1 << 20, -(1 << 20)
    for index in range(words.shape[0]):
        for column in range(words.shape[1]):
            _, bits, exponent = _parts_of(words[index, column])
            if bits != np.uint64(0):
                low, high = min(low, exponent), max(high, exponent + np.int64(53))
    return (low, high) if low < high else (0, 0)


@njit(**_OPTIONS)
def exact_add(words, lowest, rows):
    """Add float64 (terms, channels) to whole numbers in base 2^32, int64 (digits, channels).

    ``words`` are bit patterns, uint64. The first row counts 2^(32 lowest); rows must span what
    `exact_span` returns.
    """
    mask = np.uint64(0xFFFFFFFF)
    for index in range(words.shape[0]):
        for column in range(words.shape[1]):
            sign, bits, exponent = _parts_of(words[index, column])
            if bits == np.uint64(0):
                continue
            place = exponent - 32 * lowest
            if place < 0:  # there are but zeros below
                bits, place = bits >> np.uint64(-place), 0
            row, shift = place >> 5, np.uint64(place & 31)
            above = bits >> (np.uint64(32) - shift)
            rows[row, column] += sign * np.int64((bits << shift) & mask)
            if above != np.uint64(0):
                rows[row + 1, column] += sign * np.int64(above & mask)
            if above > mask:
                rows[row + 2, column] += sign * np.int64(above >> np.uint64(32))


@njit(**_OPTIONS)
def add_table(total, table):
    """Add a table of counts to another (int64), in place."""
    for code in range(total.size):
        total[code] += np.int64(table[code])


@njit(**_INNER)
def distance_of_rank(values, counts, rank, center):
    """Return the ``rank``-th smallest abs(value - center) of a sample, by its ascending values.

    Walks outward from the centre.
    """
    right, end = 0, values.size  # NumPy's search takes a second to compile
    while right < end:
        middle = (right + end) // 2
        right, end = (middle + 1, end) if values[middle] < center else (right, middle)
    left = right - 1
    seen = 0
    distance = 0.0
    while seen <= rank:
        to_left = center - values[left] if left >= 0 else np.inf
        to_right = values[right] - center if right < values.size else np.inf
        if to_left <= to_right:
            distance = to_left
            seen += counts[left]
            left -= 1
        else:
            distance = to_right
            seen += counts[right]
            right += 1
    return distance


@njit(**_OPTIONS)
def compress(table, magnitudes, values, negative, positive):
    """List the non-empty magnitudes of a table with their counts by sign; returns how many."""
    filled = 0
    for code in range(magnitudes.size):
        above, below = np.int64(table[code]), np.int64(table[code + 0x8000])
        if above + below:
            values[filled] = magnitudes[code]
            positive[filled] = above
            negative[filled] = below
            filled += 1
    return filled


@njit(**_OPTIONS)
def summarise(values, negative, positive, c, given_eps):
    """Statistics of the magnitudes of a table; see `distviz.stats.kernels.cpu.summarise`."""
    filled, total = values.size, 0
    counts = np.empty(filled, np.int64)
    for cell in range(filled):
        counts[cell] = negative[cell] + positive[cell]
        total += counts[cell]
    if total == 0:
        return 0, np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, np.nan, np.nan
    signed, l1, squares, ranked = 0.0, 0.0, 0.0, 0.0
    below, median = 0, values[0]
    for cell in range(filled):
        value, weight = values[cell], counts[cell]
        signed += value * (positive[cell] - negative[cell])
        l1 += value * weight
        squares += value * value * weight
        ranked += value * weight * (below + 0.5 * (weight + 1))
        if below <= (total - 1) // 2:
            median = value
        below += weight
    mean = signed / total
    variance = 0.0
    for cell in range(filled):
        variance += positive[cell] * (values[cell] - mean) ** 2
        variance += negative[cell] * (values[cell] + mean) ** 2
    eps = given_eps
    if given_eps < 0:
        rank = (total - 1) // 2
        eps = MAD_TO_SIGMA * distance_of_rank(values, counts, rank, median) * c
    near = 0
    for cell in range(filled):
        if values[cell] >= eps:
            break
        near += counts[cell]
    gini = np.nan
    if l1 > 0:
        gini = 2.0 * ranked / (total * l1) - (total + 1.0) / total
    std, l2, absmax = math.sqrt(variance / total), math.sqrt(squares), values[-1]
    return total, mean, std, eps, near / total, l1, l2, gini, absmax
