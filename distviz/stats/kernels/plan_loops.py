"""The plan of a redistribution on a CPU, compiled by Numba.

Values come as their bit patterns, unsigned integers of 16, 32 or 64 bits. Without the sign these
are ordered as the magnitudes that they stand for. A *cell* holds the magnitudes whose patterns
differ in the last ``shift`` bits only; a *place* is an index into the occupied cells, ascending.
A plan counts all cells, bounds what it needs between cells, reads the values of the few cells that
matter (none if ``shift`` is 0), and selects among them. Every function releases the GIL.

``form`` describes a type: (shift, number of finite cells, bits of the mantissa, mask of the
magnitude, and the value of the last bit of the mantissa by exponent, float64). ``request`` is
:class:`distviz.stats.kernels.Request`.

The *state* of a plan is one array, float64 (7, places + 1): by place, how many positive values,
negative ones and both stand before it, the ends of its cell, its cell, and where its values start
among those that were read. One array, and loops instead of expressions and searches of NumPy,
compile in a fraction of the time; so do constants that are no literals.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from distviz.stats.kernels.sequence_loops import count_cells, gather_words
from distviz.stats.statistics import MAD_TO_SIGMA, SMALLEST_MAD

_OPTIONS = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_OPTIONS |= {"no_cfunc_wrapper": True}  # nothing calls them from C
_INNER = _OPTIONS | {"no_cpython_wrapper": True}  # called by compiled code alone
_POSITIVE, _NEGATIVE, _BOTH, _LOW, _HIGH, _CELL, _START = np.arange(7)
_NO, _YES = np.zeros(1, bool)[0], np.ones(1, bool)[0]
_BLOCK = 16
_ONE = np.uint64(1)
_EXACT = np.uint64(0)
_ABOUT = np.uint64(1 << 40)
"""Tolerance of bounds between which values are read: 2^-12 of them."""


@njit(**_INNER)
def _value_of(pattern, form):
    """Return the value of a magnitude pattern, exactly."""
    exponent = pattern >> form[2]
    digits = pattern - (exponent << form[2])
    if exponent:
        digits += _ONE << form[2]
    return np.float64(np.int64(digits)) * form[4][exponent]


@njit(**_INNER)
def _state_of(table, form):
    """Return the state by the counts of cells; no values are read yet."""
    shift, finite, half = form[0], form[1], table.size // 2
    cells = np.empty(finite, np.int64)
    filled = 0
    for start in range(0, finite, _BLOCK):
        end = min(start + _BLOCK, finite)
        seen = np.int64(0)
        for cell in range(start, end):
            seen |= table[cell] | table[half + cell]
        if seen == 0:
            continue
        for cell in range(start, end):
            cells[filled] = cell
            filled += np.int64(table[cell] + table[half + cell] != 0)
    state = np.empty((7, filled + 1), np.float64)
    above, below = np.int64(0), np.int64(0)
    for place in range(filled + 1):
        state[_POSITIVE, place], state[_NEGATIVE, place] = above, below
        state[_BOTH, place] = above + below
        state[_LOW, place] = state[_HIGH, place] = np.inf
        state[_START, place] = 0.0
        if place < filled:
            cell = cells[place]
            pattern = np.uint64(cell) << shift
            state[_CELL, place] = cell
            state[_LOW, place] = _value_of(pattern, form)
            state[_HIGH, place] = _value_of(pattern + (_ONE << shift) - _ONE, form)
            above += table[cell]
            below += table[half + cell]
    return state


@njit(**_INNER)
def _first(row, limit, state):
    """Return the first place whose entry in a row is at least a limit, float64."""
    first, end = 0, state.shape[1]
    while first < end:
        middle = (first + end) // 2
        if state[row, middle] >= limit:
            end = middle
        else:
            first = middle + 1
    return first


@njit(**_INNER)
def _within(distance, low, high, is_certain, state):
    """Return the first place and the end of the cells within a distance of a centre.

    Of those all of whose values are certain to be, or of those whose values may be. The centre lies
    somewhere from ``low`` to ``high``.
    """
    left, right = (_LOW, _HIGH) if is_certain else (_HIGH, _LOW)
    from_left, from_right = (high, low) if is_certain else (low, high)
    first, end = 0, state.shape[1] - 1
    while first < end:
        middle = (first + end) // 2
        if from_left - state[left, middle] <= distance:
            end = middle
        else:
            first = middle + 1
    last, end = first, state.shape[1] - 1
    while last < end:
        middle = (last + end) // 2
        if state[right, middle] - from_right <= distance:
            last = middle + 1
        else:
            end = middle
    return first, last


@njit(**_INNER)
def _narrowed(least, tolerance, low, high, is_certain, state):
    """Bracket the lower median of the distances from a centre, by what :func:`_within` counts.

    Bisects the patterns of float64 from ``least`` on. Returns both ends, and what comes before the
    first (-1 before 0).
    """
    rank = (np.int64(state[_BOTH, state.shape[1] - 1]) - 1) // 2
    ends = np.empty(3, np.float64)
    bits = ends.view(np.uint64)
    ends[0], ends[1] = least, np.inf
    while bits[1] - bits[0] > tolerance:
        bits[2] = (bits[0] + bits[1]) >> _ONE
        first, last = _within(ends[2], low, high, is_certain, state)
        if state[_BOTH, last] - state[_BOTH, first] > rank:
            bits[1] = bits[2]
        else:
            bits[0] = bits[2] + _ONE
    bits[2] = bits[0] - _ONE
    return ends[0], ends[1], ends[2] if ends[0] > 0 else -1.0


@njit(**_INNER)
def _eps(mad, request):
    return MAD_TO_SIGMA * max(mad, SMALLEST_MAD) * request[0]


@njit(**_INNER)
def _share(below, n, request):
    """Return the near-zero share, the fraction that moves, and how many values these are."""
    near = below / n
    fraction = min(max(near, request[2]), request[3])
    return near, fraction, max(1, np.int64(np.rint(fraction * n)))


@njit(**_INNER)
def _asked(number, request, state):
    """Return the side and the rank there of a value that the bounds need.

    0 and 1 are those between which the percentile lies, 2 the smallest negative one (rank -1 if
    there is none); negative values are ranked by their magnitude.
    """
    end = state.shape[1] - 1
    n, negative = np.int64(state[_BOTH, end]), np.int64(state[_NEGATIVE, end])
    rank = min(np.int64(request[1] * (n - 1)) + number, n - 1)
    if number == 2:
        return _NEGATIVE, negative - 1
    if request[4]:
        return _BOTH, rank
    if rank < negative:
        return _NEGATIVE, negative - 1 - rank
    return _POSITIVE, rank - negative


@njit(**_INNER)
def _want(first, end, state, lot):
    for place in range(first, end):
        lot[np.int64(state[_CELL, place])] = place + 1


@njit(**_OPTIONS)
def bracket(table, form, request):
    """Bound a plan by the counts of cells, int64.

    Returns the state; by cell (uint16), its place + 1 where its values must be known; how many
    these are; and the ends of the places that lie about as far from the centre as the MAD, on its
    left and its right.
    """
    state = _state_of(table, form)
    lot = np.zeros(table.size // 2, np.uint16)
    places = state.shape[1] - 1
    n = np.int64(state[_BOTH, places])
    if n == 0 or form[0] == 0:
        return state, lot, 0, (0, 0, 0, 0)
    middle = _first(_BOTH, (n - 1) // 2 + 0.5, state) - 1
    low, high = state[_LOW, middle], state[_HIGH, middle]
    least, _, nearer = _narrowed(0.0, _ABOUT, low, high, _NO, state)
    _, most, _ = _narrowed(least, _ABOUT, low, high, _YES, state)
    first, end = _within(most, low, high, _NO, state)
    left, right = _within(nearer, low, high, _YES, state)
    if left >= right:
        left, right = end, end
    _want(middle, middle + 1, state, lot)
    _want(first, left, state, lot)
    _want(right, end, state, lot)
    smaller = _first(_HIGH, _eps(least, request), state)
    larger = _first(_LOW, _eps(most, request), state)
    _want(smaller, larger, state, lot)
    fewest = _share(state[_BOTH, smaller], n, request)[2]
    largest = _share(state[_BOTH, larger], n, request)[2]
    smaller = _first(_BOTH, fewest - 0.5, state) - 1
    _want(smaller, _first(_BOTH, largest - 0.5, state), state, lot)
    for number in range(3):
        side, rank = _asked(number, request, state)
        if rank >= 0:
            end_of_rank = _first(side, rank + 0.5, state)
            _want(end_of_rank - 1, end_of_rank, state, lot)
    size = np.int64(0)
    for place in range(places):
        state[_START, place] = size
        if lot[np.int64(state[_CELL, place])]:
            size += np.int64(state[_BOTH, place + 1] - state[_BOTH, place])
    state[_START, places] = size
    return state, lot, size, (first, left, right, end)


@njit(**_INNER)
def _arranged(found, size, state, lot, form):
    """Return the values of the first patterns in the order of their places."""
    shift, mask = form[0], form[3]
    free = np.empty(state.shape[1], np.int64)
    for place in range(free.size):
        free[place] = np.int64(state[_START, place])
    values = np.empty(size, np.float64)
    for index in range(size):
        pattern = found[index] & mask
        place = np.int64(lot[pattern >> shift]) - 1
        value = _value_of(pattern, form)
        values[free[place]] = -value if found[index] > mask else value
        free[place] += 1
    return values


@njit(**_INNER)
def _select(values, size, rank):
    """Return the ``rank``-th smallest of the first values, float64 from 0; they are overwritten.

    Counts their patterns in 256 steps between the smallest and the largest, and continues with
    those of the step that holds the rank.
    """
    keys = values.view(np.uint64)
    counts = np.empty(256, np.int64)
    while True:
        low = high = keys[0]
        for index in range(size):
            low, high = min(low, keys[index]), max(high, keys[index])
        if low == high:
            return values[0]
        shift = np.uint64(0)
        while (high - low) >> shift > np.uint64(255):
            shift += _ONE
        for step in range(256):
            counts[step] = 0
        for index in range(size):
            counts[(keys[index] - low) >> shift] += 1
        step = 0
        while rank >= counts[step]:
            rank -= counts[step]
            step += 1
        kept = 0
        for index in range(size):
            key = keys[index]
            keys[kept] = key
            kept += np.int64((key - low) >> shift == np.uint64(step))
        size = kept


@njit(**_INNER)
def _pick(side, rank, state, values):
    """Return the magnitude of a rank among positive values, negative ones, or both."""
    place = _first(side, rank + 0.5, state) - 1
    if state[_LOW, place] == state[_HIGH, place]:
        return state[_LOW, place]
    start, end = np.int64(state[_START, place]), np.int64(state[_START, place + 1])
    keys = np.empty(end - start, np.float64)
    filled = np.int64(0)
    for index in range(start, end):
        value = values[index]
        keys[filled] = abs(value)
        filled += np.int64(side == _BOTH or (math.copysign(1.0, value) < 0) == (side == _NEGATIVE))
    return _select(keys, filled, rank - np.int64(state[side, place]))


@njit(**_INNER)
def _mad_of(center, spans, state, values):
    """Return the lower median of the distances from the centre."""
    if spans[0] == spans[3]:
        return _narrowed(0.0, _EXACT, center, center, _YES, state)[0]
    first, left = np.int64(state[_START, spans[0]]), np.int64(state[_START, spans[1]])
    right, end = np.int64(state[_START, spans[2]]), np.int64(state[_START, spans[3]])
    distances = np.empty(left - first + end - right, np.float64)
    for index in range(distances.size):
        source = first + index if first + index < left else right + index - (left - first)
        distances[index] = abs(abs(values[source]) - center)
    rank = (np.int64(state[_BOTH, state.shape[1] - 1]) - 1) // 2
    inside = np.int64(state[_BOTH, spans[2]] - state[_BOTH, spans[1]])
    return _select(distances, distances.size, rank - inside)


@njit(**_INNER)
def _below(limit, state, values):
    """Return how many magnitudes are below a limit, and how many are equal to it."""
    place = _first(_HIGH, limit, state)
    below, equal = np.int64(state[_BOTH, place]), np.int64(0)
    if state[_LOW, place] == state[_HIGH, place]:
        if state[_LOW, place] == limit:
            equal = np.int64(state[_BOTH, place + 1]) - below
        return below, equal
    for index in range(np.int64(state[_START, place]), np.int64(state[_START, place + 1])):
        below += np.int64(abs(values[index]) < limit)
        equal += np.int64(abs(values[index]) == limit)
    return below, equal


@njit(**_OPTIONS)
def complete(bracketed, found, form, request):
    """Return the plan, by what :func:`bracket` returns and the patterns of the cells in its lot.

    The patterns are uint64, one more than there are. Returns n, center, mad, eps, near, fraction,
    k, upper, lower, magnitude, ties and ties_in_all. Without a finite value all are 0.
    """
    state, lot, size, spans = bracketed
    n = np.int64(state[_BOTH, state.shape[1] - 1])
    if n == 0:
        return 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0, 0
    values = _arranged(found, size, state, lot, form)
    center = _pick(_BOTH, (n - 1) // 2, state, values)
    mad = _mad_of(center, spans, state, values)
    eps = _eps(mad, request)
    near, fraction, k = _share(np.float64(_below(eps, state, values)[0]), n, request)
    magnitude = _pick(_BOTH, k - 1, state, values)
    below, equal = _below(magnitude, state, values)
    low, high, lower = 0.0, 0.0, 0.0
    for number in range(3):
        side, rank = _asked(number, request, state)
        value = _pick(side, rank, state, values) if rank >= 0 else 0.0
        low, high, lower = high, lower, 0.0 - value if side == _NEGATIVE else value
    weight = request[1] * (n - 1) - np.int64(request[1] * (n - 1))
    upper = low + (high - low) * weight  # as numpy.percentile, from the nearer end
    if weight >= 0.5:
        upper = high - (high - low) * (1 - weight)
    upper = upper if upper > 0 else 0.0
    return n, center, mad, eps, near, fraction, k, upper, lower, magnitude, k - below, equal


@njit(**_OPTIONS)
def plan_rows(words, rows, form, request):
    """Return the plan of some rows, as :func:`complete` does, in one call on one thread."""
    table = np.zeros(2 * np.int64(form[3] >> form[0]) + 2, np.int64)
    count_cells(words, rows, form, table)
    bracketed = bracket(table, form, request)
    found = np.empty(bracketed[2] + 1, np.uint64)
    if bracketed[2]:
        gather_words(words, rows, form, bracketed[1], found)
    return complete(bracketed, found, form, request)
