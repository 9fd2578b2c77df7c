"""The table of an expert: exact but for near-zero, and that within its bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import eps_of, on_grid, raw
from support.texts import TEXTS
from support.tiny_experts import FAMILIES, call, tiny_experts
from support.tiny_models import save_tokenizer

import distviz
from distviz.hooks.expert_recorder import ExpertTable, coarse_cells
from distviz.hooks.recorder import Recorder
from distviz.stats import kernels
from distviz.stats import serialize as packing
from distviz.stats.sketch import Sketch

if TYPE_CHECKING:
    from pathlib import Path

EXACT = ["tokens", "count", "nan", "inf", "zeros", "min", "max"]


def drawn(
    dtype: torch.dtype, seed: int = 0, rows: int = 90, n_experts: int = 5
) -> tuple[torch.Tensor, Any]:
    """SiLU-like rows of several scales, a few NaN, infinities and zeros; expert 3 has none."""
    maker = torch.Generator().manual_seed(seed)
    experts = torch.randint(0, n_experts, (rows,), generator=maker)
    experts = torch.where(experts == 3, 0, experts)
    experts[torch.rand(rows, generator=maker) < 0.1] = -1
    values = torch.randn(rows, 17, generator=maker) * (1 + experts[:, None].double()).float()
    values = torch.nn.functional.silu(values)
    values[5, 3], values[9, 2], values[9, 4] = math.nan, math.inf, -math.inf
    values[20:24, 1] = 0.0
    values[24, 1] = -0.0
    return values.to(dtype), experts.numpy()


def rows_by_hand(values: torch.Tensor, experts: Any, eps: float) -> list[dict[str, float]]:
    rows = []
    for expert in range(5):
        x = values[torch.from_numpy(experts == expert)].double().numpy().ravel()
        finite = x[np.isfinite(x)]
        near = np.abs(on_grid(finite) if values.dtype == torch.float32 else finite) < eps
        rows.append({
            "tokens": int((experts == expert).sum()),
            "count": finite.size,
            "nan": int(np.isnan(x).sum()),
            "inf": int(np.isinf(x).sum()),
            "zeros": int((finite == 0).sum()),
            "min": finite.min(initial=math.inf) if finite.size else math.nan,
            "max": finite.max(initial=-math.inf) if finite.size else math.nan,
            "mean": finite.mean() if finite.size else math.nan,
            "std": finite.std() if finite.size else math.nan,
            "near": int(near.sum()),
        })  # fmt: skip
    return rows


@pytest.mark.parametrize("forced", [False, True], ids=["compiled", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_by_hand(dtype: torch.dtype, forced: bool) -> None:
    values, experts = drawn(dtype)
    table = ExpertTable.empty(5)
    if forced:
        with kernels.force_torch():
            table.add(values, experts)
    else:
        table.add(values, experts)
    together = Sketch().add(values, experts >= 0)
    for eps in (0.03, 0.11, 0.5, 0.0, 1e-9, 1e9):
        expected = rows_by_hand(values, experts, eps)
        found = table.rows(eps, together)
        for row, by_hand in zip(found, expected, strict=True):
            for name in EXACT:
                assert row[name] == pytest.approx(by_hand[name], rel=0, nan_ok=True), name
            assert row["mean"] == pytest.approx(by_hand["mean"], rel=1e-6, abs=1e-9, nan_ok=True)
            assert row["std"] == pytest.approx(by_hand["std"], rel=1e-6, nan_ok=True)
            if by_hand["count"]:
                share = by_hand["near"] / by_hand["count"]
                assert row["near_zero_low"] <= share <= row["near_zero_high"]
                assert row["near_zero_low"] <= row["near_zero"] <= row["near_zero_high"]
            else:
                assert math.isnan(row["near_zero"])
        near = sum(row["near_zero"] * row["count"] for row in found if row["count"])
        assert near == pytest.approx(sum(row["near"] for row in expected), abs=1e-6)


def test_the_bound_is_the_cell() -> None:
    """High minus low is what lies in one cell: an eighth of a factor of two, no more."""
    values = torch.from_numpy(np.linspace(1e-3, 2, 40_000).reshape(-1, 8)).to(torch.bfloat16)
    table = ExpertTable.empty(1)
    table.add(values, np.zeros(values.shape[0], np.int64))
    (row,) = table.rows(0.3, Sketch().add(values))
    assert row["near_zero_high"] / row["near_zero_low"] <= 1.125 / 1.0 + 0.01
    assert row["near_zero"] == pytest.approx((values < 0.3).double().mean().item(), abs=1e-9)


def test_cells_are_eight_to_an_octave() -> None:
    x = np.array([0.0, 1e-30, 2.0**-40, 1.0, 1.1249, 1.125, 1.9999, 2.0, 2.0**23, 1e30])
    assert coarse_cells(x).tolist() == [0, 0, 0, 320, 320, 321, 327, 328, 504, 511]
    rising = coarse_cells(np.geomspace(1e-15, 1e9, 10_000))
    assert (np.diff(rising) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tables_add_in_any_order_and_come_back_from_their_state(dtype: torch.dtype) -> None:
    parts = []
    for seed in range(3):
        part = ExpertTable.empty(5)
        part.add(*drawn(dtype, seed))
        parts.append(part)
    one, other = parts[0] + parts[1] + parts[2], parts[2] + (parts[1] + parts[0])
    sketch = Sketch().add(drawn(dtype)[0])
    assert str(one.rows(0.1, sketch)) == str(other.rows(0.1, sketch))
    np.testing.assert_array_equal(one.tables, other.tables)
    restored = ExpertTable.from_state(packing.decode(packing.encode(one.state())))
    assert str(restored.rows(0.1, sketch)) == str(one.rows(0.1, sketch))
    np.testing.assert_array_equal(restored.tables, one.tables)
    assert sum(part.counts[0].sum() for part in parts) == one.counts[0].sum()


def test_more_experts_than_are_counted_at_a_time() -> None:
    experts = np.arange(100) % 70
    values = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    table = ExpertTable.empty(75)
    table.add(values, experts)
    assert table.counts[0].tolist() == np.bincount(experts, minlength=75).tolist()
    for expert in (0, 31, 32, 64, 69):
        own = values[torch.from_numpy(experts == expert)]
        assert table.high[expert] == own.max().item()
        assert table.tables[expert].sum() == own.numel()


# In a run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    """A tiny Mixtral with the demo's tokenizer."""
    place = tmp_path_factory.mktemp("saved") / "tiny-mixtral"
    model = tiny_experts("mixtral", vocab_size=2048)
    model.save_pretrained(place)
    save_tokenizer(demo_folder, place)
    return place


