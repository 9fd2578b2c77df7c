"""Completion of presets, lists and result folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from distviz.arm.presets import PRESETS
from distviz.cli import completion
from distviz.cli.completion import of_choices, presets, results
from distviz.results.loading import _KINDS


def test_presets_are_offered_model_first() -> None:
    assert presets("") == ["auto", *(name for name in PRESETS if ":" not in name)]
    assert presets("Gemma-3-4b-it:a") == ["gemma-3-4b-it:aime24", "gemma-3-4b-it:aime25"]
    assert len(presets("gemma-3-4b-it")) == 7
    assert presets("llama-4") == []


def test_a_list_does_not_offer_a_word_twice() -> None:
    complete = of_choices(("a", "ab", "b"), is_list=True)
    assert complete("a,") == ["a,ab", "a,b"]
    assert complete("a,a") == ["a,ab"]
    assert of_choices(("a", "ab", "b"), is_list=False)("a") == ["a", "ab"]


def test_result_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "run-1").mkdir(parents=True)
    (tmp_path / "work" / "run-1" / "run.json").touch()
    (tmp_path / "work" / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "work" / "plain")
    assert results("../") == ["../run-1"]
    assert results("../r") == ["../run-1"]
    assert results("") == results("x") == results("nowhere/") == []
    assert results(f"{tmp_path}/w") == [f"{tmp_path}/work/run-1"]


def test_result_folders_are_known_by_every_manifest() -> None:
    assert set(completion._MANIFESTS) == {kind.FILE for kind in _KINDS}
