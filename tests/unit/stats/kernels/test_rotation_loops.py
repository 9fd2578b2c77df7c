"""The loop of the rotation."""

from __future__ import annotations

import numpy as np

from distviz.stats.kernels.rotation_loops import rotate_rows


def test_two_channels() -> None:
    rows = np.array([[3, 1, 5, 0]], np.float32)
    rotate_rows(rows, 2)
    np.testing.assert_allclose(rows, np.array([[4, 2, 5, 5]]) / np.sqrt(2), rtol=1e-7)
