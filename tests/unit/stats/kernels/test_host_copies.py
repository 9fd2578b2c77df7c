"""Results arrive in order, and whoever flushes has all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from support.pretended_device import DEVICE, Pretended, pretended, strictly

from distviz.stats.kernels.host_copies import HostCopies, to_device, to_host


class Event:
    """An event of a device that has not happened yet."""

    happened = False

    def query(self) -> bool:
        return self.happened

    def synchronize(self) -> None:
        self.happened = True


def test_in_order_and_without_waiting() -> None:
    copies, seen = HostCopies(), list[Any]()
    for number in range(3):
        copies.put([torch.full((2,), number)], lambda arrays: seen.append(arrays[0].tolist()))
    late = Event()
    copies._sent[1].event = late  # type: ignore[assignment]
    copies.collect()
    assert seen == [[0, 0]]
    assert not late.happened
    copies.flush()
    assert seen == [[0, 0], [1, 1], [2, 2]]
    assert late.happened
    copies.flush()
    assert len(seen) == 3


def test_there_and_back() -> None:
    array = np.arange(12).reshape(3, 4)[:, ::2]
    with pretended() as device, strictly(device):
        there = to_device(array, DEVICE)
        assert isinstance(there, Pretended)
        back, here = to_host([there, torch.ones(2)])
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(here, np.ones(2))
    assert device.sent == [(3, 2)]
