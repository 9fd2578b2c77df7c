"""Processes of the command that do not import anew what another process has imported.

`Popen` and `run` take what those of `subprocess` take. The process is forked from a server that is
started once; it has its own number, streams, group, folder and environment, is a child of the
process of the tests, and gets signals and ends as any other. What tests the start of a process
itself (its imports, variables that libraries read when they are imported) uses `subprocess`.
"""

from __future__ import annotations

import atexit
import ctypes
import inspect
import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "distviz"]
"""How a command begins."""
READ_LATE = {
    *("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR"),
    *("PYTEST_CURRENT_TEST", "PYTEST_VERSION", "PWD", "OLDPWD"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"),
}
"""Variables that no library reads when it is imported: they may differ from the server's."""
_ARGUMENTS = inspect.signature(subprocess.Popen._execute_child)
_PLAIN = {
    "executable": (None,), "preexec_fn": (None,), "close_fds": (True,), "pass_fds": ((), []),
    "startupinfo": (None,), "shell": (False,), "restore_signals": (True,), "umask": (-1,),
    "gid": (None,), "gids": (None,), "uid": (None,), "process_group": (-1, None),
}  # fmt: skip
"""What the server can do, by the argument of `subprocess`."""
_SUBREAPER = 36
"""The option of prctl with which orphans below a process become its children."""


class Popen(subprocess.Popen[Any]):
    """A process as `subprocess.Popen` starts it; a command of distviz is forked."""

    def _execute_child(self, *given: Any) -> None:
        arguments = _ARGUMENTS.bind(self, *given).arguments
        environment = {**(os.environ if arguments["env"] is None else arguments["env"])}
        if not _can_be_forked(arguments, environment):
            super()._execute_child(*given)
            return
        pipes = [arguments[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        request = {
            "words": [os.fspath(word) for word in arguments["args"][len(COMMAND) :]],
            "folder": os.fspath(arguments["cwd"] or Path.cwd()),
            "environment": environment,
            "is_session": arguments["start_new_session"],
        }
        streams = [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)]
        self.pid = _fork(request, streams)
        self._child_created = True
        self._close_pipe_fds(*(arguments[name] for name in _ENDS))


_ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def run(*words: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Do what `subprocess.run` does."""
    given = options.pop("input", None)
    check, timeout = options.pop("check", False), options.pop("timeout", None)
    if given is not None:
        options["stdin"] = subprocess.PIPE
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(*words, **options) as process:
        try:
            out, err = process.communicate(given, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _can_be_forked(arguments: dict[str, Any], environment: dict[str, str]) -> bool:
    words = arguments["args"]
    if sys.platform != "linux" or isinstance(words, str | bytes | os.PathLike):
        return False
    return (
        list(words[: len(COMMAND)]) == COMMAND
        and all(arguments.get(name, usual[0]) in usual for name, usual in _PLAIN.items())
        and _read_early(environment) == _server()[1]
    )


def _read_early(environment: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if name not in READ_LATE}


@cache
def _server() -> tuple[socket.socket, dict[str, str]]:
    """Start the server; return the connection and the variables that it has read."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("command_server.py")), str(there.fileno())],
        pass_fds=[there.fileno()], stdin=subprocess.DEVNULL,
    )  # fmt: skip
    there.close()

    @atexit.register
    def end() -> None:
        here.close()
        server.wait()

    assert here.recv(100) == b"ready"
    return here, _read_early(dict(os.environ))


def _fork(request: dict[str, Any], streams: list[int]) -> int:
    connection, _ = _server()
    _become_subreaper(True)
    try:
        socket.send_fds(connection, [json.dumps(request).encode()], streams)
        answer = connection.recv(20)
    finally:
        _become_subreaper(False)
    assert answer, "the server of commands has ended"
    return int(answer)


def _become_subreaper(on: bool) -> None:
    assert ctypes.CDLL(None).prctl(_SUBREAPER, int(on), 0, 0, 0) == 0
