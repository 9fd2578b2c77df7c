"""Sums by document against float64 sums of the same positions, and checkpoints of them."""

from __future__ import annotations

import numpy as np
import torch

from distviz.measure.document_effects import DocumentEffects


def test_sums_by_document() -> None:
    generator = np.random.default_rng(0)
    found = DocumentEffects()
    expected: dict[int, list[np.ndarray]] = {}
    for _ in range(3):
        found.owners = generator.integers(0, 3, 4)
        rows = generator.integers(0, 4, 50)
        values = generator.normal(size=(4, 50)).astype(np.float32)
        found.add(torch.from_numpy(rows), [torch.from_numpy(one) for one in values])
        for row, position in zip(rows, values.T.astype(float), strict=True):
            expected.setdefault(int(found.owners[row]), []).append(position)
    documents = sorted(expected)
    table = found.table(documents)
    for document, sums in zip(documents, table, strict=True):
        assert sums[0] == len(expected[document])
        np.testing.assert_allclose(sums[1:], np.sum(expected[document], axis=0), rtol=1e-12)
    again = DocumentEffects.from_state(found.state())
    np.testing.assert_array_equal(again.table(documents), table)
    assert found.table([99]).tolist() == [[0.0] * 5]