@pytest.fixture(scope="module")
def measured(folder: Path) -> Any:
    return distviz.run(
        str(folder), text=TEXTS, arm_layers="0,1", max_length=24, batch_size=2, device="cpu",
        sites="gate,act", classes="all",
    )  # fmt: skip


def test_a_run_describes_each_expert(measured: Any) -> None:
    frame = measured.experts
    assert list(frame.columns) == [
        "layer", "site", "phase", "expert", "tokens", "count", "nan", "inf", "zeros", "min", "max",
        "mean", "std", "near_zero", "near_zero_low", "near_zero_high", "module", "stack",
    ]  # fmt: skip
    stats = measured.stats().set_index(["layer", "site", "phase"])
    n_tokens = measured.manifest["text"]["counted"]
    groups = frame.groupby(["layer", "site", "phase"])
    assert set(groups.groups) == {
        key for key in stats.index if key[2] in ("before", "after", "arm_input")
    }
    for key, rows in groups:
        assert rows["expert"].tolist() == [0, 1, 2, 3]
        assert rows["tokens"].sum() == 2 * n_tokens
        whole = stats.loc[key]
        assert rows["count"].sum() == whole["count"] == 2 * n_tokens * 24
        assert rows["min"].min() == whole["min"]
        assert rows["max"].max() == whole["max"]
        near = (rows["near_zero"] * rows["count"]).sum()
        assert near == pytest.approx(whole["near_zero"] * whole["count"], rel=1e-9)
        mean = (rows["mean"] * rows["count"]).sum() / rows["count"].sum()
        assert mean == pytest.approx(whole["mean"], rel=1e-9, abs=1e-12)


