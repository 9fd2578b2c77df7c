"""Functions made of commands: documents, settings, progress, what is left as it was."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import distviz
from distviz.cli import calls
from distviz.errors import RequestError
from distviz.progress import Progress
from distviz.results import Run
from distviz.settings import RunSettings

SHORT: dict[str, Any] = {"text": ["Anna had 12 apples."], "layers": 0, "arm_layers": "none"}


def test_a_function_shows_its_parameters() -> None:
    found = calls.as_function(calls.whatif)
    assert found.__name__ == "whatif"
    assert "sparsity" in inspect.signature(found).parameters
    assert inspect.signature(found).return_annotation == "WhatIf"
    text = inspect.getdoc(found) or ""
    assert "\nsparsity\n    Percentages of zeros" in text
    assert "--" not in text.replace("---", "")


def test_files_are_settings_and_other_documents_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Anna had 12 apples.")
    files = distviz.run(**SHORT | {"text": [path]})
    assert files.manifest["settings"]["text"] == [str(path)]
    memory = distviz.run(**SHORT)
    assert memory.manifest["settings"]["text"] == []
    assert memory.sketches == files.sketches


def test_settings_together(demo_run: Run) -> None:
    settings = RunSettings(layers="0", arm_layers="none", max_length=8)
    found = distviz.run(settings=settings, text=SHORT["text"])
    assert found.sketches == distviz.run(**SHORT, max_length=8).sketches
    for own, message in (
        ({"seed": 3}, "^seed and settings are given\ngive seed in settings$"),
        ({"sites": "act"}, "^sites and settings are given"),
        ({"settings": {"seed": 3}}, "^settings is a dict"),
        ({"settings": None, "given": frozenset()}, "has no parameter 'given'"),
    ):
        with pytest.raises(RequestError, match=message):
            distviz.run(**{"settings": settings} | own)
    with pytest.raises(RequestError, match=r"^given has no effect without settings"):
        distviz.compare(demo_run, demo_run, given=frozenset(("seed",)))


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    distviz.run(**SHORT)
    assert capsys.readouterr() == ("", "")
    distviz.run(**SHORT, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "loading the model\n" in err
    assert "measuring\n" in err

    class Stages(Progress):
        def stage(self, text: str) -> None:
            stages.append(text)

    stages: list[str] = []
    distviz.run(**SHORT, progress=Stages())
    assert "measuring" in stages
    with pytest.raises(RequestError, match=r"^progress is a str\n"):
        distviz.run(**SHORT, progress="yes")


def test_notes_name_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    distviz.run(**SHORT, stream_memory=100, progress=True)
    assert "warning: stream_memory has no effect" in capsys.readouterr().err


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    found = distviz.run(**SHORT, threads=before + 1)
    assert found.manifest["settings"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_opened_models_are_refused() -> None:
    for model in (torch.nn.Linear(1, 1), torch.nn.Linear, 3):
        for call in (distviz.run, distviz.sweep, distviz.filler, distviz.inspect):
            with pytest.raises(RequestError, match=r"distviz.\w+ loads models itself"):
                call(model)
        with pytest.raises(RequestError, match=r"distviz.compare loads models itself"):
            distviz.compare("demo", model)
    for function in (distviz.whatif, distviz.export, distviz.report):
        with pytest.raises((RequestError, TypeError), match=r"is a|loads|expected"):
            function(torch.nn.Linear(1, 1))


def test_text_beside_built_layers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "layer.toml"
    path.write_text("[layer]\nhidden_size = 8\nheads = 1\nkv_heads = 1\n")
    with pytest.raises(RequestError, match=r"^text has no effect on layers built from a TOML"):
        distviz.run(path, text=["A document."])
