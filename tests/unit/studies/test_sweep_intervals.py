"""A sweep of formats by layer against passes with plain hooks, in float64 for all sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distviz.data import make_batches, read_documents
from distviz.measure import corpus_of, inputs_of, open_from
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.stats import infer_ratio, quantize
from distviz.studies.sweep import every_setting, sweep_model
from distviz.studies.sweep_grid import SweepGrid

TEXTS = [f"Document {i}: {'the cat and 12 dogs + birds, or ' * (1 + i % 3)}end." for i in range(9)]
LIST = "quantize:int8-token,quantize:nvfp4"


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.extended), 4])
def test_a_sweep_of_formats_is_one_layer_at_a_time(batch_size: int) -> None:
    settings = RunSettings(dtype="fp32", max_length=24, batch_size=batch_size)
    opened = open_from(settings, Progress())
    corpus = corpus_of(read_documents(TEXTS), opened, settings)
    batches = make_batches(corpus, batch_size)
    grid = SweepGrid(redistribution=LIST, at="product,attention", arm_layers="1,4")
    chosen = every_setting(opened, grid, settings, is_by_layer=True)
    sites = [(one.settings.redistribution, one.settings.at, one.label) for one in chosen]
    assert len(sites) == len(set(sites)) == 2 * 2 * 3 + 2
    sweep = sweep_model(opened, corpus, settings, chosen, [0], 0.05, Progress(), is_by_layer=True)
    table = sweep.table.set_index(["redistribution", "at", "layers"])
    paths = {"product": "mlp.down_proj", "attention": "self_attn.o_proj"}
    for (name, at, layers), row in table.iterrows():
        places = [
            opened.model.get_submodule(f"model.layers.{layer}.{paths[site]}")
            for layer in layers.split(",")
            for site in at.split(",")
        ]
        assert_row(row, *by_hand(opened.model, batches, places, name.partition(":")[2]))
    for _, part in sweep.table[sweep.table["layers"].isin(["1", "4"])].groupby(
        ["redistribution", "at"]
    ):
        assert sorted(part["sqnr_rank"]) == sorted(part["kl_rank"]) == [1, 2]


def by_hand(model, batches, places, format_name):
    """Loss, KL and agreement by document, and the error at every place."""
    sums: dict[int, np.ndarray] = {}
    energy = np.zeros((len(places), 2))

    for batch in batches:
        logits = []
        valid = batch.valid

        def change(number: int, x: torch.Tensor, valid=valid) -> torch.Tensor:
            made = x.clone()
            for row in range(len(x)):
                own = torch.from_numpy(valid[row])
                made[row][own] = quantize(x[row][own], format_name)
                error = (made[row][own] - x[row][own]).double()
                energy[number] += [
                    float(x[row][own].double().square().sum()),
                    float(error.square().sum()),
                ]
            return made

        for is_changed in (False, True):
            hooks = [
                place.register_forward_pre_hook(lambda _m, a, n=n: (change(n, a[0]), *a[1:]))
                for n, place in enumerate(places)
                if is_changed
            ]
            with torch.inference_mode():
                found = model(**inputs_of(batch, model)).logits.double().log_softmax(-1)
            logits.append(found)
            for hook in hooks:
                hook.remove()
        for row, document in enumerate(batch.documents.tolist()):
            for t in np.flatnonzero(batch.counted[row, 1:]).tolist():
                a, b = logits[0][row, t], logits[1][row, t]
                target = int(batch.ids[row, t + 1])
                one = [
                    1,
                    -float(a[target]),
                    -float(b[target]),
                    float((a.exp() * (a - b)).sum()),
                    float(a.argmax() == b.argmax()),
                ]
                sums[document] = sums.get(document, np.zeros(5)) + one
    return np.array([sums[number] for number in sorted(sums)]), energy


def assert_row(row, documents, energy) -> None:
    positions, before, after, kl, same = documents.T
    total = positions.sum()
    assert row["documents"] == len(positions) == len(TEXTS)
    for name, parts in (("loss_before", before), ("loss_after", after), ("top1_agreement", same)):
        assert row[name] == pytest.approx(parts.sum() / total, rel=1e-6)
    assert row["loss_change"] == pytest.approx((after - before).sum() / total, abs=1e-6)
    assert row["kl"] == pytest.approx(kl.sum() / total, rel=2e-3, abs=2e-7)
    expected = infer_ratio(kl, positions, "kl", is_log=True).iloc[0]
    for end in ("low", "high"):
        assert row[f"kl_{end}"] == pytest.approx(expected[f"ci_{end}"], rel=2e-2, abs=1e-6)
    ratios = [10 * math.log10(signal / error) for signal, error in energy]
    assert row["sqnr_db"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-5)