def test_token_classes_count_each_choice_of_a_token(measured: Any) -> None:
    classes = measured.manifest["token_classes"]
    for key, by_class in measured.sketches.items():
        if key.phase in ("before", "after", "arm_input"):
            found = {name: sketch.count for name, sketch in by_class.items()}
            assert found == {name: number * 2 * 24 for name, number in classes.items()}


def test_plans_of_routed_layers(measured: Any) -> None:
    plans = measured.plans
    assert sorted(set(plans["layer"])) == [0, 1]
    by_document = measured.documents.query("phase == 'before' and site == 'act'")
    for layer in (0, 1):
        counted = by_document[by_document["layer"] == layer].groupby("document")["count"].sum()
        planned = plans[plans["layer"] == layer].groupby("document")["n"].sum()
        assert planned.to_dict() == counted.to_dict()
    moved = measured.sketch(0, "act", "moved_before").count
    assert moved == measured.sketch(0, "act", "moved_after").count
    assert moved == plans[plans["layer"] == 0]["k"].sum()
    assert measured.manifest["effect"]["kl"] > 0


@pytest.mark.parametrize("implementation", ["eager", "batched_mm"])
def test_runs_do_not_depend_on_the_implementation(
    folder: Path, measured: Any, implementation: str
) -> None:
    from distviz.data.corpus import tokenize
    from distviz.data.documents import read_documents
    from distviz.measure.measurement import measure
    from distviz.models.open import open_model
    from distviz.settings import RunSettings

    settings = RunSettings(
        model=str(folder), arm_layers="0,1", max_length=24, batch_size=2, device="cpu",
        sites="gate,act", classes="all",
    )  # fmt: skip
    opened = open_model(str(folder), device="cpu")
    opened.model.set_experts_implementation(implementation)
    corpus = tokenize(read_documents(TEXTS), opened.tokenizer, max_length=24)
    other = measure(opened, corpus, settings)
    assert opened.model.config._experts_implementation == implementation
    note = "the experts ran on grouped_mm instead of eager: ARM needs all their values at once"
    assert (note in other.manifest["warnings"]) == (implementation == "eager")
    same = ["layer", "site", "phase", "expert", "tokens", "count"]
    before = measured.experts["phase"] == "before"
    pd.testing.assert_frame_equal(measured.experts[before][same], other.experts[before][same])
    for column in ("mean", "std", "max"):
        np.testing.assert_allclose(
            measured.experts[before][column], other.experts[before][column], rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(measured.plans["eps"], other.plans["eps"], rtol=1e-3)
    assert measured.plans["n"].tolist() == other.plans["n"].tolist()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_runs_do_not_depend_on_the_batch_size(folder: Path, measured: Any, batch_size: int) -> None:
    other = distviz.run(
        str(folder), text=TEXTS, arm_layers="0,1", max_length=24, batch_size=batch_size,
        device="cpu", sites="gate,act", classes="all",
    )  # fmt: skip
    order = ["layer", "document", "window"]
    one, two = (run.plans.sort_values(order, ignore_index=True) for run in (measured, other))
    assert one["n"].tolist() == two["n"].tolist()
    first = one["layer"] == 0
    for column in ("eps", "upper", "lower"):
        np.testing.assert_allclose(one[first][column], two[first][column], rtol=1e-4)
    a, b = (run.sketch(0, "act", "after") for run in (measured, other))
    assert a.count == b.count
    assert a.mean() == pytest.approx(b.mean(), rel=1e-3)


def test_the_model_does_not_change_without_ripple(folder: Path, measured: Any) -> None:
    beside = distviz.run(
        str(folder), text=TEXTS, arm_layers="0,1", max_length=24, batch_size=2, device="cpu",
        ripple=False,
    )  # fmt: skip
    assert beside.manifest["effect"] is None
    for layer in (0, 1):
        assert beside.sketch(layer, "act", "before") == measured.sketch(layer, "act", "before")
    assert beside.sketch(0, "act", "after") == measured.sketch(0, "act", "after")
    assert beside.sketch(1, "act", "after") != measured.sketch(1, "act", "after")


def test_the_table_is_saved_loaded_and_exported(measured: Any, tmp_path: Path) -> None:
    measured.save(tmp_path / "run")
    loaded = distviz.Run.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.experts, measured.experts)
    from distviz.reports.export import export

    export(loaded, tmp_path / "part", figures=(), layers=[1], sites=["act"])
    part = pd.read_csv(tmp_path / "part" / "experts.csv")
    assert set(part["layer"]) == {1}
    assert set(part["site"]) == {"act"}
    (tmp_path / "run" / "experts.csv").unlink()
    assert distviz.Run.load(tmp_path / "run").experts.empty
    (tmp_path / "run" / "experts.csv").write_text('a,"b\n1,2\n')
    with pytest.raises(distviz.errors.RequestError, match=r"experts\.csv is damaged"):
        distviz.Run.load(tmp_path / "run")


