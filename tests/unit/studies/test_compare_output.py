"""The output in a comparison: totals, documents, inference, and reasons where it is not known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.synthetic_comparisons import Made
from transformers import AutoModelForCausalLM, AutoTokenizer

import distviz
from distviz.measure.output_effect import Effect
from distviz.measure.paired_outputs import FirstOutputs, PairedOutputs
from distviz.measure.tensor_files import SpillBuffer
from distviz.results.comparison import Comparison
from distviz.results.run import Run
from distviz.settings import RunSettings
from distviz.studies import comparison as comparing
from distviz.studies.compare_output import compare_output

NAMES = ("loss_a", "loss_b", "kl", "top1_agreement")


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    return RunSettings(max_tokens=600, max_length=48, layers="0", dtype="fp32")


@pytest.fixture(scope="module")
def measured(settings: RunSettings) -> Comparison:
    return distviz.compare("demo", "demo", settings=settings, b_dtype="bfloat16")


def with_effect(run: Run, **effect: float) -> Run:
    manifest = run.manifest | {"effect": effect}
    return Run(manifest, run.sketches, run.documents, run.channels)


def test_totals_are_the_means_of_documents_by_tokens(measured: Comparison) -> None:
    output, table = measured.manifest["output"], measured.output_documents
    weights = table["tokens"] / table["tokens"].sum()
    for name in NAMES:
        assert output[name] == pytest.approx(float((weights * table[name]).sum()), rel=1e-12)
    assert output["positions"] == table["tokens"].sum()
    assert output["reason"] == ""
    assert 0 < output["kl"] < 0.01
    losses = [run.manifest["effect"]["loss_before"] for run in (measured.a, measured.b)]
    np.testing.assert_allclose([output["loss_a"], output["loss_b"]], losses, rtol=1e-6)


def test_every_number_is_that_of_two_plain_models(settings: RunSettings) -> None:
    one_by_one = replace(settings, batch_size=1)
    found = distviz.compare("demo", "demo", settings=one_by_one, b_dtype="bfloat16")
    folder = Path(distviz.__file__).parent / "demo"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    a, b = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        for dtype in (torch.float32, torch.bfloat16)
    )
    sums: dict[int, Any] = {}
    left = 600
    for number, document in enumerate(found.a.texts or []):
        begin, *ids = tokenizer(document["text"])["input_ids"]
        for start in range(0, len(ids), 47):
            window = torch.tensor([[begin, *ids[start : start + 47]][:left]])
            left -= window.shape[1]
            if window.shape[1] < 2:
                continue
            with torch.inference_mode():
                p, q = (
                    torch.softmax(one(window).logits[0, :-1].double(), 1).log() for one in (a, b)
                )
            rows = (torch.arange(len(p)), window[0, 1:])
            kl = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
            same = (p.argmax(1) == q.argmax(1)).sum()
            count = torch.tensor(float(len(p))).double()
            own = torch.stack([count, -p[rows].sum(), -q[rows].sum(), kl, same.double()])
            sums[number] = sums.get(number, 0) + own
    table = found.output_documents.set_index("document")
    assert list(table.index) == list(sums)
    for number, (tokens, *whole) in sums.items():
        assert table.loc[number, "tokens"] == tokens
        expected = [float(value / tokens) for value in whole]
        np.testing.assert_allclose(table.loc[number, list(NAMES)], expected, rtol=1e-10)


def test_inference_has_a_row_of_each_quantity(measured: Comparison) -> None:
    rows = measured.inference[measured.inference["site"] == "output"].set_index("quantity")
    output = measured.manifest["output"]
    assert set(rows.index) == {"loss_difference", "kl"}
    assert (rows[["layer_a", "layer_b"]] == -1).all(axis=None)
    assert rows.loc["kl", "estimate"] == pytest.approx(output["kl"], rel=1e-12)
    difference = output["loss_b"] - output["loss_a"]
    assert rows.loc["loss_difference", "estimate"] == pytest.approx(difference, abs=1e-12)


def test_a_folder_has_the_output_again(measured: Comparison, tmp_path: Path) -> None:
    folder = measured.save(tmp_path / "c")
    assert (folder / "output_documents.parquet").exists()
    found = Comparison.load(folder)
    pd.testing.assert_frame_equal(found.output_documents, measured.output_documents)
    assert found.summary()["output"] == measured.manifest["output"]


def test_one_model_in_the_same_way_has_no_difference(settings: RunSettings) -> None:
    found = distviz.compare("demo", "demo", settings=settings)
    assert found.manifest["output"]["kl"] == 0
    assert found.manifest["output"]["top1_agreement"] == 1
    assert (found.output_documents["loss_a"] == found.output_documents["loss_b"]).all()


def test_arm_on_one_side(settings: RunSettings) -> None:
    found = distviz.compare("demo", "demo", settings=settings, b_arm_layers="0", b_c=0.5)
    output, effect = found.manifest["output"], found.b.manifest["effect"]
    for name, known in zip(
        NAMES, ("loss_before", "loss_after", "kl", "top1_agreement"), strict=True
    ):
        assert output[name] == pytest.approx(effect[known], rel=1e-4), name


def test_streamed_layers_give_the_same(settings: RunSettings, measured: Comparison) -> None:
    streamed = replace(settings, stream=True, stream_memory=0)
    found = distviz.compare("demo", "demo", settings=streamed, b_dtype="bfloat16")
    pd.testing.assert_frame_equal(found.output_documents, measured.output_documents)


@pytest.mark.parametrize(
    ("effects", "phases", "expected"),
    [
        (
            ({"loss_before": 2.0}, {"loss_before": 3.0}),
            ("before", "before"),
            (2.0, 3.0, None, "they need both models on the same text, and a saved run has only"),
        ),
        (
            ({}, {"loss_before": 3.0}),
            ("before", "before"),
            (None, 3.0, None, "the output of A was not measured"),
        ),
        (
            ({"loss_before": 2.0, "loss_after": 2.5, "kl": 0.1},) * 2,
            ("before", "after"),
            (2.0, 2.5, 0.1, ""),
        ),
    ],
)  # fmt: skip
def test_saved_runs(first: Made, effects: Any, phases: Any, expected: Any) -> None:
    sides = [with_effect(first.run, **effect) for effect in effects]
    if phases[1] == "after":
        sketches = {**first.run.sketches}
        sketches |= {key._replace(phase="after"): one for key, one in sketches.items()}
        sides = [Run(sides[0].manifest, sketches, first.run.documents, first.run.channels)] * 2
    found = comparing.compare_runs(*sides, *phases)
    output = found.manifest["output"]
    assert [output["loss_a"], output["loss_b"], output["kl"]] == list(expected[:3])
    assert output["reason"].startswith(expected[3])
    assert bool(output["reason"]) == bool(expected[3])
    assert found.output_documents.empty


@pytest.mark.parametrize("kept", [0, 1])
def test_a_part_of_the_text_is_never_taken_for_the_whole(measured: Comparison, kept: int) -> None:
    first = FirstOutputs("before", SpillBuffer(0))
    documents = {number: Effect.of(3, 3, 1.0, 1.0, 0.1) for number in range(kept)}
    paired = PairedOutputs(first, "before", documents)
    found = compare_output(measured.a, measured.b, ("before", "before"), paired, seed=0)
    assert found.totals["kl"] is None
    assert found.totals["reason"] == "a part of the text was not compared"
    assert found.totals["loss_a"] == measured.a.manifest["effect"]["loss_before"]
    assert found.documents.empty
