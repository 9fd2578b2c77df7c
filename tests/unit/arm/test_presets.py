"""Presets: the published settings, how a model finds its own, and the rule that proposes some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distviz.arm.arm import ARM
from distviz.arm.presets import PRESETS, every_preset, find_preset, join_names, propose
from distviz.errors import RequestError
from distviz.stats.sketch import Sketch

# ARM.md, "Settings published for seven models", typed out by hand: (c or fraction, p1).
BENCHMARKS = ("gpqa", "math-500", "aime24", "aime25", "humaneval", "livecodebench")
QWEN: dict[str, list[tuple[float, float] | None]] = {
    "qwen2.5-math-1.5b": [
        (0.15, 99.5), (0.13, 99.5), (0.13, 99.5), (0.13, 99.5), (0.13, 99.5), None,
    ],
    "qwen2.5-math-7b": [(0.2, 99.5), (0.1, 95), (0.05, 90), (0.13, 99.5), (0.13, 95), None],
    "qwen2.5-7b-instruct": [(0.15, 99.5), (0.1, 99.5), None, (0.13, 95), (0.05, 90), (0.3, 99.5)],
    "qwen2.5-32b-instruct": [
        (0.05, 90.5), None, (0.13, 99.5), (0.05, 99), (0.13, 99.5), (0.3, 99.5),
    ],
}  # fmt: skip
LLAMA: dict[str, list[tuple[float, float] | None]] = {
    "llama-3.1-8b-instruct": [(0.45, 80), (0.32, 90), (0.32, 90), None, (0.3, 90), (0.3, 90)],
}
GEMMA: dict[str, list[tuple[float, float] | None]] = {
    "gemma-3-4b-it": [(0.5, 96.5), (0.25, 85), (0.25, 96.5), (0.25, 85), (0.25, 96.5), (0.25, 75)],
    "gemma-3-27b-it": [(0.5, 96.5), (0.25, 85), (0.25, 85), (0.25, 70), (0.25, 85), (0.25, 85)],
}


def published() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for table in (QWEN, LLAMA, GEMMA):
        for model, cells in table.items():
            for benchmark, cell in zip(BENCHMARKS, cells, strict=True):
                if cell is None:
                    continue
                first, p1 = cell
                if table is GEMMA:
                    entry = {"fraction": first, "p1": p1, "percentile_of": "magnitude"}
                else:
                    entry = {"c": first, "p1": p1} | ({"p_min": 0.2} if table is LLAMA else {})
                found[f"{model}:{benchmark}"] = entry
            default = "aime24" if model == "qwen2.5-32b-instruct" else "math-500"
            found[model] = found[f"{model}:{default}"]
    return found


def test_presets_are_those_of_the_paper() -> None:
    assert published() == PRESETS
    assert len(PRESETS) == 7 + 37


@pytest.mark.parametrize("name", sorted(published()))
def test_every_preset_builds(name: str) -> None:
    assert ARM(**(find_preset(name, None) or {})) == ARM(**published()[name])


@pytest.mark.parametrize(
    ("model", "preset"),
    [
        ("org/Qwen2.5-Math-7B", "qwen2.5-math-7b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("google/gemma-3-4b-it", "gemma-3-4b-it"),
        ("models/gemma-3-27b-it-Q4_K_M.gguf", "gemma-3-27b-it"),
        ("Qwen/Qwen2.5-7B-Instruct/", "qwen2.5-7b-instruct"),
    ],
)
def test_auto_finds_the_preset_by_model_name(model: str, preset: str) -> None:
    assert find_preset("auto", model) == published()[preset]


def test_unknown_presets() -> None:
    assert find_preset("auto", "org/some") is None
    assert find_preset("auto", None) is None
    with pytest.raises(RequestError, match=r"'gemma-3-4b' \(did you mean 'gemma-3-4b-it'\?\)"):
        find_preset("gemma-3-4b", None)
    with pytest.raises(RequestError, match=r"unknown preset 'qwen2\.5-32b-instruct:math-500'"):
        find_preset("qwen2.5-32b-instruct:math-500", None)
    assert find_preset("Gemma-3-4B-it:GPQA", None) == published()["gemma-3-4b-it:gpqa"]


def test_a_preset_is_a_copy() -> None:
    found = find_preset("gemma-3-4b-it", None)
    assert found is not None
    found["p1"] = 0
    assert find_preset("gemma-3-4b-it", None) == published()["gemma-3-4b-it"]


@pytest.mark.parametrize(
    ("near", "others", "expected"),
    [
        (95, 5, {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude"}),
        (60, 40, {"c": 0.1, "p1": 99.5}),
        (40, 60, {"c": 0.32, "p1": 90.0}),
    ],
)
def test_the_rule_of_thumb(near: int, others: int, expected: dict[str, Any]) -> None:
    values = np.array([1e-3] * near + [1.0, -1.0] * (others // 2) + [1.0] * (others % 2))
    found = propose(Sketch().add(values))
    assert found.settings == expected
    assert found.evidence.startswith(f"{near}% of the values")
    assert propose(Sketch().add(values * 100)).settings == expected


def test_names_of_presets() -> None:
    assert join_names(["m:a", "m:b", "m:c"]) == "m:a,b,c"
    assert (join_names(["m:a", "n:a"]), join_names([]), join_names(["proposed"])) == (
        "m:a,n:a", "", "proposed",
    )  # fmt: skip
    assert list(every_preset("qwen2.5-7b-instruct, gemma-3-4b-it:gpqa", None)) == [
        *(f"qwen2.5-7b-instruct:{one}"
          for one in ("gpqa", "math-500", "aime25", "humaneval", "livecodebench")),
        "gemma-3-4b-it:gpqa",
    ]  # fmt: skip
    assert every_preset("auto", "org/Gemma-3-4B-it") == every_preset("gemma-3-4b-it", None)
    assert every_preset("auto", "nobody") == {}
    with pytest.raises(RequestError, match="unknown preset 'gemma'"):
        every_preset("auto,gemma", "nobody")
