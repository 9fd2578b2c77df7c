"""The loop that multiplies rows by a Hadamard matrix on a CPU, compiled by Numba."""

from __future__ import annotations

import numpy as np
from numba import njit

_OPTIONS = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}


@njit(**_OPTIONS)
def rotate_rows(rows, block):
    """Rotate blocks of float32 (rows, channels) in place, in steps of 1, 2, 4, ... channels."""
    factor = np.float32(1.0 / np.sqrt(np.float64(block)))
    for index in range(rows.shape[0]):
        row = rows[index]
        half = 1
        while half < block:
            for start in range(0, row.size, 2 * half):
                for column in range(start, start + half):
                    first, second = row[column], row[column + half]
                    row[column] = first + second
                    row[column + half] = first - second
            half *= 2
        for column in range(row.size):
            row[column] *= factor
