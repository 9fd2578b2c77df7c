"""The process of the command: its standard streams, its signals, its exit code."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import platform
import sys
from typing import Any

from distviz import interrupts
from distviz.errors import DistvizError, MeasurementError, RequestError
from distviz.output import print_error


def main() -> None:
    """Run ``distviz`` as a process of its own, to its end."""
    interrupts.install()
    try:
        code = _run()
    finally:
        interrupts.ignore()
        gc.freeze()  # or Python searches the objects of torch and transformers for seconds
    sys.exit(code)


def _run() -> Any:
    """Run the command and return the exit code."""
    code: Any = 0
    try:
        _prepare_streams()
        keep_freed_memory()
        let_waiting_threads_sleep()
        if sys.flags.optimize > 1:
            raise RequestError(
                "python -OO removes the docstrings that transformers reads",
                "use python -O, or unset PYTHONOPTIMIZE",
            )
        from distviz.cli import app

        try:
            app.main()
        except SystemExit as ended:
            code = ended.code
        sys.stdout.flush()
    except KeyboardInterrupt as error:  # outside a command
        interrupts.ignore()
        print_error(interrupts.message(error))
        return interrupts.exit_code(error)
    except DistvizError as error:  # outside a command
        print_error(error.message, error.hint)
        return code or error.exit_code
    return code


# Memory and threads -------------------------------------------------------------------------

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""
_LARGEST_RECYCLED = 32 << 20
"""Bytes of the largest block that glibc can take from its heap."""
_KEPT = 512 << 20
"""Bytes of freed memory that the process keeps."""


def keep_freed_memory() -> bool:
    """Let the activations of a layer take the memory of the layer before; return whether it does.

    glibc gives freed memory back to the system by a rule that depends on what was freed before, and
    then every activation is made of new pages: a tenth of the forward pass of a small model.
    Nothing changes with another C library, or where the environment configures its allocator.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    names = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(names) for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_RECYCLED) & mallopt(_M_TRIM_THRESHOLD, _KEPT))


_SPINS = 10_000
"""How often a thread looks for work before it sleeps; fewer slow generation down."""


def let_waiting_threads_sleep() -> bool:
    """Let torch's threads sleep soon after an operation; return whether the environment changed.

    GNU's OpenMP lets them spin 300,000 times, for milliseconds: on the cores that hooks count on,
    or that other processes need. It reads the environment when torch is loaded; one that
    configures it is left as it is.

    Source: https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return False
    os.environ["GOMP_SPINCOUNT"] = str(_SPINS)
    return True


# Streams ------------------------------------------------------------------------------------


class _Output(io.RawIOBase):
    """Standard output or error; once writing fails, it discards what follows.

    Parameters
    ----------
    raw
        The stream itself.
    is_required
        Whether a failure is an error. A reader that has ended (head, less) never is.
    """

    def __init__(self, raw: io.RawIOBase, *, is_required: bool) -> None:
        self._raw = raw
        self._is_required = is_required
        self._has_failed = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int | None:
        if self._has_failed:
            return len(data)
        try:
            return self._raw.write(data)
        except OSError as error:
            self._has_failed = True
            if self._is_required and not isinstance(error, BrokenPipeError):
                raise MeasurementError(
                    f"cannot write to standard output: {error.strerror}"
                ) from error
            return len(data)


def _prepare_streams() -> None:
    """Replace standard streams that are closed, and those for output by `_Output`."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # or the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: Any = getattr(sys, name)
        file = stream.buffer if stream else io.FileIO(number, "w", closefd=False)
        raw = _Output(getattr(file, "raw", file), is_required=name == "stdout")
        new = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors=getattr(stream, "errors", "strict"),
            line_buffering=getattr(stream, "line_buffering", False),
            write_through=name == "stderr",
        )
        setattr(sys, name, new)
