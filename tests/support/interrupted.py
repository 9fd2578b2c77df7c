"""Processes of the command, killed at random moments and started again."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start ``distviz`` with these arguments; it has ended when the context is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "distviz", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_a_state(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until a new state was written, in the folder or below it."""

    def stamps() -> dict[str, int]:
        found = {}
        for path in folder.rglob("rank-*.state"):
            with contextlib.suppress(FileNotFoundError):
                found[str(path)] = path.stat().st_mtime_ns
        return found

    before, end = stamps(), time.monotonic() + 300
    while stamps() == before:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def killed_and_resumed(
    out: Path, kills: int, *command: str | Path, longest: float = 0.2
) -> list[str]:
    """Kill a command that writes to ``out`` so many times, and let it end.

    Each time it is killed up to ``longest`` seconds after it kept something new. Returns the
    names of all states that were seen.
    """
    luck = random.Random(kills)
    given = (*command, "--out", out, "--save-every", "0")
    partial = out.with_name(f"{out.name}.partial")
    seen: dict[str, None] = {}
    for number in range(kills):
        with running(*given, *["--resume"][: number > 0]) as process:
            wait_for_a_state(process, partial)
            time.sleep(luck.random() * longest)
            process.send_signal(signal.SIGKILL)
            assert process.wait() in (-signal.SIGKILL, 0), process.communicate()[1]
        seen |= {str(path.relative_to(partial)): None for path in partial.rglob("*.state")}
        if out.exists():  # it was at its end, or past it
            break
    with running(*given, "--resume") as process:
        output, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    assert output.strip() == str(out)
    assert "starting from the beginning" not in error
    assert not partial.exists()
    return list(seen)
