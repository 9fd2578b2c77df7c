"""Processes started by ``torchrun`` or ``accelerate launch``, joined over torch.distributed.

Small values, progress and failures go through the store of the launcher. Partial results go over
gloo: they are in host memory whatever the device, so NCCL would only copy them there and back.
The launcher ends the other processes when one fails.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from distviz.errors import MeasurementError, first_line
from distviz.measure.world import World, agree, has_launcher
from distviz.output import print_error
from distviz.progress import Progress, SharedProgress

_JOIN_TIMEOUT = timedelta(minutes=5)
_TIMEOUT = timedelta(minutes=30)
"""Time without progress in any process after which the missing ones are reported as lost."""
_POLL_SECONDS = 0.05
_NOTE_SECONDS = 10.0
"""Time to join after which the first process says for which it waits."""
_GRACE_SECONDS = 1.0
"""Time that the first process has to report an error that all processes find."""
_INTERRUPTED = (130, 143, 129)
_FAILED = "distviz/failed"


@dataclass
class LaunchedWorld(World):
    """One of several processes.

    Attributes
    ----------
    store
        The store of the launcher, which all processes reach.
    bar
        Shows the tokens of all processes, in the first; silent in the others.
    """

    store: Any = None
    bar: Progress = field(default_factory=Progress)
    _rounds: dict[str, int] = field(default_factory=dict)
    _shown: int = 0

    def exchange(self, name: str, value: Any) -> list[Any]:
        """Return the value of every process, by rank; small plain data.

        Raises
        ------
        MeasurementError
            If processes are missing and none makes progress; names the missing ranks.
        """
        number = self._rounds[name] = self._rounds.get(name, -1) + 1
        keys = [f"distviz/{name}/{number}/{rank}" for rank in range(self.size)]
        with _reachable():
            self.store.set(keys[self.rank], json.dumps(value))
            tokens, moved = self.count(0), time.monotonic()
            while not self.store.check(keys):  # not get(): it cannot be interrupted
                time.sleep(_POLL_SECONDS)
                before, tokens = tokens, self.count(0)
                moved = time.monotonic() if tokens != before else moved
                if time.monotonic() - moved > _TIMEOUT.total_seconds():
                    missing = [r for r, key in enumerate(keys) if not self.store.check([key])]
                    raise MeasurementError(
                        f"no response from rank {', '.join(map(str, missing))} of {self.size} "
                        f"for {_TIMEOUT.total_seconds():.0f} s",
                        "look for messages of those processes",
                    )
            return [json.loads(self.store.get(key)) for key in keys]

    def count(self, tokens: int) -> int:
        """Add measured tokens of this process and return those of all; end if another failed."""
        with _reachable():
            if self.store.check([_FAILED]):
                raise SystemExit(int(self.store.get(_FAILED)))
            total = int(self.store.add("distviz/tokens", tokens))
        self.bar.advance(total - self._shown)
        self._shown = total
        return total

    def broadcast(self, data: bytes) -> Iterator[bytes]:
        """Yield the bytes of every process, by rank; each process has to consume all."""
        import torch
        from torch import distributed
        from torch.distributed.distributed_c10d import PrefixStore

        sizes = self.exchange("bytes", len(data))  # all are present before any waits inside gloo
        if not distributed.is_initialized():
            prefixed = PrefixStore("distviz/group", self.store)
            distributed.init_process_group(
                "gloo", store=prefixed, rank=self.rank, world_size=self.size, timeout=_TIMEOUT
            )
        for rank, size in enumerate(sizes):
            buffer = bytearray(data) if rank == self.rank else bytearray(size)
            distributed.broadcast(torch.frombuffer(buffer, dtype=torch.uint8), rank)
            yield data if rank == self.rank else bytes(buffer)

    def progress(self, bar: Progress) -> Progress:
        """Return the progress to report to: the bar of the process that prints."""
        if self.is_first:
            self.bar = bar
        return SharedProgress(self.bar, self.count)

    def fail(self, message: str, hint: str, code: int) -> None:
        """Report why this process ends, with its rank; once among all processes."""
        try:
            end = time.monotonic() + _GRACE_SECONDS
            while not (self.is_first or self.store.check([_FAILED]) or time.monotonic() > end):
                time.sleep(_POLL_SECONDS)
            is_reported = self.store.add("distviz/failures", 1) > 1
            self.store.set(_FAILED, str(code))
        except RuntimeError:  # the store is lost, so is the process that holds it
            is_reported = False
        if is_reported:
            return
        where = f"rank {self.rank} of {self.size} ({socket.gethostname()}, process {os.getpid()})"
        is_of_all = code in _INTERRUPTED or (self.is_first and code == 2)
        print_error(message if is_of_all else f"{where}: {message}", hint)

    def finish(self) -> None:
        """Wait until the first process has written the result."""
        self.exchange("finish", None)
        left = int(self.store.add("distviz/finished", 1))
        while self.is_first and left < self.size:  # without a launcher it holds the store
            time.sleep(_POLL_SECONDS)
            left = int(self.store.add("distviz/finished", 0))


@contextmanager
def _reachable() -> Iterator[None]:
    """Turn the errors of a lost store into one of distviz."""
    try:
        yield
    except RuntimeError as error:
        raise MeasurementError(
            f"the other processes cannot be reached: {first_line(error)}",
            "the launcher or rank 0 has ended: look for its messages",
        ) from error


def join(command: str) -> LaunchedWorld:
    """Join the processes that were started together, for a command of distviz.

    Raises
    ------
    MeasurementError
        If the processes cannot connect.
    RequestError
        If they were started for different commands.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        store = _connect(rank)
    except (ValueError, RuntimeError) as error:
        raise MeasurementError(f"the processes cannot connect: {first_line(error)}") from error
    world = LaunchedWorld(rank, size, int(os.environ.get("LOCAL_RANK", "0")), store=store)
    with _reachable():
        _wait_for_all(world)
    agree(world, "command", {"command": command})
    return world


def _connect(rank: int) -> Any:
    """Return the store of the launcher, or that of the first process; interruptible meanwhile."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_host = rank == 0 and not has_launcher()
    end = time.monotonic() + _JOIN_TIMEOUT.total_seconds()
    while not is_host:
        try:
            socket.create_connection((host, port), timeout=1).close()
            break
        except OSError as error:
            if time.monotonic() > end or isinstance(error, socket.gaierror):
                raise RuntimeError(f"{host}:{port}: {error.strerror or error}") from error
            time.sleep(_POLL_SECONDS)
    # Without `wait_for_workers`, which cannot be interrupted.
    return TCPStore(host, port, None, is_host, _JOIN_TIMEOUT, wait_for_workers=False)


def _wait_for_all(world: LaunchedWorld) -> None:
    """Wait until every process has joined; the first says for which it waits."""
    keys = [f"distviz/joined/{rank}" for rank in range(world.size)]
    world.store.set(keys[world.rank], "1")
    started, is_noted = time.monotonic(), False
    while not world.store.check(keys):
        time.sleep(_POLL_SECONDS)
        waited = time.monotonic() - started
        if waited < _NOTE_SECONDS or (is_noted and waited < _JOIN_TIMEOUT.total_seconds()):
            continue
        missing = [r for r, key in enumerate(keys) if not world.store.check([key])]
        ranks = f"rank {', '.join(map(str, missing))} of {world.size}"
        if is_noted:
            raise MeasurementError(
                f"{ranks} did not join within {waited:.0f} s",
                "look for messages of those processes",
            )
        is_noted = True
        if world.is_first:
            print_error(f"waiting for {ranks}")
