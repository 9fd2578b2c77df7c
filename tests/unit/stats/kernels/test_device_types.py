"""Rows, and observations that add."""

from __future__ import annotations

import numpy as np
import torch

from distviz.stats.kernels.device_counts import count_on_device
from distviz.stats.kernels.device_types import CHUNK_VALUES, DeviceRows, Origin


def test_pieces_are_bounded() -> None:
    rows = DeviceRows(None, torch.zeros(10, dtype=torch.int64), 1)
    values = torch.zeros(10, CHUNK_VALUES // 4)
    assert [len(piece) for _, piece, _ in rows.pieces(values, None)] == [4, 4, 2]
    assert all(piece.data_ptr() >= values.data_ptr() for _, piece, _ in rows.pieces(values, None))


def test_slots_by_document_and_by_class() -> None:
    x = torch.arange(24.0).view(12, 2)
    slots = np.arange(12) % 6  # 3 documents of 2 classes
    rows = DeviceRows.of(np.arange(12), slots, 6, x.device)
    whole = count_on_device(x, rows, Origin(torch.zeros((), dtype=torch.float64), x[0].double()))
    documents = whole.grouped(2, inner=True)
    classes = whole.grouped(2, inner=False)
    assert documents.tables.sum(1).tolist() == [8, 8, 8]
    assert classes.tables.sum(1).tolist() == [12, 12]
    assert documents.high.tolist() == [15.0, 19.0, 23.0]
    assert classes.low.tolist() == [0.0, 2.0]
    pairs = zip(documents.powers[0].tolist(), [0, 1, 2], strict=True)
    assert all(total == float(x[slots // 2 == n].sum()) for total, n in pairs)
