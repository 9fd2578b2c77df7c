"""The standard streams of the command and its last words, as real processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no /dev/full")

FULL = "distviz: cannot write to standard output: No space left on device\n"
DELETED = "distviz: the current folder was deleted\n  change to another folder\n"
OPTIMIZED = (
    "distviz: python -OO removes the docstrings that transformers reads\n"
    "  use python -O, or unset PYTHONOPTIMIZE\n"
)
INVALID = "distviz: no such command 'nothing'\n  see distviz --help\n"


def shell(line: str, **env: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a line of bash; ``D`` is the command."""
    line = line.replace("D ", f"{sys.executable} -m distviz ")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True, text=True, check=False, env=os.environ | env,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("D --version | true", 0, ""),
        ("D run --help | head -n 1 >/dev/null", 0, ""),
        ("D run --help >&-", 0, ""),
        ("D run --help <&- >&- 2>&-", 0, ""),
        ("D run --help >/dev/full", 1, FULL),
        ("D run --help >/dev/full 2>/dev/full", 1, ""),
        ("D nothing", 2, INVALID),
        ("D nothing >/dev/full", 2, INVALID),
        ("D nothing 2>&-", 2, ""),
        ("D nothing 2>/dev/full", 2, ""),
        ("PYTHONUNBUFFERED=1 D run --help | head -n 1 >/dev/null", 0, ""),
        ("PYTHONUNBUFFERED=1 D run --help >/dev/full", 1, FULL),
        ("D generate --prompt - <&-", 2, None),
        ('cd $(mktemp -d) && rmdir "$PWD" && D run --out a', 2, DELETED),
        ("PYTHONOPTIMIZE=2 D run --help", 2, OPTIMIZED),
    ],
)  # fmt: skip
def test_a_closed_or_full_stream(line: str, code: int, error: str | None) -> None:
    found, out, err = shell(line)
    assert (found, out) == (code, "")
    assert error is None or err == error


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import sys; from distviz.cli import process; process._prepare_streams()\n"
        "with open('file', 'w') as file: print(file.fileno() > 2, file=sys.stderr)"
    )
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" <&- >&-'],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "True\n")


FREED = """
import resource, sys
from distviz.cli.process import keep_freed_memory
def layer():
    return [b"x" * (20 << 20) for _ in range(4)]
is_kept = keep_freed_memory()
for _ in range(3):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    layer()
print(is_kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_activations_take_the_memory_of_those_before() -> None:
    def pages(**env: str) -> tuple[str, int]:
        plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
        command = [sys.executable, "-c", FREED]
        found = subprocess.run(command, capture_output=True, check=True, text=True, env=plain | env)
        is_kept, number = found.stdout.split()
        return is_kept, int(number)

    is_kept, kept = pages()
    untouched, new = pages(MALLOC_ARENA_TEST="8")
    assert (is_kept, untouched) == ("True", "False")
    assert kept < 1000 < 50_000 < new


WAITING = """
import sys
from distviz.cli.process import let_waiting_threads_sleep
is_first = let_waiting_threads_sleep()
import torch
print(is_first, let_waiting_threads_sleep())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP")
@pytest.mark.parametrize(
    ("env", "changes", "spins"),
    [({}, True, "10000"), ({"GOMP_SPINCOUNT": "70"}, False, "70")],
    ids=["unconfigured", "configured"],
)
def test_waiting_threads_sleep_soon(env: dict[str, str], changes: bool, spins: str) -> None:
    """The OpenMP that torch loads tells what it has read."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    found = subprocess.run(
        [sys.executable, "-c", WAITING],
        capture_output=True, check=True, text=True,
        env=plain | {"OMP_DISPLAY_ENV": "VERBOSE"} | env,
    )  # fmt: skip
    assert found.stdout == f"{changes} False\n"
    assert f"GOMP_SPINCOUNT = '{spins}'" in found.stderr
