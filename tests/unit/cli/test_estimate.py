"""Bytes on disk and in memory that a plan names, against what the command writes and holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distviz.cli.commands import compare_study
from distviz.cli.dry_run import dry_run
from distviz.results import ROW

RUN = ["run", "demo", "--max-tokens", "1500"]
COMPARE = ["compare", "demo", "demo", "--max-tokens", "1500"]
EXTENDED = pytest.mark.extended


@pytest.mark.parametrize(
    "args",
    [
        pytest.param([*RUN], marks=EXTENDED, id="figures"),
        pytest.param([*RUN, "--no-figures"], id="plain"),
        pytest.param(
            [*RUN, "--no-figures", "--arm-layers", "none"], marks=EXTENDED, id="without ARM"
        ),
        pytest.param([*RUN, "--no-figures", "--tokens"], marks=EXTENDED, id="tokens"),
        pytest.param([*RUN, "--no-figures", "--tokens", "--dtype", "fp32"], id="tokens in fp32"),
        pytest.param([*RUN, "--no-figures", "--channels"], marks=EXTENDED, id="channels"),
        pytest.param([*RUN, "--no-figures", "--classes", "all"], id="classes"),
        pytest.param([*RUN, "--no-figures", "--sites", "act,residual"], marks=EXTENDED, id="sites"),
        pytest.param([*COMPARE, "--no-figures", "--b-dtype", "fp32"], id="compare"),
        pytest.param(
            [*COMPARE, "--b-dtype", "fp32", "--elementwise"], marks=EXTENDED, id="value by value"
        ),
    ],
)
def test_the_folder_is_as_large_as_planned(args: list[str], call: Any) -> None:
    plan = json.loads(call(*args, "-o", "out", "--dry-run", "--json").out)
    assert call(*args, "-o", "out").code == 0
    written = sum(path.stat().st_size for path in Path("out").rglob("*") if path.is_file())
    assert 1 / 1.3 < plan["disk_bytes"] / written < 1.3


def test_the_rows_of_tokens_are_written_twice(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    args = [*RUN, "-o", "out", "--no-figures", "--arm-layers", "0", "--tokens"]
    plan = json.loads(call(*args, "--dry-run", "--json").out)
    assert plan["temporary_bytes"] == plan["measurements"][0]["temporary_bytes"]
    assert "in temporary files" in call(*args, "--dry-run").out
    assert "in temporary files" not in call(*args[:-1], "--dry-run").out
    written = []
    append = "distviz.results.token_rows.RowFile.append"
    monkeypatch.setattr(append, lambda file, rows: written.append(rows.nbytes) or file)
    call(*args)
    assert plan["temporary_bytes"] == sum(written)
    assert plan["temporary_bytes"] == 1500 * 6 * 2 * ROW.itemsize


def test_what_waits_for_the_other_side_is_held(tiny_saved: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Anna had 12 apples. " * 9)
    flags = {"text": [str(text)], "out": str(tmp_path / "x"), "max_length": 16, "batch_size": 2}

    def activations(**by_value: bool) -> list[int]:
        chosen = {"elementwise": False, "local": False} | by_value
        sides = (str(tiny_saved), str(tiny_saved))
        found = dry_run(compare_study(*sides, "before", None, {}, chosen, flags, None)).as_dict()
        return [one["memory_bytes"]["activations"] for one in found["measurements"]]

    plain, by_value = activations(), activations(elementwise=True)
    local = activations(elementwise=True, local=True)
    config = json.loads((tiny_saved / "config.json").read_text())
    hidden, wide, layers = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    positions = 2 * 16
    assert by_value[0] - plain[0] == 4 * positions * layers * (2 * hidden + 2 * wide)
    assert local[0] - by_value[0] == 4 * positions * layers * hidden
    assert plain[1] == by_value[1] == local[1]
