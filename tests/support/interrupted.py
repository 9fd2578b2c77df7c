"""Processes of the command, ended by signals, and started again."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support.commands import Done
from support.forked import COMMAND, Popen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start ``distviz`` with these arguments; it has ended when the context is left."""
    process = Popen(
        [*COMMAND, *map(str, command)],
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


def interrupted(
    words: Sequence[str],
    place: Path,
    moment: Callable[[Path], bool] | float,
    number: int,
    times: int,
) -> Done:
    """Start ``distviz`` in a folder and send it a signal.

    ``moment`` is in seconds after the handlers are in place, or says whether it has come. The
    seconds of a command may be those of its imports, so it is not forked then.
    """
    start_process = Popen if callable(moment) else subprocess.Popen
    process = start_process(
        [*COMMAND, *words],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not _has_handlers(process.pid):
            time.sleep(0.001)
        start = time.monotonic()
        while process.poll() is None and not (
            moment(place) if callable(moment) else time.monotonic() - start >= moment
        ):
            time.sleep(0.001)
        for _ in range(times):
            if process.poll() is None:
                process.send_signal(number)
            time.sleep(0.002)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    return Done(process.returncode, out, err)


def _has_handlers(pid: int) -> bool:
    """Whether a process handles SIGTERM, which Python does not by itself."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
        return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def assert_ended_well(done: Done, place: Path, number: int) -> None:
    """Check exit code, message and files of a command that wrote to ``out`` in ``place``."""
    left = {path.name for path in place.iterdir()}
    assert left <= {"out", "out.partial"}, left
    out = place / "out"
    if out.is_dir():
        assert list(out.glob("*.json")) or (out / "overview.png").exists()
    elif out.exists():
        assert out.read_text("utf-8").rstrip().endswith("</html>")
    if done.code == 0:  # it had ended
        return
    assert done.code == 128 + number, done.err
    (message,) = [line for line in done.err.splitlines() if "distviz: interrupted" in line]
    assert not re.search("Traceback|Exception|terminate", done.err), done.err
    assert ("was written" in message and "nothing" not in message) == out.exists(), message
    assert ("is saved in" in message) == ("out.partial" in left), message
