"""Two models compared value by value: against plain hooks in float64, and what is refused."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.texts import TEXTS, text_files
from support.tiny_models import save_tiny, save_tiny_llama

import distviz
from distviz.errors import RequestError
from distviz.results import Comparison, rounding_level
from distviz.settings import OPTIONS, RunSettings
from distviz.sites import HookPoint
from distviz.stats import Difference, Differences, infer_sqnr
from distviz.studies.elementwise import infer_places

LENGTH = 24


def _compare(a: Any, b: Any, **options: Any) -> Comparison:
    """Compare two models on `TEXTS`; options of the measurement, of side B, and of `compare`."""
    texts = options.pop("text", TEXTS)
    own = {name: options.pop(name) for name in list(options) if name in OPTIONS}
    with text_files(texts) as files:
        own |= {"text": files, "max_length": LENGTH, "device": "cpu"}
        settings = RunSettings(**own)
        given = {"settings": settings, "given": frozenset(own), "elementwise": True}
        return distviz.compare(a, b, **given | options)


@pytest.fixture(scope="module")
def wide(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo in float32."""
    return _copy(demo_folder, tmp_path_factory.mktemp("wide") / "a", lambda _: None)


@pytest.fixture(scope="module")
def edited(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo in float32 with one weight of layer 3 changed."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.3.mlp.down_proj.weight"][5, 7] += 1.0

    return _copy(demo_folder, tmp_path_factory.mktemp("edited") / "b", change)


