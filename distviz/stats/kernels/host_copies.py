"""Numbers on their way between host and device, for which the host does not wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = list[NDArray[Any]]
Then = Callable[[Arrays], None]


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy an array to a device; from pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


@dataclass
class _Sent:
    """Copies on the host, which are complete when the event has happened."""

    copies: list[torch.Tensor]
    event: Any
    then: Then

    @classmethod
    def of(cls, tensors: Sequence[torch.Tensor], then: Then) -> _Sent:
        copies, event = [], None
        for tensor in tensors:
            is_cuda = tensor.device.type == "cuda"
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=is_cuda)
            copies.append(copy.copy_(tensor, non_blocking=True))
        if any(tensor.device.type == "cuda" for tensor in tensors):
            event = torch.cuda.current_stream(tensors[0].device).record_event()
        return cls(copies, event, then)

    def deliver(self) -> None:
        self.then([copy.numpy() for copy in self.copies])


@dataclass
class HostCopies:
    """Results that the host takes when they have arrived, in the order in which they were put."""

    _sent: deque[_Sent] = field(default_factory=deque)

    def put(self, tensors: Sequence[torch.Tensor], then: Then) -> None:
        """Start to copy tensors of one device to the host; ``then`` gets them as arrays."""
        self._sent.append(_Sent.of(tensors, then))

    def collect(self) -> None:
        """Take what has arrived, without waiting."""
        while self._sent and (self._sent[0].event is None or self._sent[0].event.query()):
            self._sent.popleft().deliver()

    def flush(self) -> None:
        """Take everything, waiting for it."""
        while self._sent:
            one = self._sent.popleft()
            if one.event is not None:
                one.event.synchronize()
            one.deliver()


def to_host(tensors: Sequence[torch.Tensor]) -> Arrays:
    """Copy tensors to the host in one transfer for each device, and wait for it."""
    found: dict[int, NDArray[Any]] = {}
    copies = HostCopies()
    for device in dict.fromkeys(tensor.device for tensor in tensors):
        numbers = [n for n, tensor in enumerate(tensors) if tensor.device == device]

        def take(arrays: Arrays, numbers: list[int] = numbers) -> None:
            found.update(zip(numbers, arrays, strict=True))

        copies.put([tensors[n] for n in numbers], take)
    copies.flush()
    return [found[n] for n in range(len(tensors))]
