"""Documents on a device: the bands of one phase serve the next, and tables widen in time."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch

from distviz.hooks.device_documents import DeviceDocuments, DevicePart
from distviz.sites import SiteKey

BEFORE = SiteKey(0, "", "act", "before", "m")
AFTER = BEFORE._replace(phase="after")


def part_of(values: torch.Tensor, most: int = 100) -> DevicePart:
    codes = values.bfloat16().view(torch.int16).long() & 0xFFFF
    table = torch.bincount(codes, minlength=1 << 16).int()
    return DevicePart(table, torch.zeros(0), torch.zeros(()), most, "bf16", is_rounded=False)


def test_tables_widen_before_they_overflow() -> None:
    part = part_of(torch.ones(3), (1 << 31) - 200)
    assert (part + part_of(torch.ones(3))).table.dtype == torch.int32
    total = part + part_of(torch.ones(3), 300)
    assert total.table.dtype == torch.int64
    assert total.table.sum() == 6
    most = torch.zeros(1 << 16, dtype=torch.int32)
    most[5] = (1 << 31) - 1
    high = DevicePart(most, part.powers, part.center, (1 << 31) - 1, "bf16", is_rounded=False)
    assert int((high + high).table[5]) == (1 << 32) - 2


@pytest.mark.parametrize("known", [math.nan, 0.5])
def test_bands_of_the_phase_before(known: float) -> None:
    documents = DeviceDocuments(0.3, {(2, AFTER._replace(phase="")): known})
    x = torch.linspace(-2, 2, 41)
    documents.add(AFTER, 1, part_of(x), is_whole=True)
    documents.add(BEFORE, 1, part_of(x), is_whole=True)  # described first, all the same
    documents.add(AFTER, 2, part_of(x), is_whole=False)
    documents.close(2)
    documents.describe()
    pairs = (zip(places, found[0], strict=True) for places, found in documents.rows)
    rows = dict(chain.from_iterable(pairs))
    assert rows[1, BEFORE][3] == rows[1, AFTER][3] > 0
    eps = float(rows[2, AFTER][3])
    assert eps == known or (math.isnan(eps) and math.isnan(known))
    documents.forget([1])
    assert not documents.bands
