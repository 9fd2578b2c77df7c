"""A sweep of the demo: each row is a run with the same settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.texts import TEXTS
from support.tiny_models import save_tiny

from distviz.data.documents import read_documents
from distviz.measure.measurement import measure
from distviz.measure.opening import corpus_of
from distviz.models.open import open_model
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.studies.sweep import (
    every_setting,
    first_place,
    layer_count,
    layers_with,
    sweep_model,
)
from distviz.studies.sweep_grid import SweepGrid

SETTINGS = RunSettings(max_length=24, batch_size=2)


@pytest.fixture(scope="module")
def opened(demo_folder: Any) -> Any:
    return open_model(str(demo_folder), device="cpu")


def test_a_row_is_the_effect_of_a_run(opened: Any) -> None:
    grid = SweepGrid(c="0.1,0.5", arm_layers="0;1,3")
    corpus = corpus_of(read_documents(TEXTS), opened, SETTINGS)
    chosen = every_setting(opened, grid, SETTINGS, is_by_layer=False)
    found = sweep_model(opened, corpus, SETTINGS, chosen, [0, 4], 0.05, Progress())
    assert len(found.seeds) == 2 * 2 * 2
    for row in found.seeds.itertuples():
        own = replace(SETTINGS, c=row.c, arm_layers=row.layers, seed=row.seed)
        effect = measure(opened, corpus, own).manifest["effect"]
        for name in ("loss_before", "loss_after", "kl", "top1_agreement"):
            assert getattr(row, name) == pytest.approx(effect[name], rel=1e-5, abs=1e-8)


def test_layers_of_a_sweep(opened: Any) -> None:
    assert layer_count(opened) == 6
    assert layers_with(opened, "act", None) == [0, 1, 2, 3, 4, 5]
    assert layers_with(opened, "act", "4;1,4") == [1, 4]
    by_layer = every_setting(opened, SweepGrid(c="0.1,0.2"), SETTINGS, is_by_layer=True)
    alone = [(layer,) for layer in range(6)]
    assert [setting.layers for setting in by_layer] == [*alone, tuple(range(6))] * 2
    grid = SweepGrid(arm_layers="2,3;1")
    assert first_place(opened, grid, SETTINGS, is_by_layer=False) == "2,3"
    assert first_place(opened, grid, SETTINGS, is_by_layer=True) == "1"


def test_routed_experts_count_a_row_for_every_choice(tmp_path: Any, demo_folder: Any) -> None:
    """Each token has a row in each of its experts, in the sums as in a run's distributions."""
    folder = save_tiny("mixtral", tmp_path / "moe", demo_folder)
    opened = open_model(str(folder), device="cpu")
    grid = SweepGrid(redistribution="threshold:0.01,quantize:int8-token", at="product,act")
    corpus = corpus_of(read_documents(TEXTS), opened, SETTINGS)
    chosen = every_setting(opened, grid, SETTINGS, is_by_layer=True)
    found = sweep_model(opened, corpus, SETTINGS, chosen, [0], 0.05, Progress(), is_by_layer=True)
    for row in found.table[found.table["layers"].str.len() == 1].itertuples():
        own = replace(
            SETTINGS,
            arm_layers=row.layers,
            redistribution=row.redistribution,
            at=row.at,
            sites=row.at,
        )
        run = measure(opened, corpus, own)
        assert row.kl == pytest.approx(run.manifest["effect"]["kl"], rel=1e-5, abs=1e-8)
        stats = run.stats().query(f"layer == {row.layers}")
        counts = stats.groupby("phase")["count"].sum()
        moved = counts["moved_after"] / counts["after"]
        assert row.fraction_moved == pytest.approx(moved, rel=1e-12)
