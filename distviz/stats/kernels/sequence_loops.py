"""The loops of a redistribution over the values of a sequence on a CPU, compiled by Numba.

See :mod:`distviz.stats.kernels.plan_loops` for patterns, cells and ``form``, and
:mod:`distviz.stats.kernels.rng` for the random numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_OPTIONS = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_OPTIONS |= {"no_cfunc_wrapper": True}  # nothing calls them from C
_INNER = _OPTIONS | {"no_cpython_wrapper": True}  # called by compiled code alone
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(**_INNER)
def _mask_of(words):
    """Return the bits of a pattern that are not the sign."""
    return words.dtype.type((1 << (8 * words.itemsize - 1)) - 1)


@njit(**_OPTIONS)
def count_cells(words, rows, form, table):
    """Count the cells of the given rows, with their signs, into ``table`` (int64)."""
    width, shift = words.shape[1], words.dtype.type(form[0])
    cells = np.empty(width, np.uint16)
    for index in range(rows.size):
        row = words[rows[index]]
        for column in range(width):
            cells[column] = np.uint16(row[column] >> shift)
        for column in range(width):
            table[cells[column]] += 1


@njit(**_OPTIONS)
def gather_words(words, rows, form, lot, out):
    """Copy the patterns whose cell is in ``lot`` to ``out`` (uint64, one longer).

    Each pattern is written where the next goes, so that the loop has no branch.
    """
    width, shift, mask = words.shape[1], words.dtype.type(form[0]), _mask_of(words)
    cells = np.empty(width, np.uint16)
    filled = 0
    for index in range(rows.size):
        row = words[rows[index]]
        for column in range(width):
            cells[column] = np.uint16((row[column] & mask) >> shift)
        for column in range(width):
            out[filled] = row[column]
            filled += np.int64(lot[cells[column]] != 0)


@njit(**_OPTIONS)
def row_keys(head, slots, document, tokens):
    """Fold integer keys into two words a row, see :func:`distviz.stats.kernels.row_keys`."""
    words = np.empty((tokens.size, 2), np.uint32)
    for index in range(tokens.size):
        state = _GOLDEN
        keys = (*head, slots[index % slots.size], document, tokens[index])
        for key in keys:
            word = (state + _GOLDEN) ^ np.uint64(key)
            word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = word ^ (word >> np.uint64(31))
        words[index, 0] = np.uint32(state & np.uint64(0xFFFFFFFF))
        words[index, 1] = np.uint32(state >> np.uint64(32))
    return words


@njit(**_OPTIONS)
def find_cut(words, rows, pattern, ties):
    """Return (position in ``rows``, column) just behind the ``ties``-th value of a magnitude."""
    width, mask, magnitude = words.shape[1], _mask_of(words), words.dtype.type(pattern)
    left = ties
    for index in range(rows.size):
        row = words[rows[index]]
        found = np.uint32(0)
        for column in range(width):
            found += np.uint32((row[column] & mask) == magnitude)
        if found < left:
            left -= np.int64(found)
            continue
        for column in range(width):
            if (row[column] & mask) == magnitude:
                left -= 1
                if left == 0:
                    return index, column + 1
    return rows.size, 0


@njit(inline="always", **_OPTIONS)
def _uniform(column, first_key, second_key):
    """Hash of (row keys, channel) to float32 in [0, 1) in steps of 2^-24."""
    word = np.uint32(np.uint32(column) * np.uint32(0x9E3779B9) + first_key)
    word = np.uint32((word ^ (word >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    word = np.uint32((word ^ (word >> np.uint32(15))) + second_key)
    word = np.uint32(word * np.uint32(0xD35A2D97))
    word = np.uint32((word ^ (word >> np.uint32(15))) * np.uint32(0x735A2D97))
    word = np.uint32(word ^ (word >> np.uint32(15)))
    return np.float32(np.int32(word >> np.uint32(8))) * np.float32(2.0**-24)


@njit(**_OPTIONS)
def apply_wide(values, words, out, rows, keys, limits, bounds, adds):
    """Redistribute float32 or float64 rows into ``out``: magnitudes below a limit are replaced.

    ``limits`` is (pattern of the magnitude, position of the cut row, its column): rows before the
    cut also move values *equal* to the magnitude. ``bounds`` is float32 (lower, upper).
    """
    pattern, cut_row, cut_column = limits
    width = words.shape[1]
    for index in range(rows.size):
        source, own, target = values[rows[index]], words[rows[index]], out[rows[index]]
        split = width if index < cut_row else (cut_column if index == cut_row else 0)
        pair = keys[index]
        limit = own.dtype.type(pattern)
        _move_wide(source[:split], own, target, 0, own.dtype.type(limit + 1), pair, bounds, adds)
        _move_wide(source[split:], own, target, split, limit, pair, bounds, adds)


@njit(inline="always", **_OPTIONS)
def _move_wide(source, words, target, start, limit, pair, bounds, adds):
    first, second = pair[0], pair[1]
    lower, upper = bounds[0], bounds[1]
    mask = _mask_of(words)
    for offset in range(source.size):
        column = start + offset
        value = source[offset]
        new = _uniform(column, first, second) * (lower if value < 0 else upper)
        target[column] = (value + new if adds else new) if words[column] & mask < limit else value


@njit(**_OPTIONS)
def apply_bf16(codes, out, rows, keys, limits, bounds, adds):
    """Like :func:`apply_wide` for bf16 codes; the product is rounded to nearest even once.

    One loop a step, so that each of them is vectorised.
    """
    pattern, cut_row, cut_column = np.uint32(limits[0]), limits[1], limits[2]
    lower, upper = bounds[0], bounds[1]
    width = codes.shape[1]
    buffer, original = np.empty(width, np.float32), np.empty(width, np.float32)
    words, original_words = buffer.view(np.uint32), original.view(np.uint32)
    for index in range(rows.size):
        row, target = codes[rows[index]], out[rows[index]]
        split = width if index < cut_row else (cut_column if index == cut_row else 0)
        first, second = keys[index, 0], keys[index, 1]
        for column in range(width):
            buffer[column] = _uniform(column, first, second)
        for column in range(width):
            buffer[column] *= lower if np.uint32(row[column]) > np.uint32(0x8000) else upper
        if adds:
            for column in range(width):
                original_words[column] = np.uint32(row[column]) << np.uint32(16)
            for column in range(width):
                buffer[column] += original[column]
        for column in range(width):
            code, word = np.uint32(row[column]), words[column]
            limit = np.uint32(pattern + np.uint32(np.uint32(column) < np.uint32(split)))
            odd = np.uint32(np.uint32(word >> np.uint32(16)) & np.uint32(1))
            rounded = np.uint32(np.uint32(word + np.uint32(0x7FFF) + odd) >> np.uint32(16))
            is_moved = np.uint32(code & np.uint32(0x7FFF)) < limit
            target[column] = np.uint16(rounded if is_moved else code)


@njit(**_OPTIONS)
def find_moved(words, rows, limits, moved):
    """Mark in ``moved`` (uint8, shape of words) the values that the limits of a plan select."""
    pattern, cut_row, cut_column = limits
    width = words.shape[1]
    mask = _mask_of(words)
    for index in range(rows.size):
        row, target = words[rows[index]], moved[rows[index]]
        split = width if index < cut_row else (cut_column if index == cut_row else 0)
        limit = words.dtype.type(pattern)
        for column in range(split):
            target[column] = np.uint8((row[column] & mask) <= limit)
        for column in range(split, width):
            target[column] = np.uint8((row[column] & mask) < limit)
