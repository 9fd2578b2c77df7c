"""Bytes on disk and in memory that a plan names, against what the command writes and holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distviz.cli.commands import compare_study
from distviz.cli.dry_run import dry_run
from distviz.measure import SpillBuffer
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


@pytest.mark.parametrize(
    "args",
    [
        pytest.param([*RUN, "--stream"], id="run"),
        pytest.param([*COMPARE, "--b-dtype", "fp32"], id="compare"),
        pytest.param([*COMPARE, "--stream"], marks=EXTENDED, id="streamed"),
        pytest.param([*COMPARE, "--stream", "--elementwise"], id="value by value"),
        pytest.param([*COMPARE, "--stream", "--elementwise", "--local"], id="by layer"),
    ],
)
@pytest.mark.parametrize("megabytes", [0, 1])
def test_the_file_of_what_waits_is_as_large_as_planned(
    args: list[str], megabytes: int, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*args, "-o", "out", "--no-figures", "--stream-memory", str(megabytes)]
    plan = json.loads(call(*given, "--dry-run", "--json").out)
    text = " ".join(call(*given, "--dry-run").out.split())
    named = f"in temporary files in {plan['temporary_folder']} meanwhile"
    assert (named in text) == (plan["temporary_bytes"] > 0)
    ends: dict[int, int] = {}
    largest = [0]
    store, close = SpillBuffer.store, SpillBuffer.close

    def stored(buffer: SpillBuffer, tensor: Any) -> Any:
        handle = store(buffer, tensor)
        ends[id(buffer)] = buffer._end
        largest[0] = max(largest[0], sum(ends.values()))
        return handle

    def closed(buffer: SpillBuffer) -> None:
        ends.pop(id(buffer), None)
        close(buffer)

    monkeypatch.setattr(SpillBuffer, "store", stored)
    monkeypatch.setattr(SpillBuffer, "close", closed)
    assert call(*given).code == 0
    # A tensor is in memory or in the file as a whole: the largest is a mask of 4 x 399 x 399.
    whole = 4 * 399**2 if megabytes else 0
    assert plan["temporary_bytes"] == pytest.approx(largest[0], rel=0.1, abs=whole)


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
    hidden, wide = (config[name] for name in ("hidden_size", "intermediate_size"))
    positions = 2 * 16
    assert by_value[0] - plain[0] == 4 * positions * (2 * hidden + 2 * wide)
    assert local[0] - by_value[0] == 4 * positions * hidden
    assert plain[1] == by_value[1] == local[1]
