"""Several processes of the command, as a launcher or srun starts them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from torch.distributed import TCPStore

from support import forked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def port() -> str:
    with socket.create_server(("localhost", 0)) as server:
        return str(server.getsockname()[1])


@contextlib.contextmanager
def started(
    commands: Sequence[Sequence[str | Path]],
    program: Sequence[str] = ("-m", "distviz"),
    *,
    has_launcher: bool = True,
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process for each command; nobody ends the others when one fails.

    The store is here, as it is in a launcher, or in the process of rank 0.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "localhost", "WORLD_SIZE": str(len(commands))}
    shared["MASTER_PORT"] = str(store.port) if has_launcher else port()
    if has_launcher:
        shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    processes: list[subprocess.Popen[str]] = []
    for rank, args in enumerate(commands):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        processes.append(
            forked.Popen(
                [sys.executable, *program, *map(str, args)],
                env=os.environ | shared | own,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finished(
    args: Sequence[str | Path], size: int, program: Sequence[str] = ("-m", "distviz")
) -> list[str]:
    """Start processes without a launcher, as srun does; return what each wrote to stderr."""
    with started([args] * size, program, has_launcher=False) as processes:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, errors
    return errors
