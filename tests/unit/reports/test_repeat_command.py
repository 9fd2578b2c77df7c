"""Commands that repeat a result: quoting, defaults left out, settings without an option."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from support.synthetic_allocations import allocation_of

from distviz.reports.repeat_command import (
    allocation_command,
    compare_command,
    run_command,
    whatif_command,
)
from distviz.results.whatif import WhatIf
from distviz.settings import RunSettings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ""),
        ({"model": "my model", "c": 0.13}, "distviz run 'my model'"),
        ({"model": "m", "c": 0.25, "ripple": False}, "distviz run m --c 0.25 --no-ripple"),
        ({"model": "m", "filler": "-x"}, "distviz run m --filler=-x"),
        ({"model": "m", "text": ["a.txt"]}, "distviz run m --text kept.jsonl"),
        ({"model": "m", "at": "product", "sites": "product"}, "distviz run m --at product"),
        ({"model": "m", "at": "q", "sites": "act"}, "distviz run m --sites act --at q"),
        (
            {"model": "m", "redistribution": "threshold:my file.csv"},
            "distviz run m --redistribution 'threshold:my file.csv'",
        ),
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


def comparison(
    manifest: dict[str, Any], a: dict[str, Any] | None = None, b: dict[str, Any] | None = None
) -> Any:
    """A comparison with these settings of its sides."""
    sides = [SimpleNamespace(manifest={"settings": own}, texts=None) for own in (a, b)]
    return SimpleNamespace(manifest=manifest, a=sides[0], b=sides[1])


def test_a_comparison() -> None:
    manifest = {"phase_a": "before", "phase_b": "after", "layers": [0, 2], "seed": 0}
    assert compare_command(comparison(manifest), "") == ""
    assert compare_command(comparison(manifest), "a b") == (
        "distviz compare 'a b/a' 'a b/b' --phase-b after --layers 0,2"
    )


A = {"model": "m", "dtype": "fp32", "max_tokens": 9, "layers": "0", "arm_layers": "none"}
SHARED = "--arm-layers none --max-tokens 9 --dtype fp32 --phase-b after"
FOLDERS = "distviz compare f/a f/b --phase-b after --layers 0"
ASKED = {"phase_a": "before", "phase_b": "after", "layers": [0], "seed": 0}


@pytest.mark.parametrize(
    ("b", "manifest", "expected"),
    [
        (
            {"dtype": "bf16", "c": 0, "arm_layers": "1", "allow_pickle": False},
            {"measured": ["a", "b"]},
            f"distviz compare m m --layers 0 {SHARED} --b-arm-layers 1 --b-c 0 --b-dtype bf16",
        ),
        (
            {"dtype": "bf16", "c": 0, "arm_layers": "none"},
            {"measured": ["a", "b"], "elementwise": {"sites": ["act", "residual"], "local": True}},
            f"distviz compare m m --layers 0 {SHARED} --elementwise --local --b-c 0 --b-dtype bf16",
        ),
        (
            {"arm_layers": "none"},
            {"measured": ["a", "b"], "elementwise": {"sites": ["act"], "local": False}},
            f"distviz compare m m --layers 0 {SHARED} --elementwise --sites act",
        ),
        # What no option for B can express: the runs in the folder are compared.
        ({"max_tokens": 8}, {"measured": ["a", "b"]}, FOLDERS),
        (
            {"dtype": "bf16", "c": 0.3},
            {"measured": ["b"], "of_b": {"b_c": 0.3}},
            "distviz compare f/a m --phase-b after --layers 0 --b-c 0.3",
        ),
        ({"dtype": "bf16"}, {"measured": ["b"]}, FOLDERS),
    ],
)  # fmt: skip
def test_a_comparison_that_measured_its_sides(
    b: dict[str, Any], manifest: dict[str, Any], expected: str
) -> None:
    assert compare_command(comparison(ASKED | manifest, A, A | b), "f") == expected


def test_a_comparison_says_that_an_option_of_b_runs_code() -> None:
    own = {"trust_remote_code": True, "redistribution": "mine:f"}
    for manifest in ({"measured": ["a", "b"]}, {"of_b": {f"b_{name}": own[name] for name in own}}):
        note, line = compare_command(comparison(manifest, A, A | own), "f").split("\n")
        assert note.startswith("# --b-redistribution, --b-trust-remote-code: code that")
        assert line.endswith("--b-redistribution mine:f --b-trust-remote-code")


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
        compare_command(
            comparison(
                {"phase_a": EVIL, "layers": [EVIL], "sites": EVIL, "seed": EVIL}
                | {"measured": ["a", "b"], "of_b": {EVIL: EVIL}},
                settings,
                settings | {"dtype": EVIL, EVIL: EVIL},
            ),
            EVIL,
        ),
    ):
        script = f"distviz() {{ :; }}\n{command}\n"
        subprocess.run(["bash", "-c", script], cwd=tmp_path, check=False, capture_output=True)
        assert not (tmp_path / "ran").exists(), command


def test_an_argument_is_never_an_option() -> None:
    settings = {"model": "--allow-pickle", "text": ["-x"]}
    expected = "distviz run ./--allow-pickle --text ./-y"
    assert run_command({"settings": settings}, "-y") == expected


def test_what_has_no_effect_is_not_typed() -> None:
    settings = RunSettings(arm_layers="none", filler_count=3, c=0.5, figures=[], centred=True)
    line = "distviz run --arm-layers none --c 0.5"
    assert run_command({"settings": settings.as_dict()}, None).startswith(line)
    assert "filler" not in run_command({"settings": settings.as_dict()}, None)
    assert "centred" not in run_command({"settings": settings.as_dict()}, None)


def test_an_allocation() -> None:
    found = allocation_of()
    assert allocation_command(found) == ""
    found.manifest["settings"] = {"model": "my model", "max_tokens": 99}
    found.manifest["settings"] |= {"at": "mlp_in,product", "sites": "mlp_in,product"}
    found.manifest["asked"]["arm_layers"] = "0-4"
    assert allocation_command(found) == (
        "distviz sweep 'my model' --max-tokens 99 --at mlp_in,product --allocate 50% "
        "--arm-layers 0-4 --budget-kl 0.05"
    )
