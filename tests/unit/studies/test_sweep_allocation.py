"""An allocation against plain hooks: shares of zeros, costs alone, the whole, and the order."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.tiny_models import save_tiny

from distviz.data import make_batches, read_documents
from distviz.errors import RequestError
from distviz.measure import CheckpointFolder, corpus_of, inputs_of, open_from
from distviz.models.open import open_model
from distviz.progress import Progress
from distviz.results import Allocation
from distviz.settings import RunSettings
from distviz.stats import GRANULAR_FORMATS, infer_ratio, quantize
from distviz.studies.allocation import parse_allocation
from distviz.studies.sweep_allocation import AllocationRequest, allocate

TEXTS = [f"Document {i}: {'the cat and 12 dogs + birds, or ' * (1 + i % 3)}end." for i in range(9)]
SETTINGS = RunSettings(dtype="fp32", max_length=24, batch_size=4)


def study(text: str, settings: RunSettings = SETTINGS, **request: Any) -> Any:
    """Allocate on the demo or another model; return the result with model and batches."""
    opened = open_from(settings, Progress())
    corpus = corpus_of(read_documents(TEXTS), opened, settings)
    wanted = {"budget_kl": None, "layers": None} | request
    asked = AllocationRequest(parse_allocation(text), **wanted)
    found = allocate(opened, corpus, settings, asked, Progress())
    return found, opened.model, make_batches(corpus, settings.batch_size)


def by_hand(model: Any, batches: Any, changes: dict[str, Any], *, enters: bool) -> Any:
    """Return KL and positions by document, and the zeros and values at each changed module.

    ``changes`` gives, by the path of a module, what is done to what enters or leaves it.
    """
    documents: dict[int, np.ndarray] = {}
    counts = {path: np.zeros(2, np.int64) for path in changes}
    for batch in batches:
        valid = torch.from_numpy(batch.valid)
        inputs = inputs_of(batch, model)
        with torch.inference_mode():
            before = model(**inputs).logits.double().log_softmax(-1)
            handles = []
            for path, change in changes.items():

                def apply(
                    x: torch.Tensor, path: str, change: Any, valid: Any = valid
                ) -> torch.Tensor:
                    made = x.clone()
                    for row in range(len(x)):
                        made[row, valid[row]] = change(x[row, valid[row]])
                    counts[path] += [int((made[valid] == 0).sum()), made[valid].numel()]
                    return made

                module = model.get_submodule(path)
                own = partial(apply, path=path, change=change)
                if enters:
                    hook = module.register_forward_pre_hook(lambda _, a, f=own: (f(a[0]),))
                else:
                    hook = module.register_forward_hook(lambda _, __, out, f=own: f(out))
                handles.append(hook)
            after = model(**inputs).logits.double().log_softmax(-1)
            for handle in handles:
                handle.remove()
        kl = (before.exp() * (before - after)).sum(-1).numpy()
        for row, position in np.argwhere(batch.counted[:, 1:]):
            own = documents.setdefault(int(batch.documents[row]), np.zeros(2))
            own += [kl[row, position], 1]
    return np.array([documents[one] for one in sorted(documents)]), counts


def cut(threshold: float) -> Any:
    return lambda x: torch.where(x.abs().double() <= threshold, torch.zeros_like(x), x)


def greedy(
    found: Allocation, column: str, *, target: float | None = None
) -> list[tuple[int, str, Any]]:
    """The order of steps, found again from the table of costs alone; all of the last one."""
    where, costs = {}, found.costs
    if column == "format":
        kept = costs[["layer", "site"]].drop_duplicates()
        costs = pd.concat([kept.assign(format="none", bits=32.0, kl=0.0), costs])
    values = found.table.set_index(["layer", "site"])["values"] / 1e6
    for (layer, site), rows in costs.groupby(["layer", "site"], sort=False):
        saved = rows["zeros"] if column == "threshold" else -rows["bits"] * values[layer, site]
        levels = list(zip(rows[column], saved, rows["kl"], strict=True))
        if column == "threshold":
            levels = [(0.0, 0.0, 0.0), *levels]
        where[layer, site] = sorted(levels, key=lambda one: (one[1], one[2]))
    held, steps = {key: levels[0] for key, levels in where.items()}, []
    while target is None or np.mean([own[1] for own in held.values()]) < target:
        best = None
        for key in sorted(where):
            for level in where[key]:
                gain = level[1] - held[key][1]
                if gain > 0:
                    price = (level[2] - held[key][2]) / gain
                    if best is None or price < best[0] - 1e-15:
                        best = (price, key, level)
        if best is None:
            break
        held[best[1]] = best[2]
        steps.append((*best[1], best[2][0]))
    return steps


@pytest.fixture(scope="module")
def zeros() -> Any:
    return study("40%", layers="0-2")


def test_thresholds_give_the_zeros_that_are_stated(zeros: Any) -> None:
    """In each place alone exactly; in the whole as measured, near the promised mean."""
    found, model, batches = zeros
    for row in found.costs.iloc[[0, 4, 11, 20]].itertuples():
        path = f"model.layers.{row.layer}.mlp.act_fn"
        sums, counts = by_hand(model, batches, {path: cut(row.threshold)}, enters=False)
        assert row.zeros == counts[path][0] / counts[path][1]
        assert row.kl == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum(), rel=2e-3, abs=2e-7)
    for table, kind in ((found.table, "allocated"), (found.even, "uniform")):
        changes = {
            f"model.layers.{row.layer}.mlp.act_fn": cut(row.threshold) for row in table.itertuples()
        }
        sums, counts = by_hand(model, batches, changes, enters=False)
        assert table["zeros"].tolist() == [n / values for n, values in counts.values()]
        own = found.chosen(kind)
        assert own["kl"] == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum(), rel=1e-3)
        assert own["mean"] == pytest.approx(0.4, abs=2e-3)
        assert table["zeros"].mean() == pytest.approx(own["mean"], abs=1.5e-3)
    assert found.chosen()["mean"] >= 0.4
    assert found.chosen("uniform")["mean"] <= found.chosen()["mean"]


def test_the_difference_is_over_documents(zeros: Any) -> None:
    found, model, batches = zeros
    sides = []
    for table in (found.table, found.even):
        changes = {
            f"model.layers.{row.layer}.mlp.act_fn": cut(row.threshold) for row in table.itertuples()
        }
        sides.append(by_hand(model, batches, changes, enters=False)[0])
    saved = infer_ratio(sides[1][:, 0] - sides[0][:, 0], sides[0][:, 1], "loss_difference")
    own = found.chosen()
    names = {"kl_saved": "estimate", "kl_saved_low": "ci_low", "kl_saved_high": "ci_high"}
    for name, column in names.items():
        assert own[name] == pytest.approx(saved[column].iloc[0], rel=2e-3, abs=1e-7)


def test_the_order_is_that_of_an_independent_greedy(zeros: Any) -> None:
    found = zeros[0]
    taken = found.costs.dropna(subset="step").sort_values("step")
    steps = list(zip(taken["layer"], taken["site"], taken["threshold"], strict=True))
    expected = greedy(found, "threshold", target=0.4)
    assert len(steps) >= 8
    # The last step takes a part of a level, which the table of costs may not have.
    assert steps == expected[: len(steps)]
    assert len(steps) >= len(expected) - 1
    assert found.curve["steps"].max() == len(expected)


def formatted(name: str) -> Any:
    return (lambda x: x) if name == "none" else (lambda x: quantize(x, name))


@pytest.fixture(scope="module")
def formats() -> Any:
    settings = RunSettings(dtype="fp32", max_length=24, batch_size=4, at="product,mlp_in")
    return study("none,nvfp4,fp8-token", settings, budget_kl=2e-3, layers="1-3")


def test_formats_within_a_budget(formats: Any) -> None:
    found, model, batches = formats
    paths = {"product": "mlp.down_proj", "mlp_in": "mlp"}
    widths = {"none": 32.0} | {name: one.bits for name, one in GRANULAR_FORMATS.items()}
    for table, kind in ((found.table, "allocated"), (found.even, "uniform")):
        changes = {
            f"model.layers.{row.layer}.{paths[row.site]}": formatted(row.format)
            for row in table.itertuples()
        }
        sums, _ = by_hand(model, batches, changes, enters=True)
        own = found.chosen(kind)
        assert own["kl"] == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum(), rel=1e-3, abs=1e-8)
        assert table["bits"].tolist() == [widths[name] for name in table["format"]]
        mean = np.average(table["bits"], weights=table["values"])
        assert own["mean"] == pytest.approx(mean, rel=1e-12)
    sites = [table.groupby("site")["format"].value_counts() for table in (found.table, found.even)]
    assert sites[0].sort_index().equals(sites[1].sort_index())


def test_the_budget_ends_the_path(formats: Any) -> None:
    curve = formats[0].curve.query("kind == 'allocated'").set_index("steps")["kl"]
    own = formats[0].chosen()
    assert own["steps"] == max(n for n, kl in curve.items() if kl <= 2e-3)
    above = [n for n in curve.index if n > own["steps"]]
    assert above  # the path goes on, so that the curve shows what more would cost
    assert curve[min(above)] > 2e-3
    steps = formats[0].costs.dropna(subset="step").sort_values("step")
    taken = list(zip(steps["layer"], steps["site"], steps["format"], strict=True))
    assert taken == greedy(formats[0], "format")


@pytest.mark.extended
def test_a_gelu_model(tmp_path: Path, demo_folder: Path) -> None:
    folder = save_tiny("gpt2", tmp_path / "gpt2", demo_folder)
    settings = RunSettings(model=str(folder), max_length=24, batch_size=4)
    found, model, batches = study("60%", settings)
    changes = {
        f"transformer.h.{row.layer}.mlp.act": cut(row.threshold) for row in found.table.itertuples()
    }
    sums, counts = by_hand(model, batches, changes, enters=False)
    assert found.table["zeros"].tolist() == [n / values for n, values in counts.values()]
    own = found.chosen()
    assert own["kl"] == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum(), rel=1e-3)
    assert found.table["zeros"].mean() == pytest.approx(0.6, abs=2e-3)


def test_a_finished_part_is_not_measured_again(tmp_path: Path) -> None:
    """With checkpoints, an allocation that is resumed gives the same tables."""
    opened = open_from(SETTINGS, Progress())
    corpus = corpus_of(read_documents(TEXTS[:5]), opened, SETTINGS)
    asked = AllocationRequest(parse_allocation("30%"), None, "0,1")
    results = []
    for resumes in (False, True):
        states = CheckpointFolder(tmp_path / "states", 0.0, resumes)
        results.append(allocate(opened, corpus, SETTINGS, asked, Progress(), states))
    for name, table in results[0].tables().items():
        pd.testing.assert_frame_equal(table, results[1].tables()[name])
    names = {path.parent.name for path in (tmp_path / "states").rglob("*.state")}
    assert {"values", "costs", "curve"} <= names


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("50%", {"layers": "2"}, "at least two places to choose between: act in layer 2"),
        ("50%", {"layers": "9"}, "layer 9 does not exist"),
    ],
)
def test_requests_that_no_model_can_answer(text: str, options: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        study(text, **options)


def test_a_model_without_output_is_refused(tmp_path: Path, demo_folder: Path) -> None:
    opened = open_model(str(save_tiny("bert", tmp_path / "bert", demo_folder)), device="cpu")
    asked = AllocationRequest(parse_allocation("50%"), None, None)
    with pytest.raises(RequestError, match="predicts no next token"):
        asked.places(opened, "act")


def test_the_passes_are_counted_from_the_layers() -> None:
    asked = AllocationRequest(parse_allocation("50%"), None, None)
    alone = 9 * (1 + 1 / 2)
    assert asked.passes([(0, "act"), (1, "act")], 2) == 2 + alone + 1 + 2 * 10 + 4 * 3
    asked = AllocationRequest(parse_allocation("none,nvfp4"), 0.05, None)
    assert asked.passes([(0, "act"), (1, "act")], 2) == 2 + 1.5 + 1 + 2 * 11 + 1 + 2 * 8
