"""Shell completion in real shells: installed, sourced, and used with TAB."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the command on PATH, and result folders to complete."""
    home = tmp_path_factory.mktemp("home")
    program = home / "bin" / "distviz"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m distviz "$@"\n')
    program.chmod(0o755)
    for folder, name in (("runs/mine", "run.json"), ("runs/grid", "sweep.json"), ("other", "x")):
        (home / folder).mkdir(parents=True)
        (home / folder / name).touch()
    return home


def environment(place: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return kept | {"HOME": str(place), "PATH": path, "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def typed(place: Path, command: list[str], lines: list[str], wanted: str) -> str:
    """Type lines into an interactive shell, no newline after the last; wait for a text."""
    import pty

    master, slave = pty.openpty()
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=place, env=environment(place),
        start_new_session=True,
    ) as child:  # fmt: skip
        os.close(slave)
        seen = ""
        try:
            for line in lines[:-1]:
                os.write(master, f"{line}\necho rea''dy\n".encode())
                seen += _read(master, r"ready\r?\n")
            os.write(master, lines[-1].encode())
            return _read(master, re.escape(wanted))
        finally:
            child.kill()
            os.close(master)


def _read(master: int, pattern: str) -> str:
    seen, end = "", time.monotonic() + 300
    while not re.search(pattern, seen):
        assert time.monotonic() < end, f"no {pattern!r} in {seen!r}"
        if select.select([master], [], [], 0.2)[0]:
            seen += os.read(master, 65536).decode(errors="replace")
    return seen


# bash ---------------------------------------------------------------------------------------

ASK = """
eval "$(distviz --show-completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_distviz_completion distviz
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(place: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", ASK, "bash", "distviz", *words],
        capture_output=True, text=True, check=True, cwd=place, env=environment(place),
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ru"], ["run"]),
        (["sweep", "--by"], ["--by-layer"]),
        (["run", "model", "--dtype", ""], ["auto", "fp32", "bf16", "fp16"]),
        (["run", "--redistribution", "no"], ["noise"]),
        (["run", "--sites", "gate,d"], ["gate,down"]),
        (["whatif", "runs/mine", "--formats", "int8,fp8-e5"], ["int8,fp8-e5m2"]),
        (["run", "--preset", "qwen2.5-7"], ["qwen2.5-7b-instruct"]),
        (["run", "--preset", "gemma-3-4b-it:aime2"], [f"gemma-3-4b-it:aime2{y}" for y in "45"]),
        (["show", ""], ["runs/grid", "runs/mine"]),
        (["report", "runs/mine", "runs/g"], ["runs/grid"]),
        (["run", "mod"], []),  # bash completes files by itself
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bash_completes(place: Path, words: list[str], expected: list[str]) -> None:
    assert in_bash(place, *words) == expected


def test_bash_completes_after_installation(place: Path) -> None:
    # The shell is found by looking at the parent process: bash must not replace itself.
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", "distviz --install-completion; exit $?"],
        capture_output=True, text=True, check=True, cwd=place, env=environment(place),
    )  # fmt: skip
    assert "bash completion installed in" in done.stdout
    bash = [shell("bash"), "--noprofile", "-i"]
    assert "distviz run" in typed(place, bash, ["true", "distviz ru\t"], "distviz run ")
    line = "distviz run --preset qwen2.5-7\t"
    typed(place, bash, ["true", line], "qwen2.5-7b-instruct")
    typed(place, bash, ["true", "distviz show runs/m\t"], "runs/mine")


def test_zsh(place: Path) -> None:
    script = place / "completion.zsh"
    done = subprocess.run(
        [place / "bin" / "distviz", "--show-completion", "zsh"],
        capture_output=True, text=True, check=True, env=environment(place),
    )  # fmt: skip
    script.write_text(done.stdout)
    zsh = [shell("zsh"), "-f", "-i"]
    start = ["autoload -Uz compinit; compinit -u -D", f"source {script}"]
    typed(place, zsh, [*start, "distviz ru\t"], "distviz run ")
    typed(place, zsh, [*start, "distviz run --preset gemma-3-2\t"], "gemma-3-27b-it")
    typed(place, zsh, [*start, "distviz run --preset gemma-3-4b-it:h\t"], "it:humaneval ")
    typed(place, zsh, [*start, "distviz show runs/m\t"], "runs/mine ")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("distviz ru", "run"),
        ("distviz run --preset gemma-3-4b-it:aime2", "gemma-3-4b-it:aime24"),
        ("distviz show runs/m", "runs/mine"),
        ("distviz run --dtype b", "bf16"),
    ],
)
def test_fish(place: Path, line: str, expected: str) -> None:
    ask = f"distviz --show-completion fish | source; complete -C '{line}'"
    done = subprocess.run(
        [shell("fish"), "--no-config", "-c", ask],
        capture_output=True, text=True, check=True, cwd=place, env=environment(place),
    )  # fmt: skip
    assert done.stdout.splitlines()[0].split("\t")[0] == expected


def test_shell_names_are_accepted(place: Path) -> None:
    ask = [place / "bin" / "distviz", "--show-completion"]
    options: dict[str, Any] = {"capture_output": True, "text": True, "env": environment(place)}
    for name, sign in (("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --command")):
        assert sign in subprocess.run([*ask, name], check=True, **options).stdout
    refused = subprocess.run([*ask, "sh5"], check=False, **options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'sh5' is not one of 'bash', 'zsh', 'fish'" in refused.stderr
    subprocess.run([ask[0], "--install-completion", "fish"], check=True, **options)
    assert "distviz" in (place / ".config/fish/completions/distviz.fish").read_text()


def test_completion_imports_nothing_slow(place: Path) -> None:
    code = (
        "import sys\nfrom distviz.cli.app import main\ntry:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print(*({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    asked = {"_DISTVIZ_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    for words in ("distviz run --preset ", "distviz show --layers ", "distviz run --dtype "):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            cwd=place, env=environment(place) | asked | {"COMP_WORDS": words},
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == ""
