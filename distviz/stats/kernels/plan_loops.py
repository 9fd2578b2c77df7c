"""The plan of a redistribution on a CPU, compiled by Numba.

Values come as their bit patterns, unsigned integers of 16, 32 or 64 bits. Without the sign these
are ordered as the magnitudes that they stand for. A *cell* holds the magnitudes whose patterns
differ in the last ``shift`` bits only; a *place* is an index into the occupied cells, ascending.
A plan counts all cells, bounds what it needs between cells, reads the values of the few cells that
matter (none if ``shift`` is 0), and selects among them. Every function releases the GIL.

``form`` describes a type: (shift, number of finite cells, bits of the mantissa, what is added to a
shifted pattern for that of a float64, pattern of the largest magnitude, smallest value above 0).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from distviz.stats.statistics import MAD_TO_SIGMA, SMALLEST_MAD

_OPTIONS = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_POSITIVE, _NEGATIVE, _BOTH = 0, 1, 2
_ONE = np.uint64(1)
_ABOUT = np.uint64(1 << 40)
"""A tolerance of bounds between which values are read: 2^-12 of them."""


@njit(**_OPTIONS)
def _values_of(patterns, form):
    """Return the values of magnitude patterns (uint64), exactly, float64."""
    _, _, mantissa, offset, _, least = form
    values = np.empty(patterns.size, np.float64)
    bits = values.view(np.uint64)
    for index in range(patterns.size):
        bits[index] = (patterns[index] << (np.uint64(52) - mantissa)) + offset
    for index in range(patterns.size):
        if patterns[index] >> mantissa == np.uint64(0):
            values[index] = np.float64(np.int64(patterns[index])) * least
    return values


@njit(**_OPTIONS)
def _occupied(tables, form):
    """Return the occupied cells, how many values stand before each place, and the cells' ends.

    The counts are int64 (3, places + 1): of positive values, of negative ones, and of both.
    """
    shift, finite = form[0], form[1]
    half = tables.shape[1] // 2
    cells = np.empty(finite, np.uint64)
    before = np.zeros((3, finite + 1), np.int64)
    filled = 0
    for cell in range(finite):
        above, below = np.int64(0), np.int64(0)
        for part in range(tables.shape[0]):
            above += np.int64(tables[part, cell])
            below += np.int64(tables[part, cell + half])
        if above + below:
            cells[filled] = cell
            before[_POSITIVE, filled + 1] = before[_POSITIVE, filled] + above
            before[_NEGATIVE, filled + 1] = before[_NEGATIVE, filled] + below
            before[_BOTH, filled + 1] = before[_BOTH, filled] + above + below
            filled += 1
    cells = cells[:filled]
    lows = _values_of(cells << shift, form)
    highs = lows
    if shift:
        highs = _values_of(((cells + _ONE) << shift) - _ONE, form)
    return cells, before[:, : filled + 1].copy(), lows, highs


@njit(**_OPTIONS)
def _place_of(before, rank):
    """Return the place of a rank, by the counts of one side."""
    return np.searchsorted(before, rank, side="right") - 1


@njit(**_OPTIONS)
def _span(left, left_point, right, right_point, distance):
    """Return the first place and the end of those within a distance of a point, on either side."""
    first, end = 0, left.size
    while first < end:
        middle = (first + end) // 2
        if left_point - left[middle] <= distance:
            end = middle
        else:
            first = middle + 1
    last, end = first, right.size
    while last < end:
        middle = (last + end) // 2
        if right[middle] - right_point <= distance:
            last = middle + 1
        else:
            end = middle
    return first, last


@njit(**_OPTIONS)
def _within(state, center, distance, is_certain):
    """Return the span of the cells whose values lie, or may lie, within a distance of a centre.

    The centre lies somewhere in ``center``, (low, high).
    """
    _, _, lows, highs = state
    low, high = center
    if is_certain:
        return _span(lows, high, highs, low, distance)
    return _span(highs, low, lows, high, distance)


@njit(**_OPTIONS)
def _narrowed(state, center, least, tolerance, is_certain):
    """Bracket the distance from a centre in (low, high) that holds the lower median of distances.

    By bisection of the patterns of float64 from ``least`` on, by the cells that are certain or
    possible within a distance; returns both ends.
    """
    counts = state[1][_BOTH]
    rank = (counts[-1] - 1) // 2
    ends = np.zeros(3, np.float64)
    bits = ends.view(np.uint64)
    ends[0], ends[1] = least, np.inf
    while bits[1] - bits[0] > tolerance:
        bits[2] = (bits[0] + bits[1]) >> _ONE
        first, last = _within(state, center, ends[2], is_certain)
        if counts[last] - counts[first] > rank:
            bits[1] = bits[2]
        else:
            bits[0] = bits[2] + _ONE
    return ends[0], ends[1]


@njit(**_OPTIONS)
def _eps(mad, c):
    return MAD_TO_SIGMA * max(mad, SMALLEST_MAD) * c


@njit(**_OPTIONS)
def _share(below, n, request):
    """Return the near-zero share, the fraction that moves, and how many values these are."""
    near = below / n
    fraction = min(max(near, request[2]), request[3])
    return near, fraction, max(1, int(np.rint(fraction * n)))


@njit(**_OPTIONS)
def _ends_of(before, request):
    """Return what the bounds need, and the weight of the second.

    int64 (3, 2), sides and ranks by magnitude: the values between which the percentile lies, and
    the smallest one (rank -1 where no value is negative).
    """
    n, negative = before[_BOTH, -1], before[_NEGATIVE, -1]
    place = request[1] * (n - 1)
    floor = min(int(place), n - 1)
    ends = np.empty((3, 2), np.int64)
    ends[2] = _NEGATIVE, negative - 1
    for index in range(2):
        rank = min(floor + index, n - 1)
        if request[4]:
            ends[index] = _BOTH, rank
        elif rank < negative:
            ends[index] = _NEGATIVE, negative - 1 - rank
        else:
            ends[index] = _POSITIVE, rank - negative
    return ends, place - floor


@njit(**_OPTIONS)
def bracket(tables, form, request):
    """Bound a plan by the counts of cells.

    ``tables`` is uint32 (parts of the rows, cells); ``request`` is (c, percentile / 100, smallest
    and largest fraction, whether the percentile is of the magnitudes). Returns the state of
    :func:`_occupied`; by cell (uint16), its place + 1 where its values must be known; how many
    these are in each part; and the places (int64[4]) of the outer and the inner end of what lies
    about as far from the centre as the MAD.
    """
    state = _occupied(tables, form)
    cells, before, lows, highs = state
    lot = np.zeros(tables.shape[1] // 2, np.uint16)
    sizes = np.zeros(tables.shape[0], np.int64)
    spans = np.zeros(4, np.int64)
    counts = before[_BOTH]
    n = counts[-1]
    if n == 0 or form[0] == 0:
        return state, lot, sizes, spans
    middle = _place_of(counts, (n - 1) // 2)
    center = (lows[middle], highs[middle])
    least, _ = _narrowed(state, center, 0.0, _ABOUT, False)
    _, most = _narrowed(state, center, least, _ABOUT, True)
    spans[0], spans[3] = _within(state, center, most, False)
    spans[1], spans[2] = _within(state, center, np.nextafter(least, -1.0), True)
    if spans[1] >= spans[2]:
        spans[1:3] = spans[3]
    first = np.searchsorted(highs, _eps(least, request[0]))
    end = np.searchsorted(lows, _eps(most, request[0]))
    ranges = np.empty((5, 2), np.int64)
    ranges[0] = middle, middle + 1
    ranges[1] = spans[:2]
    ranges[2] = spans[2:]
    ranges[3] = first, end
    ranges[4, 0] = _place_of(counts, _share(counts[first], n, request)[2] - 1)
    ranges[4, 1] = _place_of(counts, _share(counts[end], n, request)[2] - 1) + 1
    for index in range(5):
        for place in range(ranges[index, 0], ranges[index, 1]):
            lot[cells[place]] = place + 1
    ends, _ = _ends_of(before, request)
    for index in range(3):
        side, rank = ends[index]
        if rank >= 0:
            place = _place_of(before[side], rank)
            lot[cells[place]] = place + 1
    for part in range(sizes.size):
        for cell in cells:
            if lot[cell]:
                sizes[part] += tables[part, cell] + tables[part, cell + np.uint64(lot.size)]
    return state, lot, sizes, spans


@njit(**_OPTIONS)
def _arranged(found, state, lot, form):
    """Return the patterns in the order of their places, and where those of each place start."""
    cells, before = state[0], state[1]
    shift, mask = form[0], form[4]
    starts = np.zeros(cells.size + 1, np.int64)
    for place in range(cells.size):
        is_wanted = lot[cells[place]] != 0
        size = before[_BOTH, place + 1] - before[_BOTH, place] if is_wanted else 0
        starts[place + 1] = starts[place] + size
    free = starts.copy()
    arranged = np.empty(found.size, np.uint64)
    for index in range(found.size):
        place = np.int64(lot[(found[index] & mask) >> shift]) - 1
        arranged[free[place]] = found[index]
        free[place] += 1
    return arranged, starts


@njit(**_OPTIONS)
def _select(keys, rank):
    """Return the ``rank``-th smallest of some keys (uint64), which are overwritten.

    Counts the keys in 256 steps between the smallest and the largest, and continues with those of
    the step that holds the rank.
    """
    counts = np.empty(256, np.int64)
    size = keys.size
    while True:
        low = high = keys[0]
        for index in range(size):
            low, high = min(low, keys[index]), max(high, keys[index])
        if low == high:
            return low
        shift = np.uint64(0)
        while (high - low) >> shift > np.uint64(255):
            shift += _ONE
        counts[:] = 0
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


@njit(**_OPTIONS)
def _pick(side, rank, state, known, form):
    """Return the magnitude of a rank among positive values, negative ones, or both.

    As its pattern and as its value.
    """
    cells, before, lows, _ = state
    place = _place_of(before[side], rank)
    if form[0] == 0:
        return cells[place], lows[place]
    arranged, starts = known
    keys = np.empty(starts[place + 1] - starts[place], np.uint64)
    filled = 0
    for word in arranged[starts[place] : starts[place + 1]]:
        if side == _BOTH or (word > form[4]) == (side == _NEGATIVE):
            keys[filled] = word & form[4]
            filled += 1
    keys[0] = _select(keys[:filled], rank - before[side, place])
    return keys[0], _values_of(keys[:1], form)[0]


@njit(**_OPTIONS)
def _mad_of(center, spans, state, known, form):
    """Return the median distance from the centre, among the values between the spans."""
    counts = state[1][_BOTH]
    rank = (counts[-1] - 1) // 2
    if form[0] == 0:
        return _narrowed(state, (center, center), 0.0, np.uint64(0), True)[0]
    arranged, starts = known
    nearer = arranged[starts[spans[0]] : starts[spans[1]]]
    farther = arranged[starts[spans[2]] : starts[spans[3]]]
    distances = _values_of(np.concatenate((nearer, farther)) & form[4], form)
    for index in range(distances.size):
        distances[index] = abs(distances[index] - center)
    found = _select(distances.view(np.uint64), rank - (counts[spans[2]] - counts[spans[1]]))
    return np.full(1, found, np.uint64).view(np.float64)[0]


@njit(**_OPTIONS)
def _below(limit, state, known, form):
    """Return how many magnitudes are below a limit."""
    _, before, lows, highs = state
    place = np.searchsorted(highs, limit)
    total = before[_BOTH, place]
    if place < lows.size and lows[place] < limit:
        arranged, starts = known
        inside = _values_of(arranged[starts[place] : starts[place + 1]] & form[4], form)
        for value in inside:
            total += value < limit
    return total


@njit(**_OPTIONS)
def _ties_of(pattern, state, known, form):
    """Return how many magnitudes are below that of a pattern, and how many are equal to it."""
    cells, before = state[0], state[1]
    place = np.searchsorted(cells, pattern >> form[0])
    below, equal = before[_BOTH, place], 0
    if form[0] == 0:
        return below, before[_BOTH, place + 1] - below
    arranged, starts = known
    for word in arranged[starts[place] : starts[place + 1]]:
        below += (word & form[4]) < pattern
        equal += (word & form[4]) == pattern
    return below, equal


@njit(**_OPTIONS)
def _bounds_of(state, known, form, request):
    """Return the bounds of the new values: the percentile, at least 0, and the smallest value."""
    ends, weight = _ends_of(state[1], request)
    values = np.zeros(3, np.float64)
    for index in range(3):
        side, rank = ends[index]
        if rank >= 0:
            _, value = _pick(side, rank, state, known, form)
            values[index] = 0.0 - value if side == _NEGATIVE else value
    low, high, lower = values
    upper = low + (high - low) * weight  # as numpy.percentile, from the nearer end
    if weight >= 0.5:
        upper = high - (high - low) * (1 - weight)
    return upper if upper > 0 else 0.0, lower


@njit(**_OPTIONS)
def complete(bracketed, found, form, request):
    """Return the plan, by what :func:`bracket` returns and the patterns of the cells in its lot.

    These are n, center, mad, eps, near, fraction, k, upper, lower, magnitude, ties, ties_in_all,
    and the pattern of the magnitude. Without a finite value all are 0.
    """
    state, lot, _, spans = bracketed
    counts = state[1][_BOTH]
    n = counts[-1]
    if n == 0:
        return 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0, 0, np.uint64(0)
    known = _arranged(found, state, lot, form)
    _, center = _pick(_BOTH, (n - 1) // 2, state, known, form)
    mad = _mad_of(center, spans, state, known, form)
    eps = _eps(mad, request[0])
    near, fraction, k = _share(_below(eps, state, known, form), n, request)
    upper, lower = _bounds_of(state, known, form, request)
    pattern, magnitude = _pick(_BOTH, k - 1, state, known, form)
    below, equal = _ties_of(pattern, state, known, form)
    ties = k - below
    return n, center, mad, eps, near, fraction, k, upper, lower, magnitude, ties, equal, pattern
