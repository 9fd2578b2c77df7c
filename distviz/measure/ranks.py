"""The processes of a distributed training, joined over gloo whatever the training itself uses.

Only due steps exchange anything: each process sends what it has counted to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from distviz.errors import RequestError
from distviz.output import listed

_WAIT = timedelta(minutes=10)
_rounds = 0


@dataclass
class Ranks:
    """The rank of this process among those that train together; alone without torch.distributed.

    Attributes
    ----------
    rank, size
        Rank of this process, from 0, and the number of processes.
    """

    rank: int = 0
    size: int = 1
    _group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @staticmethod
    def are_several() -> bool:
        """Whether several processes train together."""
        from torch import distributed

        is_used = distributed.is_available() and distributed.is_initialized()
        return is_used and distributed.get_world_size() > 1

    @classmethod
    def join(cls) -> Ranks:
        """Return the ranks of ``torch.distributed``; every process has to call this.

        Raises
        ------
        RequestError
            If others do not call it within ten minutes; names their ranks.
        """
        from torch import distributed

        if not cls.are_several():
            return cls()
        rank, size = distributed.get_rank(), distributed.get_world_size()
        _wait_for_all(rank, size)
        return cls(rank, size, distributed.new_group(backend="gloo"))

    def share(self, value: Any) -> Any:
        """Return the value of the first process in every process; small plain data."""
        from torch import distributed

        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, 0, group=self._group)
        return values[0]

    def gather(self, data: bytes) -> Iterator[bytes]:
        """Yield the bytes of every process, by rank, in the first one; nothing in the others."""
        from torch import distributed

        if not self.is_first:
            distributed.send_object_list([data], 0, group=self._group)
            return
        yield data
        for rank in range(1, self.size):
            received: list[Any] = [None]
            distributed.recv_object_list(received, rank, group=self._group)
            yield received[0]

    def leave(self) -> None:
        """Release the connections."""
        from torch import distributed

        if self._group is not None and distributed.is_initialized():
            distributed.destroy_process_group(self._group)
        self._group = None


def _wait_for_all(rank: int, size: int) -> None:
    """Wait until every process is here: the creation of a group would wait without a message."""
    from torch.distributed import distributed_c10d

    global _rounds  # noqa: PLW0603
    _rounds += 1
    store = distributed_c10d._get_default_store()  # noqa: SLF001
    keys = [f"distviz/monitor/{_rounds}/{other}" for other in range(size)]
    store.set(keys[rank], "1")
    try:
        store.wait(keys, _WAIT)
    except RuntimeError:  # of the store, DistStoreError
        missing = [other for other, key in enumerate(keys) if not store.check([key])]
        raise RequestError(
            f"the Monitor waits for {listed('rank', ', '.join(map(str, missing)))} of {size}",
            "enter it in every process, not only in the first one",
        ) from None
