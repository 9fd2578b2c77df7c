"""Commands that repeat a result: quoting, defaults left out, settings without an option."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distviz.reports.repeat_command import compare_command, run_command, whatif_command
from distviz.results.whatif import WhatIf


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ""),
        ({"model": "my model", "c": 0.13}, "distviz run 'my model'"),
        ({"model": "m", "c": 0.25, "ripple": False}, "distviz run m --c 0.25 --no-ripple"),
        ({"model": "m", "filler": "-x"}, "distviz run m --filler=-x"),
        ({"model": "m", "text": ["a.txt"]}, "distviz run m --text kept.jsonl"),
    ],
)
def test_a_run(settings: dict[str, Any], expected: str) -> None:
    assert run_command({"settings": settings}, "kept.jsonl") == expected


def test_a_described_layer_needs_a_file() -> None:
    settings = {"layer": {"layers": 2, "activation": 'ge"lu'}}
    lines = run_command({"settings": settings}, None).split("\n")
    assert lines[0] == "cat > distviz-settings.toml <<'END'"
    assert lines[-1] == "distviz run distviz-settings.toml"
    assert 'activation = "ge\\"lu"' in lines


def test_a_comparison() -> None:
    manifest = {"phase_a": "before", "phase_b": "after", "layers": [0, 2], "seed": 0}
    assert compare_command(manifest, "") == ""
    assert compare_command(manifest, "a b") == (
        "distviz compare 'a b/a' 'a b/b' --phase-b after --layers 0,2"
    )


def test_a_command_that_runs_code_says_so() -> None:
    settings = {"model": "m", "redistribution": "mine:f", "trust_remote_code": True}
    note, line = run_command({"settings": settings}, None).split("\n")
    assert note.startswith("# --redistribution, --trust-remote-code: code that")
    assert line == "distviz run m --redistribution mine:f --trust-remote-code"


EVIL = "x\nEND\ntouch ran; #$(touch ran)`touch ran`'\"; touch ran\n"


@pytest.mark.parametrize(
    "settings",
    [
        {"model": EVIL, "text": [EVIL], "c": EVIL, "classes": EVIL, "redistribution": f"a:{EVIL}"},
        {"layer": {"architecture": EVIL, "config": {EVIL: EVIL}}, "seed": [EVIL]},
        {"model": "m", "filler": EVIL, "attention_layers": EVIL, EVIL: EVIL},
    ],
)
def test_what_a_folder_says_is_never_a_command_of_its_own(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    asked = {"run": EVIL, EVIL: EVIL, "c; touch ran": True, "sparsity": EVIL}
    results = WhatIf({"asked": asked}, pd.DataFrame())
    for command in (
        run_command({"settings": settings}, EVIL),
        whatif_command(results),
        compare_command({"phase_a": EVIL, "layers": [EVIL], "sites": EVIL, "seed": EVIL}, EVIL),
    ):
        script = f"distviz() {{ :; }}\n{command}\n"
        subprocess.run(["bash", "-c", script], cwd=tmp_path, check=False, capture_output=True)
        assert not (tmp_path / "ran").exists(), command


def test_an_argument_is_never_an_option() -> None:
    settings = {"model": "--allow-pickle", "text": ["-x"]}
    expected = "distviz run ./--allow-pickle --text ./-y"
    assert run_command({"settings": settings}, "-y") == expected
