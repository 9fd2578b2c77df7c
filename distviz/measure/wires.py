"""A wire from every process to the first: who ends, however it ends, is noticed by all at once.

A socket each, on which lines of JSON go: progress, failures, the end. The system closes the sockets
of a process that dies, so even ``kill -9`` is a message; a machine that falls silent is noticed by
keep-alive probes after half a minute. One message is printed, whoever fails first.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from distviz.errors import MeasurementError
from distviz.measure.world import say
from distviz.progress import Progress

__all__ = ["FirstEnd", "OtherEnd"]

_GRACE = 1.0
"""Seconds that the first process gets to say itself what another one reports."""
_PATIENCE = 20.0


def _probe(connection: socket.socket) -> None:
    """Ask the system to notice a peer that is silent because its machine is."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
    for name, value in wanted.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return  # the reader of the other direction tells why


def _messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Yield what comes until the other side has gone."""
    try:
        with connection.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError):
        return


@dataclass
class FirstEnd:
    """The first process's end of all wires.

    Parameters
    ----------
    size
        Of how many processes it is the first.
    key
        What the others have to show.
    progress
        Moved on by what the others report.
    hint
        Gives the line of what to do next if a process is lost.
    """

    size: int
    key: str
    progress: Progress = field(default_factory=Progress)
    hint: Callable[[], str] = str
    _wires: dict[int, socket.socket] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _ending: threading.Lock = field(default_factory=threading.Lock)
    _is_over: bool = False
    _stream: TextIO = field(default_factory=lambda: sys.stderr)  # before anybody redirects it
    _server: socket.socket = field(init=False)

    def listen(self) -> int:
        """Open a port and return its number."""
        self._server = socket.create_server(("", 0), backlog=self.size)
        return int(self._server.getsockname()[1])

    def accept(self, timeout: float) -> None:
        """Wait for all others.

        Raises
        ------
        MeasurementError
            If not all came in time.
        """
        end = time.monotonic() + timeout
        with self._server:
            while len(self._wires) < self.size - 1:
                self._server.settimeout(max(end - time.monotonic(), 0.01))
                try:
                    connection, _ = self._server.accept()
                except TimeoutError:
                    missing = sorted({*range(1, self.size)} - {*self._wires})
                    raise MeasurementError(
                        f"{len(missing)} of {self.size} processes did not come within "
                        f"{timeout:.0f} s (the first is rank {missing[0]})",
                        "look into their own messages",
                    ) from None
                self._welcome(connection)
        for rank in self._wires:
            threading.Thread(target=self._follow, args=(rank,), daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE)
        hello = next(_messages_once(connection), {})
        if hello.get("key") != self.key:
            connection.close()
            return
        connection.settimeout(None)
        _probe(connection)
        self._wires[hello["rank"]] = connection
        self._names[hello["rank"]] = f"rank {hello['rank']} of {self.size} ({hello['name']})"

    def _follow(self, rank: int) -> None:
        for message in _messages(self._wires[rank]):
            if "advance" in message:
                self.progress.advance(message["advance"])
            elif "fail" in message:
                text, hint, code = message["fail"]
                time.sleep(_GRACE)
                self._end(text if code == 130 else f"{self._names[rank]}: {text}", hint, code)
            elif "bye" in message:
                return
        self._end(
            f"{self._names[rank]} was lost: killed, or out of memory",
            self.hint() or "start again, with fewer processes if memory is short",
            1,
        )

    def _end(self, message: str, hint: str, code: int) -> None:
        """End this process from a thread, wherever its main thread is."""
        if not self._is_over:
            self.say(message, hint, code)
            os._exit(code)

    def say(self, message: str, hint: str, code: int) -> None:
        """Print why all ends and tell the others; if that was said already, wait to be ended."""
        if not self._ending.acquire(blocking=False):
            time.sleep(_PATIENCE)
            os._exit(code)
        self.progress.stop()
        say(message, hint, self._stream)
        for connection in self._wires.values():
            _send(connection, {"end": code})

    def finish(self) -> None:
        """Tell all others that the result is written; whoever ends from now on may."""
        self._is_over = True
        for connection in self._wires.values():
            _send(connection, {"end": 0})


def _messages_once(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Read one line, byte by byte, so that nothing behind it is taken."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 4096:
            got = connection.recv(1)
            if not got:
                return
            line += got
        yield json.loads(line)
    except (OSError, ValueError):
        return


@dataclass
class OtherEnd:
    """Another process's end of its wire to the first."""

    rank: int
    size: int
    key: str
    _wire: socket.socket = field(init=False)
    _ended: threading.Event = field(default_factory=threading.Event)
    _stream: TextIO = field(default_factory=lambda: sys.stderr)

    def connect(self, host: str, port: int, timeout: float) -> None:
        """Reach the first process.

        Raises
        ------
        MeasurementError
            If it cannot be reached.
        """
        try:
            self._wire = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise MeasurementError(
                f"rank {self.rank} cannot reach rank 0 at {host}, port {port}: {error}"
            ) from error
        self._wire.settimeout(None)
        _probe(self._wire)
        name = f"{socket.gethostname()}, process {os.getpid()}"
        _send(self._wire, {"rank": self.rank, "key": self.key, "name": name})
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        for message in _messages(self._wire):
            if message.get("end") == 0:
                self._ended.set()
                return
            if "end" in message:
                os._exit(message["end"])
        if self.rank == 1:  # one of those who are left
            say(
                f"rank 0 of {self.size} was lost: killed, or out of memory",
                "start again, with --resume if it was begun with --out",
                self._stream,
            )
        os._exit(1)

    def advance(self, tokens: int) -> None:
        """Tell how far this process is."""
        _send(self._wire, {"advance": tokens})

    def fail(self, message: str, hint: str, code: int) -> None:
        """Hand a failure to the first process, which says it and ends all."""
        _send(self._wire, {"fail": [message, hint, code]})
        self._ended.wait(_PATIENCE)
        os._exit(code)

    def finish(self) -> None:
        """Say that this process is needed no more, and wait until the result is written."""
        _send(self._wire, {"bye": True})
        while not self._ended.wait(0.2):
            pass
