"""Commands interrupted at many moments: one message, one exit code, nothing half-written."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from support import forked
from support.interrupted import assert_ended_well, interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.commands import Done

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(sys.platform == "win32", reason="signals differ"),
]

SMALL = ["--no-figures", "--max-tokens", "1000", "--quiet", "--out", "out"]
COMMANDS: dict[str, tuple[list[str], float]] = {
    "run": (["run", *SMALL], 6),
    "figures": (["run", "--max-tokens", "500", "--quiet", "--out", "out"], 8),
    "compare": (["compare", "RUN", "RUN", "--no-figures", "--quiet", "--out", "out"], 3),
    "filler": (["filler", "DEMO", "--counts", "2", *SMALL[:1], *SMALL[3:]], 6),
    "sweep": (["sweep", "--c", "0.1,0.2", *SMALL], 7),
    "whatif": (["whatif", "RUN", "--out", "out"], 2),
    "export": (["export", "RUN", "--out", "out"], 3),
    "report": (["report", "RUN", "--out", "out"], 1.5),
    "show": (["show", "RUN"], 1),
    "generate": (["generate", "--prompt", "2+2", "--max-new-tokens", "8"], 5),
    "inspect": (["inspect"], 3),
}
"""Words, and about how many seconds the command takes."""
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("small")
    forked.run([*forked.COMMAND, "run", *SMALL], cwd=place, check=True, capture_output=True)
    return place / "out"


def words_of(name: str, run: Path, demo: Path) -> list[str]:
    places = {"RUN": str(run), "DEMO": str(demo)}
    return [places.get(word, word) for word in COMMANDS[name][0]]


def _writes(place: Path) -> bool:
    """Whether a command writes into a folder or file that is not complete yet."""
    return any(path.name.startswith(".distviz-") for path in place.iterdir())


def _is_written(place: Path) -> bool:
    return (place / "out").exists()


def _sample() -> list[tuple[str, Callable[[Path], bool] | float, str, int]]:
    """Each command early, at a random moment, and where it writes; signals by turns."""
    luck = random.Random(5)
    found: list[tuple[str, Callable[[Path], bool] | float, str, int]] = []
    for name, (words, seconds) in COMMANDS.items():
        moments: list[Callable[[Path], bool] | float] = [
            luck.uniform(0, 0.6), luck.uniform(0, seconds),
        ]  # fmt: skip
        if "--out" in words:
            moments.append(luck.choice([_writes, _is_written]))
        for moment in moments:
            sent = SIGNALS[len(found) % len(SIGNALS)]
            found.append((name, moment, sent, luck.choice([1, 2, 10])))
    return found


@pytest.mark.parametrize(("name", "moment", "sent", "times"), _sample())
def test_a_signal_at_some_moment(
    name: str,
    moment: Callable[[Path], bool] | float,
    sent: str,
    times: int,
    tmp_path: Path,
    small_run: Path,
    demo_folder: Path,
) -> None:
    words = words_of(name, small_run, demo_folder)
    done = interrupted(words, tmp_path, moment, getattr(signal, sent), times)
    assert_ended_well(done, tmp_path, getattr(signal, sent))


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 10])
@pytest.mark.parametrize("sent", SIGNALS)
@pytest.mark.parametrize("name", COMMANDS)
def test_signals_over_the_whole_life_of_a_command(
    name: str, sent: str, times: int, tmp_path: Path, small_run: Path, demo_folder: Path
) -> None:
    """Every 100 ms."""
    words = words_of(name, small_run, demo_folder)
    for number in range(round(COMMANDS[name][1] * 10)):
        place = tmp_path / str(number)
        place.mkdir()
        done = interrupted(words, place, number / 10, getattr(signal, sent), times)
        assert_ended_well(done, place, getattr(signal, sent))
        shutil.rmtree(place)


def test_a_killed_command_leaves_what_the_next_removes(
    tmp_path: Path, small_run: Path, call: Callable[..., Done]
) -> None:
    interrupted(["export", str(small_run), "--out", "out"], tmp_path, _writes, signal.SIGKILL, 1)
    (left,) = tmp_path.glob(".distviz-*")
    assert call("export", small_run, "--out", tmp_path / "out", "--figures", "none").code == 0
    assert not left.exists()


def test_nohup_keeps_a_command_running(tmp_path: Path, small_run: Path) -> None:
    command = [sys.executable, "-m", "distviz", "export", str(small_run), "--out", "out"]
    with subprocess.Popen(["nohup", *command], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while not _writes(tmp_path):
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert _is_written(tmp_path)
