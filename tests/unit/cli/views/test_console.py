"""On a console of ASCII and in a pipe: every result is shown, as wide as asked, and whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import synthetic_fillers
from support.synthetic_comparisons import make
from support.synthetic_runs import silu_run
from support.synthetic_sweeps import sweep_of

from distviz.cli.views.console import encode, encode_lines, paragraph
from distviz.reports import export as exports
from distviz.studies import comparison as comparing
from distviz.studies import whatif as questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

ROOT = Path(__file__).parents[4]
NAME = "modèle…"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("plain")
    first, second = make(1).run, make(2, scale=1.3, model={"name": NAME, "layers": 3}).run
    results = {
        "run": silu_run().run,
        "comparison": comparing.compare_runs(first, second),
        "filler": synthetic_fillers.study(),
        "sweep": sweep_of(),
        "layers": sweep_of(by_layer=True),
        "whatif": questions.evaluate_whatif(second, questions.parse_whatif(phases="before"), "é"),
    }
    for name, result in results.items():
        exports.write_folder(result, home / name, figures=())
    return home


def _plainly(words: list[str], width: int, encoding: str = "ascii") -> Any:
    plain = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "COLUMNS": str(width)}
    return subprocess.run(
        [sys.executable, "-m", "distviz", *words], capture_output=True, check=False,
        env=os.environ | plain | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0"},
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["run", "comparison", "filler", "sweep", "layers", "whatif"])
def test_every_kind_is_shown_in_ascii(folders: Path, kind: str) -> None:
    done = _plainly(["show", str(folders / kind), "--layers", "0"], 60)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "?" not in text
    *shown, folder = text.splitlines()
    assert folder.endswith(kind)
    assert all(len(line) <= 60 or len(line.rstrip("\\").split()) == 1 for line in shown)
    assert len(shown) > 5


def test_another_encoding_than_utf(folders: Path) -> None:
    done = _plainly(["show", str(folders / "comparison")], 80, "latin-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("latin-1")


def test_json_is_escaped_rather_than_mangled(folders: Path) -> None:
    done = _plainly(["show", str(folders / "whatif"), "--json"], 80)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.decode("ascii"))
    assert found["model"]["name"] == NAME
    assert found["run"] == "é"


def test_errors_are_printed_in_ascii() -> None:
    done = _plainly(["show", "nicht/da/é"], 80)
    assert done.returncode == 2
    assert b"which is not UTF-8" in done.stderr
    assert done.stderr.isascii()
    assert b"Traceback" not in done.stderr


def test_inspect_draws_in_ascii(call: Callable[..., Done]) -> None:
    done = _plainly(["inspect"], 60)
    assert done.returncode == 0, done.stderr
    assert b"RoPE" in done.stdout
    assert b"?" not in done.stdout


def test_names_stay_on_one_line() -> None:
    assert encode("a\nb\x1b[31m\u202e") == r"a\nb\x1b[31m\u202e"
    assert encode_lines("mean\nbefore\x07") == "mean\nbefore\\x07"
    assert paragraph("a\nb").plain == r"a\nb"
