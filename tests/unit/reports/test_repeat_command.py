"""Commands that repeat a result: quoting, defaults left out, settings without an option."""

from __future__ import annotations

from typing import Any

import pytest

from distviz.reports.repeat_command import compare_command, run_command


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
