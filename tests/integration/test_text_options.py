"""Options that choose documents: the same of them in every command."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import Done

import distviz

ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"It is {2 * n}."} for n in range(9)]
FAST = ("--figures", "none", "--quiet")
Call = Callable[..., Done]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return path


def documents(run: Path) -> list[dict[str, Any]]:
    lines = (run / "documents.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_and_the_command_that_repeats_it(call: Call, rows: Path, tmp_path: Path) -> None:
    chosen = ("--text", str(rows), "--max-documents", "4", "--shuffle", "--seed", "3")
    assert call("run", *chosen, *FAST, "--out", str(tmp_path / "a")).code == 0
    found = documents(tmp_path / "a")
    assert len(found) == 4
    assert [int(one["id"]) for one in found] != [0, 1, 2, 3]
    for one in found:
        row = ROWS[int(one["id"])]
        asked, answered = one["messages"]
        assert asked == {"role": "user", "content": row["question"]}
        assert answered == {"role": "assistant", "content": row["answer"]}

    again = ("--text", str(tmp_path / "a" / "documents.jsonl"), "--seed", "3")
    assert call("run", *again, *FAST, "--out", str(tmp_path / "b")).code == 0
    assert documents(tmp_path / "b") == found
    page = tmp_path / "report.html"
    assert call("report", str(tmp_path / "a"), "--out", str(page)).code == 0
    repeated = f"distviz run --text {tmp_path}/a/documents.jsonl --seed 3"
    assert repeated in page.read_text("utf-8").replace("\n", " ")

    # A finished run answers the same request, and no other.
    asked_again = (*chosen, *FAST, "--out", str(tmp_path / "a"), "--resume")
    assert call("run", *asked_again).code == 0
    assert call("run", *asked_again, "--max-documents", "3").code == 2


def test_python_has_the_same_options(rows: Path) -> None:
    found = distviz.run(text=[rows], text_field="answer", max_documents=2, arm_layers="none")
    assert [one["text"] for one in found.texts] == ["It is 0.", "It is 2."]


def test_both_sides_of_a_comparison_read_the_same(call: Call, rows: Path, tmp_path: Path) -> None:
    demo = str(Path(distviz.__file__).parent / "demo")
    chosen = ("--text", str(rows), "--max-documents", "3", "--shuffle")
    out = tmp_path / "c"
    done = call("compare", demo, demo, "--b-dtype", "fp32", *chosen, *FAST, "--out", str(out))
    assert done.code == 0, done.err
    assert documents(out / "a") == documents(out / "b")
    assert len(documents(out / "a")) == 3
    # The text of a run is what it read: nothing of it is left out in silence.
    done = call("compare", str(out / "a"), demo, "--max-documents", "2", *FAST)
    assert done.code == 2
    assert "--max-documents has no effect on the text of a run" in done.err


def test_a_sweep_and_a_study_of_fillers(call: Call, rows: Path, tmp_path: Path) -> None:
    chosen = ("--text", str(rows), "--text-field", "question", "--max-documents", "2")
    done = call("sweep", "--c", "0.13", *chosen, *FAST, "--out", str(tmp_path / "s"))
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "s" / "sweep.json").read_text("utf-8"))
    assert manifest["text"]["documents"] == 2
    demo = str(Path(distviz.__file__).parent / "demo")
    chosen = ("--counts", "2", "--max-documents", "3", "--out", str(tmp_path / "f"))
    done = call("filler", demo, *chosen, *FAST)
    assert done.code == 0, done.err
    assert len(documents(tmp_path / "f" / "count_000")) == 3


def test_options_without_effect(call: Call, rows: Path, tmp_path: Path) -> None:
    built = Path(__file__).parents[2] / "sample_configs" / "silu_layer.toml"
    for option in (["--max-documents", "3"], ["--shuffle"], ["--dataset", str(tmp_path)]):
        done = call("run", str(built), *option, *FAST)
        assert done.code == 2
        assert "their input is random" in done.err
    done = call("run", "--text", str(rows), "--text-lines", *FAST)
    assert done.code == 2
    assert "has rows already" in done.err