def _copy(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    weights = {name: w.float() for name, w in load_file(target / "model.safetensors").items()}
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = (target / "config.json").read_text("utf-8").replace("bfloat16", "float32")
    (target / "config.json").write_text(config, "utf-8")
    return target


# Intervals and verdict ----------------------------------------------------------------------


def test_the_interval_is_that_of_the_sums_over_documents() -> None:
    """A document that a place has not is left out there; the level is that of the layer."""
    made = np.random.default_rng(4)
    energy, share = made.gamma(9, 1.0, 12), made.gamma(4, 1e-4, 12)
    sums = {n: Difference(energy[n] * share[n], energy[n], count=1) for n in range(12)}
    places = {
        HookPoint(0, "decoder", "act", "a", "output"): sums,
        HookPoint(3, "decoder", "act", "b", "output"): {n: sums[n] for n in range(7)},
        HookPoint(3, "decoder", "residual", "c", "output"): sums,
    }
    found = infer_places(
        {point: Differences(documents=one) for point, one in places.items()}, ["bfloat16"]
    )
    error = energy * share
    levels = np.array([rounding_level(layer, ["bfloat16"]) for layer in (0, 3)])
    both = infer_sqnr(np.stack([error] * 2), np.stack([energy] * 2), levels)
    columns = ["estimate", "ci_low", "ci_high", "p_value", "documents"]
    pd.testing.assert_frame_equal(found.iloc[[0, 2]][columns].reset_index(drop=True), both[columns])
    assert found["documents"].tolist() == [12, 7, 12]
    assert np.isnan(found["ci_low"].iloc[1])
    assert found["layer_a"].tolist() == found["layer_b"].tolist() == [0, 3, 3]


def test_the_ratios_stand_in_the_inference(wide: Path, edited: Path, tmp_path: Path) -> None:
    found = _compare(wide, edited, text=TEXTS * 3, b_attn_implementation="eager")
    found.save(tmp_path / "saved")
    again = Comparison.load(tmp_path / "saved")
    table = found.elementwise["elementwise"]
    rows = again.inference[again.inference["quantity"] == "sqnr_db"].reset_index(drop=True)
    columns = {"sqnr_db": "estimate", "sqnr_low": "ci_low", "sqnr_high": "ci_high"}
    columns |= {"layer": "layer_a", "site": "site", "module": "module", "stack": "stack"}
    for name, other in (columns | {"approximate": "approximate"}).items():
        pd.testing.assert_series_equal(table[name], rows[other], check_names=False)
    assert rows["paired"].all()
    assert (rows["documents"] == 3 * len(TEXTS)).all()
    changed = rows[(rows["layer_a"] > 3) & (rows["site"] == "residual")]
    assert (changed["p_adjusted"] < 0.05).all()
    assert (rows[rows["layer_a"] < 3]["p_value"] == 1).all()
    assert set(again.select([4]).inference["layer_a"]) <= {4, -1}


def test_one_weight_shows_the_layer_where_it_is(wide: Path, edited: Path) -> None:
    found = _compare(wide, edited, local=True)
    note = found.manifest["elementwise"]
    assert (note["first"]["layer"], note["first"]["site"]) == (3, "residual")
    assert "first differ by more than rounding at layer 3, residual" in note["verdict"]
    table = found.elementwise["elementwise"]
    own = table[table["local_relative_error"] > 0]
    assert list(zip(own["layer"], own["site"], strict=True)) == [(3, "residual")]


def test_a_model_and_itself_are_equal(demo_folder: Path) -> None:
    found = _compare(demo_folder, demo_folder, sites="act,up,module:*.mlp", batch_size=2)
    table = found.elementwise["elementwise"]
    assert set(table["site"]) == {"act", "up", "module:*.mlp"}
    zero = ["relative_error", "mean_abs_difference", "max_abs_difference"]
    assert (table[zero] == 0).all(axis=None)
    assert (table[["cosine", "cosine_tokens"]] == 1).all(axis=None)
    assert (table["sqnr_db"] == np.inf).all()
    assert found.manifest["elementwise"]["verdict"] == "all values are equal"
    assert not len(found.elementwise["elementwise_tokens"])


def test_rounding_alone_is_said(demo_folder: Path) -> None:
    found = _compare(demo_folder, demo_folder, b_attn_implementation="eager")
    note = found.manifest["elementwise"]
    assert note["first"] is None
    assert note["verdict"].startswith("no place differs by more than rounding")


def test_arm_on_one_side(demo_folder: Path) -> None:
    found = _compare(demo_folder, demo_folder, b_arm_layers="2", layers="0-3", sites="act,residual")
    note, table = found.manifest["elementwise"], found.elementwise["elementwise"]
    assert (note["first"]["layer"], note["first"]["site"]) == (2, "act")
    run = distviz.run(
        demo_folder, text=TEXTS, max_length=LENGTH, device="cpu", arm_layers="2", layers="2-3",
        sites="act,residual",
    )  # fmt: skip
    moved = run.stats().set_index(["layer", "site", "phase"])["mean_abs_change"]
    for row in table[table["layer"] >= 2].to_dict("records"):
        expected = moved[row["layer"], row["site"], "after"]
        assert row["mean_abs_difference"] == pytest.approx(expected, rel=1e-6)


# Folders and refusals -----------------------------------------------------------------------


def test_the_tables_survive_the_disk(wide: Path, edited: Path, tmp_path: Path) -> None:
    found = _compare(wide, edited, layers="2-4")
    found.save(tmp_path / "saved")
    again = Comparison.load(tmp_path / "saved")
    assert again.manifest["elementwise"] == found.manifest["elementwise"]
    for name, table in found.elementwise.items():
        pd.testing.assert_frame_equal(again.elementwise[name], table, check_dtype=False)
    (tmp_path / "saved" / "elementwise.csv").unlink()
    with pytest.raises(RequestError, match=r"elementwise\.csv"):
        Comparison.load(tmp_path / "saved")
    chosen = again.select([3]).elementwise["elementwise"]
    assert set(chosen["layer"]) == {3}


def test_a_saved_run_has_no_values(demo_folder: Path, demo_run: Any) -> None:
    with pytest.raises(RequestError, match="B is a saved run, which has no single values"):
        _compare(demo_folder, demo_run)
    with pytest.raises(RequestError, match="local=True has no effect without elementwise=True"):
        distviz.compare(demo_folder, demo_folder, local=True)
    with pytest.raises(RequestError, match="B is set to ripple = false"):
        _compare(demo_folder, demo_folder, ripple=False, b_arm_layers="2")


def test_what_is_left_out_is_named_with_its_layers(demo_folder: Path, tmp_path: Path) -> None:
    """Sites of another width, and sites that one model alone has."""
    pruned = save_tiny_llama(tmp_path / "pruned", demo_folder, intermediate_size=40)
    found = _compare(save_tiny_llama(tmp_path / "whole", demo_folder), pruned)
    assert set(found.elementwise["elementwise"]["site"]) == {"residual", "attention"}
    notes = [one for one in found.manifest["warnings"] if "value by value" in one]
    assert notes == [
        f"{site} in layers 0-1 is not compared value by value: it has 48 channels in A and 40 in B"
        for site in ("act", "product")
    ]
    whole = save_tiny("llama", tmp_path / "llama", demo_folder)
    experts = save_tiny("mixtral", tmp_path / "mixtral", demo_folder)
    notes = _compare(whole, experts, sites="residual,product").manifest["warnings"]
    assert any(one.startswith("product in layers 0-3 is not compared value") for one in notes)


def test_a_text_from_a_pipe_is_read_once(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXTS[0].encode())))
    settings = RunSettings(text=["-"], max_length=LENGTH, device="cpu")
    found = distviz.compare(demo_folder, demo_folder, settings=settings, elementwise=True)
    assert found.manifest["elementwise"]["verdict"] == "all values are equal"
