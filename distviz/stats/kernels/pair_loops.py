"""The loop that compares two tensors element by element on a CPU, compiled by Numba.

Everything is summed in float64. It releases the GIL and works on the rows that it is handed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_OPTIONS = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_OPTIONS |= {"no_cfunc_wrapper": True}  # nothing calls them from C
_INNER = _OPTIONS | {"no_cpython_wrapper": True}  # called by compiled code alone


@njit(fastmath={"reassoc", "nsz"}, **_INNER)
def _sum_row(x, y):
    """Return the sums of d^2, x^2, y^2, x*y and |d|, with d = y - x."""
    error, first, second, product, absolute = 0.0, 0.0, 0.0, 0.0, 0.0
    for column in range(x.size):
        a, b = np.float64(x[column]), np.float64(y[column])
        d = b - a
        error += d * d
        first += a * a
        second += b * b
        product += a * b
        absolute += abs(d)
    return error, first, second, product, absolute


@njit(**_INNER)
def _add_channels(x, y, errors, squares, tops):
    """Add d^2 and x^2 of finite values to each channel, and keep its largest |d|."""
    for column in range(x.size):
        a = np.float64(x[column])
        d = np.float64(y[column]) - a
        size = abs(d)
        errors[column] += d * d
        squares[column] += a * a
        tops[column] = max(tops[column], size)


@njit(**_INNER)
def _first_of(x, y, tops, most):
    """Return row and channel of the first |y - x| that is ``most``, by rows."""
    found, channel = x.shape[0], -1
    for column in range(x.shape[1]):
        if tops[column] != most:
            continue
        for index in range(found):
            if abs(np.float64(y[index, column]) - np.float64(x[index, column])) == most:
                found, channel = index, column
                break
    return found, channel


@njit(**_OPTIONS)
def compare_rows(x, y, sums, counts, errors, squares, best):
    """Compare rows; pairs with a value that is not finite are left out.

    ``x`` and ``y`` are float32 or float64 (rows, channels). ``sums`` float64 (rows, 5) receives the
    sums of d^2, x^2, y^2, x*y and |d| with d = y - x, ``counts`` int64 (rows,) the number of pairs;
    the sums of d^2 and x^2 of each channel are added to ``errors`` and ``squares``.

    Returns the largest |d| that exceeds ``best`` with its row and channel, or row -1.
    """
    width = x.shape[1]
    tops = np.zeros(width)
    for index in range(x.shape[0]):
        one, other = x[index], y[index]
        error, first, second, product, absolute = _sum_row(one, other)
        count = width
        if np.isfinite(error + first + second):
            _add_channels(one, other, errors, squares, tops)
        else:
            error, first, second, product, absolute = 0.0, 0.0, 0.0, 0.0, 0.0
            count = 0
            for column in range(width):
                a, b = np.float64(one[column]), np.float64(other[column])
                if not (np.isfinite(a) and np.isfinite(b)):
                    continue
                d = b - a
                count += 1
                error += d * d
                first += a * a
                second += b * b
                product += a * b
                absolute += abs(d)
                errors[column] += d * d
                squares[column] += a * a
                tops[column] = max(tops[column], abs(d))
        sums[index, 0], sums[index, 1], sums[index, 2] = error, first, second
        sums[index, 3], sums[index, 4], counts[index] = product, absolute, count
    most = 0.0
    for column in range(width):
        most = max(most, tops[column])
    if most <= best:
        return best, -1, -1
    return (most, *_first_of(x, y, tops, most))
