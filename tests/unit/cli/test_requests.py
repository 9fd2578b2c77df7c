"""The study that arguments ask for, by command."""

from __future__ import annotations

from typing import Any

import pytest

from distviz.cli.parameters import arguments_of
from distviz.cli.requests import study_of
from distviz.settings import RunSettings


@pytest.mark.parametrize(
    ("command", "values", "manifest", "name"),
    [
        ("run", {}, "run.json", "demo"),
        ("compare", {"a": "demo", "b": "x/tiny"}, "comparison.json", "demo-vs-tiny"),
        ("filler", {"model": "demo", "counts": 3}, "filler.json", "demo-filler"),
        ("sweep", {"c": [0.1, 1]}, "sweep.json", "demo-sweep"),
        ("sweep", {"allocate": "50%"}, "allocation.json", "demo-allocation"),
    ],
)
def test_each_command_has_its_study(
    command: str, values: dict[str, Any], manifest: str, name: str
) -> None:
    found = study_of(command, arguments_of(command, values | {"seed": 3}))
    assert (found.command, found.manifest, found.name) == (command, manifest, name)
    assert found.settings.seed == 3


def test_settings_take_the_place_of_arguments() -> None:
    settings = RunSettings(seed=7)
    assert study_of("run", arguments_of("run", {}), settings).settings == settings
    sides = arguments_of("compare", {"a": "demo", "b": "demo"})
    assert study_of("compare", sides, settings, frozenset(("seed",))).settings.seed == 7


def test_documents_are_part_of_the_settings_but_not_recorded() -> None:
    given = arguments_of("run", {})
    given.texts = ("A document.",)
    settings = study_of("run", given).settings
    assert settings.texts == ("A document.",)
    assert settings.names_text
    assert "text" in settings.explicit
    assert "texts" not in settings.explicit
    assert "texts" not in settings.as_dict()
