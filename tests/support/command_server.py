"""A process that has imported what distviz imports, and becomes a command each time it is asked.

Started by `support.forked`. A request is one message: words, folder and environment as JSON, and
the three standard streams. The answer is the number of the process, whose parent is the one that
asked: the process between them has ended by then.
"""

from __future__ import annotations

import gc
import io
import json
import os
import pkgutil
import random
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

HEAVY = ("torch", "accelerate", "transformers.models.llama.modeling_llama")
ARROW = "jemalloc_bg_thd"
"""A thread of PyArrow's allocator, which knows how to fork."""
MOST_BYTES = 1 << 20
"""Of a request."""


def load() -> None:
    """Import what commands import; nothing that starts a thread is called."""
    for name in HEAVY:
        import_module(name)
    import distviz

    for found in pkgutil.walk_packages(distviz.__path__, "distviz."):
        if not found.name.endswith("__main__"):
            with suppress(ImportError):  # what extras bring
                import_module(found.name)
    gc.collect()
    gc.freeze()  # so that a process does not copy the memory of all these objects
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("[0-9]*/comm")}
    names -= {Path("/proc/self/comm").read_text().strip(), ARROW}
    assert not names, f"imports have started threads: {names}"


def serve(connection: socket.socket) -> dict[str, Any]:
    """Answer requests until the other end is closed; return only in a process that was asked for.

    Its standard streams, group, folder and environment are those of the request.
    """
    while True:
        message, streams, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
        if not message:
            os._exit(0)
        request = json.loads(message)
        reading, writing = os.pipe()
        between = os.fork()
        if not between:
            child = os.fork()
            if not child:
                os.close(reading)
                os.close(writing)
                connection.close()
                _become(request, streams)
                return request
            os.write(writing, str(child).encode())
            os._exit(0)
        os.close(writing)
        number = os.read(reading, 20)
        os.close(reading)
        for stream in streams:
            os.close(stream)
        os.waitpid(between, 0)
        connection.send(number)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    if request["is_session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _open_streams()
    import numpy as np

    random.seed()
    np.random.seed()  # noqa: NPY002
    sys.argv[1:] = request["words"]
    sys.path[0] = str(Path.cwd())  # as with python -m


def _open_streams() -> None:
    """Open the standard streams as Python does at its start."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, name)
        raw = io.FileIO(number, "r" if name == "stdin" else "w", closefd=False)
        buffer = io.BufferedReader(raw) if name == "stdin" else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(
            buffer,
            before.encoding,
            before.errors,
            line_buffering=name == "stderr" or raw.isatty(),
            newline=None if name == "stdin" else "\n",
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests and their commands
    sys.path[0] = str(Path.cwd())
    with socket.socket(fileno=int(sys.argv.pop())) as asked:
        load()
        asked.send(b"ready")
        serve(asked)
    import runpy

    runpy.run_module("distviz", run_name="__main__", alter_sys=True)
