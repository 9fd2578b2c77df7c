"""Compiled loops are made ahead on a thread, and kept while the sources are the same."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from distviz.stats.kernels import compiling, plan_loops, sequence_loops

COUNTED = """
import threading
import numba.core.event as event
import numpy as np, torch
from distviz.arm import ARM
from distviz.stats import float_grid, kernels

class Names(event.Listener):
    def on_start(self, given):
        found.append(given.data["dispatcher"].__name__)
    def on_end(self, given): pass

found = []
event.register("numba:compile", Names())
thread = kernels.compile_ahead(plans=True)
if thread is not None:
    thread.join()
ahead = {"summarise", "exact_add", "bracket", "complete", "row_keys", "compare_rows"}
assert thread is None or ahead <= set(found), found
before = list(found)
x = torch.randn(2, 3, 4).bfloat16()
ARM()(x)
kernels.compare(x[0].float(), x[1].float())
seen = kernels.observe(x[0], np.zeros(3, np.int64), 1)
kernels.add_table(np.zeros(65536, np.int64), seen.tables[0])
kernels.summarise(np.zeros(65536, np.int64), float_grid.magnitudes("bf16"), 0.1, -1.0)
print(*(name for name in found[len(before):] if name in ahead))
print(*before)
"""


def run(folder: Path) -> list[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.extended
def test_what_is_compiled_ahead_is_what_is_used_and_kept(tmp_path: Path) -> None:
    again, ahead = run(tmp_path)
    assert again == ""  # the same types of arguments
    assert ahead
    os.utime(plan_loops.__file__)  # as a new installation of the same sources does
    assert run(tmp_path) == ["", ""]


def test_what_is_compiled_ahead_exists() -> None:
    """With arguments that the loops take: an error on the thread would be printed."""
    for task in [*compiling._STATISTICS, *compiling._PLANS]:
        task()


def test_a_stamp_depends_on_sources_and_constants(tmp_path: Path) -> None:
    module = types.ModuleType("loops")
    module.__file__ = str(tmp_path / "loops.py")
    Path(module.__file__).write_text("a = 1\n")
    module.FACTOR = 2.0  # type: ignore[attr-defined]
    first = compiling.stamp_of([module])
    os.utime(module.__file__, (0, 0))
    assert compiling.stamp_of([module]) == first
    module.FACTOR = 3.0  # type: ignore[attr-defined]
    second = compiling.stamp_of([module])
    Path(module.__file__).write_text("a = 2\n")
    assert len({first, second, compiling.stamp_of([module])}) == 3


def test_a_stamp_is_that_of_all_loops() -> None:
    functions = (plan_loops.bracket, sequence_loops.find_cut)
    stamps = {function._cache._cache_file._source_stamp for function in functions}
    assert len(stamps) == 1
    assert len(stamps.pop()) == 64
