"""Processes started by ``torchrun`` or ``accelerate launch``, joined over torch.distributed.

Small things are exchanged through the launcher's store, portions over gloo: they lie in the memory
of the host whatever the device, so NCCL would only copy them there and back.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from distviz.errors import MeasurementError, first_line
from distviz.measure.wires import FirstEnd, OtherEnd
from distviz.measure.world import World, agree
from distviz.progress import ForwardedProgress, Progress

__all__ = ["LaunchedWorld", "join"]

_JOINING = timedelta(minutes=5)
_LONG = timedelta(days=30)
_POLLING = 0.05


@dataclass
class LaunchedWorld(World):
    """One of several processes.

    Attributes
    ----------
    store
        The launcher's, reached by all.
    wire
        To the first process, or from it to all others.
    """

    store: Any = None
    wire: FirstEnd | OtherEnd | None = None
    _rounds: dict[str, int] = field(default_factory=dict)

    def exchange(self, name: str, value: Any) -> list[Any]:
        """Return what every process gave under this name, by rank; plain data, small."""
        number = self._rounds[name] = self._rounds.get(name, -1) + 1
        keys = [f"distviz/{name}/{number}/{rank}" for rank in range(self.size)]
        self.store.set(keys[self.rank], json.dumps(value))
        while not self.store.check(keys):  # not get(): it cannot be interrupted
            time.sleep(_POLLING)
        return [json.loads(self.store.get(key)) for key in keys]

    def broadcast(self, data: bytes) -> Iterator[bytes]:
        """Yield what every process gave, by rank; each has to take all."""
        import torch
        from torch import distributed
        from torch.distributed.distributed_c10d import PrefixStore

        sizes = self.exchange("bytes", len(data))  # all are there before any waits inside gloo
        if not distributed.is_initialized():
            prefixed = PrefixStore("distviz/group", self.store)
            distributed.init_process_group(
                "gloo", store=prefixed, rank=self.rank, world_size=self.size, timeout=_LONG
            )
        for rank, size in enumerate(sizes):
            if rank == self.rank:
                distributed.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), rank)
                yield data
                continue
            buffer = bytearray(size)
            distributed.broadcast(torch.frombuffer(buffer, dtype=torch.uint8), rank)
            yield bytes(buffer)

    def progress(self, bar: Progress) -> Progress:
        """Return what to tell progress to: the bar of the process that prints."""
        if isinstance(self.wire, OtherEnd):
            return ForwardedProgress(self.wire.advance)
        if self.wire is not None:
            self.wire.progress = bar
        return bar

    def fail(self, message: str, hint: str, code: int) -> None:
        """Say why this process cannot go on, once among all processes, and end the others."""
        if isinstance(self.wire, OtherEnd):
            self.wire.fail(message, hint, code)
        elif self.wire is not None:
            self.wire.say(message, hint, code)

    def finish(self) -> None:
        """Wait until the result is written; the first process says so."""
        if self.wire is not None:
            self.wire.finish()


def join(command: str) -> LaunchedWorld:
    """Join the processes that were started together, for a command of distviz.

    Raises
    ------
    MeasurementError
        If they do not find each other.
    RequestError
        If they were started for different commands.
    """
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=_JOINING)))
    except (ValueError, RuntimeError) as error:
        raise MeasurementError(
            f"the processes do not find each other: {first_line(error)}"
        ) from error
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    world = LaunchedWorld(rank, size, local_rank, store=store)
    seconds = _JOINING.total_seconds()

    def hint() -> str:  # world.hint is not known yet
        return world.hint()

    if rank == 0:
        first = FirstEnd(size, uuid.uuid4().hex, hint=hint)
        world.wire = first
        store.set("distviz/wire", json.dumps([first.listen(), first.key]))
        first.accept(seconds)
    else:
        store.wait(["distviz/wire"], _JOINING)
        port, key = json.loads(store.get("distviz/wire"))
        other = OtherEnd(rank, size, key)
        other.connect(os.environ["MASTER_ADDR"], port, seconds)
        world.wire = other
    _mind_the_launcher(world)
    agree(world, "command", {"command": command})
    return world


def _mind_the_launcher(world: World) -> None:
    """When the launcher ends this process since another has died, leave time to say which."""

    def ended(*_: Any) -> None:
        threading.Thread(target=say_late, daemon=True).start()

    def say_late() -> None:
        time.sleep(2)
        world.fail("stopped from outside (SIGTERM)", world.hint(), 143)
        os._exit(143)

    signal.signal(signal.SIGTERM, ended)
