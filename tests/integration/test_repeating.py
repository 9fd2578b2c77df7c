"""The command that a report gives measures the same again: typed as it stands, tables compared."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from distviz.cli import app as cli
from distviz.cli.commands import GRID
from distviz.reports.html import page_of
from distviz.reports.page import Command
from distviz.settings import OPTIONS

pytestmark = pytest.mark.extended

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

ROOT = Path(__file__).parents[2]
LAYERS = """
[layer]
layers = 2
hidden_size = 24
intermediate_size = 40
heads = 4
kv_heads = 2
activation = "gelu"
documents = 3
tokens = 40
scale = 0.7
config = { rms_norm_eps = 1e-4, rope_parameters = { rope_type = "default", rope_theta = 500.0 } }
"""
PROMPTS = [
    {"system": "Be 'brief'.", "question": "What is 2 + 2?"},
    {"system": "Be brief; $HOME.", "question": "Anna had 3 apples. How many?"},
    {"question": "Is it raining?"},
]


def _command(folder: Path) -> str:
    (part,) = page_of([folder]).parts
    (last,) = [section for section in part.sections if section.title == "How this was made"]
    (command,) = [block for block in last.blocks if isinstance(block, Command)]
    return command.text


def _repeat(command: str, call: Callable[..., Done], out: str) -> Done:
    """Type the command in this process; what stands before it is a file of settings."""
    *before, line = command.split("\n")
    if before:
        name = before[0].removeprefix("cat > ").partition(" ")[0]
        assert before[0] == f"cat > {name} <<'END'"
        assert before[-1] == "END"
        Path(name).write_text("\n".join(before[1:-1]), encoding="utf-8")
    program, *words = shlex.split(line)
    assert program == "distviz"
    return call(*words, "--out", out, "--no-figures", "--quiet")


def _assert_same_tables(first: Path, second: Path, least: int) -> None:
    names = [path.name for path in first.iterdir() if path.suffix in {".csv", ".parquet"}]
    assert len(names) >= least
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_settings_of_a_command_have_flags() -> None:
    for command in ("run", "filler", "sweep"):
        flags = set(inspect.signature(getattr(cli, command)).parameters)
        lists = set(GRID) if command == "sweep" else set()
        settings = {name for name, option in OPTIONS.items() if command in option.commands}
        assert settings | {"model"} == (flags & set(OPTIONS)) - lists, command


def test_layers_that_a_file_describes(call: Callable[..., Done]) -> None:
    Path("some layers.toml").write_text(LAYERS, encoding="utf-8")
    options = ("--c", "0.2345678", "--arm-layers", "1", "--seed", "5", "--sites", "gate,act")
    assert call("run", "some layers.toml", *options, "--out", "a", "--no-figures").code == 0
    command = _command(Path("a"))
    Path("some layers.toml").unlink()
    program = f'distviz() {{ "{sys.executable}" -m distviz "$@"; }}'
    script = f"{program}\n{command} --out b --no-figures\n"
    done = subprocess.run(
        ["bash", "-eu", "-c", script], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _assert_same_tables(Path("a"), Path("b"), 5)


def test_a_run_with_a_filler_and_settings_of_many_digits(call: Callable[..., Done]) -> None:
    Path("my 'prompts'.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)), encoding="utf-8")
    options = ["--text", "my 'prompts'.jsonl", "--c", "0.3333333333", "--filler", "-- $x"]
    options += ["--filler-count", "3", "--no-ripple", "--max-length", "64", "--skip-special"]
    assert call("run", *options, "--out", "a", "--no-figures").code == 0
    Path("my 'prompts'.jsonl").unlink()  # the folder holds the documents
    done = _repeat(_command(Path("a")), call, "b")
    assert done.code == 0, done.err
    _assert_same_tables(Path("a"), Path("b"), 5)


def test_a_sweep(call: Callable[..., Done]) -> None:
    Path("own.toml").write_text('c = 0.7\nseed = 3\nclasses = "all"\n', encoding="utf-8")
    options = ["--p1", "80,99", "--arm-layers", "0;1,2", "--seeds", "2", "--budget-kl", "0.0123"]
    options += ["--config", "own.toml", "--max-tokens", "96", "--max-length", "48"]
    assert call("sweep", *options, "--out", "a", "--no-figures").code == 0
    done = _repeat(_command(Path("a")), call, "b")
    assert done.code == 0, done.err
    _assert_same_tables(Path("a"), Path("b"), 2)
    assert set(pd.read_csv("b/sweep.csv")["c"]) == {0.7}


def test_a_sweep_of_presets_with_a_filler(call: Callable[..., Done]) -> None:
    options = ["--preset", "qwen2.5-32b-instruct", "--c", "0.5", "--filler", "/"]
    options += ["--filler-count", "4", "--max-tokens", "96", "--max-length", "48"]
    assert call("sweep", *options, "--out", "a", "--no-figures").code == 0
    done = _repeat(_command(Path("a")), call, "b")
    assert done.code == 0, done.err
    _assert_same_tables(Path("a"), Path("b"), 2)
    assert pd.read_csv("b/sweep.csv")["preset"].notna().any()


def test_a_filler_study(call: Callable[..., Done], demo_folder: Path) -> None:
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)), encoding="utf-8")
    options = ["--text", "prompts.jsonl", "--counts", "0,2,5", "--filler", "it's"]
    options += ["--layers", "0,2", "--filler-position", "start", "--attention-layers", "none"]
    assert call("filler", demo_folder, *options, "--out", "a", "--no-figures").code == 0
    Path("prompts.jsonl").unlink()
    done = _repeat(_command(Path("a")), call, "b")
    assert done.code == 0, done.err
    _assert_same_tables(Path("a"), Path("b"), 3)


def test_questions(call: Callable[..., Done]) -> None:
    options = ("--max-tokens", "96", "--layers", "0,1", "--no-figures", "--quiet")
    assert call("run", *options, "--out", "my run").code == 0
    asked = ("--sparsity", "33.3,90", "--formats", "int8", "--ranges", "percentile,max")
    more = ("--percentile", "99.123", "--phases", "before", "--layers", "1", "--report")
    done = call("whatif", "my run", *asked, *more, "--out", "a", "--no-figures")
    assert done.code == 0
    assert "How this was made" in Path("a/report.html").read_text(encoding="utf-8")
    done = _repeat(_command(Path("a")), call, "b")
    assert done.code == 0, done.err
    _assert_same_tables(Path("a"), Path("b"), 1)


@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_comparison(call: Callable[..., Done], phase: str) -> None:
    options = ("--max-tokens", "96", "--layers", "0,1", "--sites", "act,gate", "--no-figures")
    assert call("run", *options, "--classes", "all", "--out", "run").code == 0
    options = ("--phase-b", phase, "--seed", "4", "--layers", "1", "--sites", "gate")
    assert call("compare", "run", "run", *options, "--no-figures", "--out", "a").code == 0
    done = _repeat(_command(Path("a")), call, "b")
    assert done.code == 0, done.err
    _assert_same_tables(Path("a"), Path("b"), 3)
