"""When the compiled loops are compiled: ahead of use, and again only after a change.

Numba keeps compiled functions on disk until the file of a function is written anew. Here they are
kept as long as the sources of all loops and the constants that they import stay the same: across
installations, and never with the code of another version of a function that they call.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from distviz.stats import float_grid
from distviz.stats.kernels import cpu, numba_loops, pair_loops, plan_loops, sequence_loops
from distviz.stats.kernels.types import Request

_CONSTANTS = (bool, int, float, str, tuple, np.generic, np.ndarray)


def stamp_of(modules: Iterable[ModuleType]) -> str:
    """Return a digest of the sources of modules and of the constants that they use."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Path(str(module.__file__)).read_bytes())
        for name, value in sorted(vars(module).items()):
            if isinstance(value, _CONSTANTS) and not name.startswith("__"):
                digest.update(f"{name} = {value!r}\n".encode())
    return digest.hexdigest()


def keep_compiled(modules: Iterable[ModuleType]) -> None:
    """Let what is on disk of some modules be valid while their `stamp_of` is the same."""
    known = list(modules)
    stamp = stamp_of(known)
    functions = [one for module in known for one in vars(module).values()]
    loops: list[Any] = [one for one in functions if isinstance(one, Dispatcher)]
    for loop in loops:
        # Not public: without it Numba goes by the time of the file.
        with contextlib.suppress(AttributeError):
            loop._cache._cache_file._source_stamp = stamp  # noqa: SLF001


def is_compiled() -> bool:
    """Whether the compiled loops are cached on disk, so that a first call is quick."""
    folder = getattr(getattr(numba_loops.round_row, "_cache", None), "cache_path", None)
    return folder is not None and any(Path(folder).glob("numba_loops.observe*.nbi"))


def compile_ahead(*, plans: bool) -> threading.Thread | None:
    """Compile, on a thread, what a run on the CPU needs for any type of values; not if cached.

    ``plans``: also what redistributes. The thread ends with the main thread, after the function
    that it is at.
    """
    if is_compiled():
        return None

    def work() -> None:
        for task in [*_STATISTICS, *(_PLANS if plans else [])]:
            if threading.main_thread().is_alive():
                task()

    thread = threading.Thread(target=work, name="distviz-compiling")
    thread.start()
    return thread


def _summarise() -> None:
    magnitudes = float_grid.magnitudes("bf16")
    cpu.summarise(np.zeros(float_grid.CELLS, np.uint32), magnitudes, 0.1, -1.0)


def _plan() -> None:
    shift, mantissa, mask = map(np.uint64, (3, 7, 0x7FFF))
    form = (shift, 510, mantissa, mask, np.ones(255))
    request = Request(0.1, 0.9, 0.1, 0.2, of_magnitude=False)
    bracketed = plan_loops.bracket(np.zeros(1 << 13, np.int64), form, request)
    plan_loops.complete(bracketed, np.empty(1, np.uint64), form, request)


_STATISTICS: list[Callable[[], object]] = [
    _summarise,
    lambda: numba_loops.add_table(np.zeros(1, np.int64), np.zeros(1, np.uint32)),
    lambda: numba_loops.exact_span(np.zeros((1, 1), np.uint64)),
    lambda: numba_loops.exact_add(np.zeros((1, 1), np.uint64), 0, np.zeros((3, 1), np.int64)),
]
_PLANS: list[Callable[[], object]] = [
    _plan,
    lambda: sequence_loops.row_keys((0, 0, 0), np.zeros(1, np.int64), 0, np.zeros(1, np.int64)),
    lambda: pair_loops.compare_rows(
        *(np.zeros((1, 1), np.float32) for _ in range(2)),
        *(np.zeros((1, 5)), np.zeros(1, np.int64), np.zeros(1), np.zeros(1), 0.0),
    ),
]
