"""Tests fork commands from a process that has imported everything: nobody can see that."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import forked

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(sys.platform != "linux", reason="they are started, not forked"),
]


@pytest.mark.parametrize("words", [["--version"], ["--bogus"], ["show", "none"], []])
def test_output_and_exit_code_are_those_of_a_process(words: list[str], tmp_path: Path) -> None:
    made = [
        start([*forked.COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        for start in (forked.run, subprocess.run)
    ]
    assert made[0].args == made[1].args
    assert made[0].returncode == made[1].returncode
    assert (made[0].stdout, made[0].stderr) == (made[1].stdout, made[1].stderr)


def test_folder_width_and_input_are_its_own(tmp_path: Path) -> None:
    environment = os.environ | {"COLUMNS": "44"}
    done = forked.run(
        [*forked.COMMAND, "run", "--dry-run", "--text", "-"], input="Anna had 3 apples. " * 9,
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert max(map(len, done.stdout.splitlines())) <= 44
    failed = forked.run(
        [*forked.COMMAND, "run", "--dry-run", "--text", "none.txt"],
        cwd=tmp_path, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert failed.returncode == 2
    assert b"none.txt" in failed.stderr


def waiting(**options: Any) -> forked.Popen:
    """Return a command that waits for its text."""
    process = forked.Popen(
        [*forked.COMMAND, "run", "--text", "-"], stdin=subprocess.PIPE, **options
    )
    assert process.poll() is None
    return process


@pytest.mark.parametrize("is_session", [True, False])
def test_it_is_a_child_and_ends_by_a_signal(is_session: bool) -> None:
    process = waiting(start_new_session=is_session)
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    parent, group, session = map(int, fields[1:4])
    assert parent == os.getpid()
    assert (group, session) == (
        (process.pid, process.pid) if is_session else (os.getpgid(0), os.getsid(0))
    )
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_terminal_is_seen() -> None:
    shown = []
    for start in (forked.Popen, subprocess.Popen):
        master, slave = pty.openpty()
        with start([*forked.COMMAND, "--help"], stdin=slave, stdout=slave, stderr=slave):
            os.close(slave)
            data = b""
            while part := _read(master):
                data += part
        os.close(master)
        shown.append(data)
    assert shown[0] == shown[1] != b""


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # the terminal is gone with the child
        return b""


@pytest.mark.parametrize(
    ("name", "text"), [("OMP_NUM_THREADS", "3"), ("HF_HOME", "/"), ("PYTHONIOENCODING", "utf-8")]
)
def test_another_environment_is_read_by_a_process_of_its_own(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries read their variables when they are imported."""
    monkeypatch.setattr(forked, "_fork", lambda *_: pytest.fail("forked"))
    done = forked.run(
        [*forked.COMMAND, "--version"], env=os.environ | {name: text}, check=True,
        capture_output=True,
    )  # fmt: skip
    assert done.stdout.startswith(b"distviz ")
