"""The records of measuring commands: what is checked, default names."""

from __future__ import annotations

from typing import Any

import pytest

from distviz.cli.commands import (
    GRID,
    _SweepRequest,
    compare_study,
    filler_study,
    run_study,
    sweep_study,
)
from distviz.errors import RequestError
from distviz.settings import RunSettings

NO_LISTS = dict.fromkeys(GRID)


def sweep(lists: dict[str, Any], **settings: Any) -> _SweepRequest:
    return _SweepRequest(RunSettings(**settings), NO_LISTS | lists, 1, 0.05, by_layer=False)


def test_default_names_of_folders() -> None:
    assert run_study(None, {}, None).name == "demo"
    assert run_study("org/model", {}, None).name == "model"
    apart = {"elementwise": False, "local": False}
    study = compare_study("runs/a", "b.gguf", "before", "after", {}, apart, {}, None)
    assert study.name == "a-vs-b.gguf"
    assert filler_study("org/model", None, {}, None).name == "model-filler"
    assert sweep_study(None, NO_LISTS, 1, 0.05, False, {}, None).name == "demo-sweep"


@pytest.mark.parametrize(
    ("seeds", "budget", "message"),
    [(0, 0.05, "--seeds is 0"), (1, 0.0, "--budget-kl is 0"), (1, float("nan"), "--budget-kl")],
)
def test_a_sweep_that_is_refused(seeds: int, budget: float, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        sweep_study(None, NO_LISTS, seeds, budget, False, {}, None)


def test_layers_of_a_toml_are_refused(tmp_path: Any) -> None:
    toml = tmp_path / "layer.toml"
    toml.write_text("[layer]\n")
    with pytest.raises(RequestError, match="distviz filler needs a checkpoint"):
        filler_study(str(toml), None, {}, None)
    with pytest.raises(RequestError, match="distviz sweep needs a checkpoint"):
        sweep_study(str(toml), NO_LISTS, 1, 0.05, False, {}, None)


def test_the_default_grid_holds_where_nothing_is_listed() -> None:
    assert sweep({}).grid().c == "0.05,0.13,0.32,1"
    assert sweep({"arm_mode": "add"}).grid().p1 == "75,90,99.5"
    assert sweep({"c": "0.1"}).grid().p1 is None
    assert sweep({"arm_layers": ["0", "1"]}).grid().arm_layers == "0;1"
    assert sweep({}, preset="auto").grid().c is None


def test_settings_are_proposed_only_where_none_are_published() -> None:
    assert sweep({}).presets() == {}
    assert sweep({}, preset="auto").presets()["proposed"] == {}