def test_a_dense_model_has_no_such_table(demo_run: Any, tmp_path: Path) -> None:
    assert demo_run.experts.empty
    demo_run.save(tmp_path / "run")
    assert not (tmp_path / "run" / "experts.csv").exists()


def test_an_expert_that_no_token_visits_is_reported(
    tmp_path: Path, folder: Path, demo_folder: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    gate = model.get_submodule("model.layers.1.mlp.gate")
    with torch.no_grad():  # the first channel is high everywhere, and keeps tokens off expert 2
        model.get_submodule("model.embed_tokens").weight[:, 0] = 9.0
        model.get_submodule("model.embed_tokens").weight[:, 1:].mul_(20)
        gate.weight[:, 0] = torch.tensor([0.0, 0.0, -900.0, 0.0])
    model.save_pretrained(tmp_path / "idle")
    save_tokenizer(demo_folder, tmp_path / "idle")
    run = distviz.run(
        str(tmp_path / "idle"), text=TEXTS, arm_layers="none", max_length=24, device="cpu"
    )
    row = run.experts.query("layer == 1 and expert == 2").iloc[0]
    assert (row["tokens"], row["count"]) == (0, 0)
    assert math.isnan(row["mean"])
    assert "1 of 8 experts received no token (layer 1: 2)" in run.manifest["warnings"]


def test_watch_has_the_table_too() -> None:
    model = tiny_experts("mixtral")
    ids = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(3))
    kept: list[torch.Tensor] = []
    model.set_experts_implementation("batched_mm")
    hook = model.get_submodule(FAMILIES["mixtral"].act).register_forward_hook(
        lambda _m, _a, output: kept.append(output.clone())
    )
    index: list[torch.Tensor] = []
    model.get_submodule(FAMILIES["mixtral"].experts).register_forward_pre_hook(
        lambda _m, args: index.append(args[1])
    )
    with distviz.watch(model, layers=[1]) as watched:
        call("mixtral", model, ids)
    hook.remove()
    frame = watched.run().experts
    eps = eps_of(raw(kept))
    for row in frame.to_dict("records"):
        own = kept[0][index[0].reshape(-1) == row["expert"]].double().numpy()
        assert row["count"] == own.size
        assert row["mean"] == pytest.approx(own.mean(), rel=1e-6)
        share = (np.abs(on_grid(own.ravel())) < eps).mean()
        assert row["near_zero_low"] <= share <= row["near_zero_high"]


def test_recorders_add_and_come_back_with_their_experts() -> None:
    """Two processes with a call each, and one that is saved on the way, end as one with both."""
    model = tiny_experts("mixtral")
    halves = torch.randint(3, 64, (2, 3, 9), generator=torch.Generator().manual_seed(5))
    recorders = []
    for calls in ([0], [1], [0, 1]):
        with distviz.watch(model) as watched:
            for number in calls:
                call("mixtral", model, halves[number])
        recorders.append(watched.recorder)
    one, two, whole = (
        Recorder.from_state(packing.decode(packing.encode(recorder.state())))
        for recorder in recorders
    )
    total = two + one
    assert total.experts.keys() == whole.experts.keys() != set()
    for key, table in whole.experts.items():
        assert packing.encode(total.experts[key].state()) == packing.encode(table.state())
