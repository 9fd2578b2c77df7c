"""Real checkpoints: stats.csv, plans, documents and effect recomputed from raw hooked tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import (
    Measured,
    assert_stats,
    batch_windows,
    cut_windows,
    describe,
    effect_of,
    eps_of,
    measure,
)
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import distviz
from distviz.results.run import Run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.extended, pytest.mark.real_model]

TEXTS = [
    "The mitochondrion makes most of the energy of a cell, because it burns sugar with oxygen. "
    "If 3 of 12 cells divide, then 12 + 3 = 15 cells are there afterwards. " * 2,
    "def mean(xs):\n    return sum(xs) / len(xs)\n",
    "Paris is the capital of France, and Rome is the capital of Italy.",
]
LAYERS = 30


def assert_run(run: Run, found: Measured) -> None:
    rows = {
        (row["layer"], row["site"], row["phase"]): row for row in run.stats().to_dict("records")
    }
    assert set(rows) == set(found.values)
    for (layer, site, phase), row in rows.items():
        eps = eps_of(found.of((layer, site, "before")))
        assert_stats(row, found.of((layer, site, phase)), eps)


def assert_bounds(run: Run, found: Measured) -> None:
    """What is promised of fp32 data against the data themselves, not their rounding."""
    for row in run.stats().to_dict("records"):
        x = found.of((row["layer"], row["site"], row["phase"]))
        std = x.std()
        assert abs(row["mean"] - x.mean()) <= 1e-4 * std
        assert row["std"] == pytest.approx(std, rel=2**-8)
        assert (row["min"], row["max"], row["zeros"]) == (x.min(), x.max(), (x == 0).sum())
        exact = describe(x, row["eps"])
        for name in ("l1", "l2", "gini"):
            assert row[name] == pytest.approx(exact[name], rel=2**-8), name


@pytest.mark.usefixtures("quick_bfloat16")
@pytest.mark.parametrize(("asked", "dtype"), [("auto", "float32"), ("bf16", "bfloat16")])
def test_smollm2(asked: str, dtype: str, smollm2: Path, dequantized: Path, tmp_path: Path) -> None:
    run = distviz.run(
        str(smollm2), text=TEXTS, max_length=48, arm_layers="0,2", dtype=asked, device="cpu"
    )
    assert run.manifest["dtype"] == dtype
    assert run.manifest["model"]["activation"] == "SiLU"
    lowest = run.stats().query("phase == 'before'")["min"].min()
    assert -0.2793 <= lowest < -0.277  # the wall of SiLU, -0.27846, or its neighbour in bf16
    assert run.manifest["model"]["architecture"] == "LlamaForCausalLM"
    tokenizer = AutoTokenizer.from_pretrained(dequantized)
    model = AutoModelForCausalLM.from_pretrained(dequantized, dtype=getattr(torch, dtype)).eval()
    start = tokenizer("a")["input_ids"][
        : -len(tokenizer("a", add_special_tokens=False)["input_ids"])
    ]
    batches = batch_windows(cut_windows(tokenizer, TEXTS, 48, start), 4)
    acts = {layer: f"model.layers.{layer}.mlp.act_fn" for layer in range(LAYERS)}
    found = measure(
        model,
        batches,
        {(layer, "act"): (path, "output") for layer, path in acts.items()},
        {layer: acts[layer] for layer in (0, 2)},
        has_head=True,
        call={"use_cache": False},
    )
    assert_run(run, found)
    if dtype == "float32":
        assert_bounds(run, found)
    wanted = effect_of(found)
    tolerance = 1e-4 if dtype == "float32" else 1e-2
    for name in ("loss_before", "loss_after", "kl"):
        assert run.manifest["effect"][name] == pytest.approx(
            wanted[name], rel=tolerance, abs=tolerance
        )
    assert run.manifest["effect"]["positions"] == wanted["positions"]
    plans = run.plans.set_index(["layer", "document", "window"])
    for layer, of_layer in found.plans.items():
        for where, (plan,) in zip(found.places, of_layer, strict=True):
            row = plans.loc[(layer, *where)]
            assert (row["n"], row["k"]) == (plan.n, plan.k)
            assert row["eps"] == pytest.approx(plan.eps, rel=1e-12)
            assert row["upper"] == pytest.approx(plan.upper, rel=1e-12, abs=1e-13)
    # what is on disk is what was measured
    again = Run.load(run.save(tmp_path / "run"))
    saved = pd.read_csv(tmp_path / "run" / "stats.csv")
    pd.testing.assert_frame_equal(
        saved, run.stats(), check_dtype=False, check_exact=False, rtol=1e-14
    )
    assert again.sketches == run.sketches


def measure_minilm(minilm: Path, sites: tuple[str, ...]) -> tuple[Run, Measured]:
    run = distviz.run(
        str(minilm), text=TEXTS, max_length=40, arm_layers="0,3", sites=",".join(sites),
        device="cpu", dtype="fp32",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    model = AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    batches = batch_windows(cut_windows(tokenizer, TEXTS, 40, [tokenizer.cls_token_id]), 4)
    places = {}
    for layer in range(6):
        inner = f"encoder.layer.{layer}"
        act = f"{inner}.intermediate.intermediate_act_fn"
        places |= {(layer, "gate"): (act, "input"), (layer, "act"): (act, "output")}
        places[layer, "product"] = (f"{inner}.output.dense", "input")
        places[layer, "down"] = (f"{inner}.output.dense", "output")
    found = measure(
        model, batches, places, {layer: places[layer, "act"][0] for layer in (0, 3)}, has_head=False
    )
    for key in [key for key in found.values if key[1] not in sites]:
        del found.values[key]
    return run, found


def test_minilm(minilm: Path) -> None:
    run, found = measure_minilm(minilm, ("gate", "act", "product", "down"))
    assert run.manifest["model"]["activation"] == "GELU"
    effect = run.manifest["effect"]
    assert effect is None or set(effect.values()) == {None}
    stats = run.stats()
    assert set(stats["stack"]) == {"encoder"}
    assert_run(run, found)
    assert_bounds(run, found)
    lowest = stats.loc[stats["site"] == "act", "min"].min()
    assert np.isclose(lowest, -0.17, atol=0.001)  # the wall of GELU


def test_std_of_fp32_data_keeps_its_promise_where_outliers_rule(minilm: Path) -> None:
    """Within 1e-4 relative; in layer 0 a value of 107 standard deviations decides."""
    run, found = measure_minilm(minilm, ("act", "down"))
    for row in run.stats().to_dict("records"):
        x = found.of((row["layer"], row["site"], row["phase"]))
        assert row["std"] == pytest.approx(x.std(), rel=1e-4), (row["layer"], row["site"])


def test_minilm_beyond_its_positions_is_an_error_of_one_line(minilm: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from distviz.cli.app import app

    text = tmp_path / "long.txt"
    text.write_text("word " * 700)
    out = tmp_path / "run"
    command = ["run", str(minilm), "--text", str(text), "--max-length", "600", "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--no-figures", "--device", "cpu"])
    assert done.exit_code in (1, 2)
    assert "Traceback" not in done.output
    assert len(done.stderr.strip().splitlines()) <= 5
    assert not out.exists()
