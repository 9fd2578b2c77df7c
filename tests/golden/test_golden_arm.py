"""Pinned: what ARM decides on real activations (layer 0 of SmolLM2-135M-Instruct)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.arm_reference import reference_plan, reference_selection

from distviz.arm.arm import ARM

HERE = Path(__file__).parent
ENTRIES: list[dict[str, Any]] = json.loads((HERE / "layer0_smollm2.json").read_text("utf-8"))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FLOAT64_FIELDS = ("eps", "near", "fraction", "upper", "lower")


def _label(entry: dict[str, Any]) -> str:
    settings = "-".join(f"{key}={value}" for key, value in entry["settings"].items())
    return f"{entry['dtype']}-{entry['sequence']}-{settings}"


@pytest.fixture(scope="module")
def activations() -> torch.Tensor:
    with np.load(HERE / "layer0_smollm2.npz") as archive:
        return torch.from_numpy(archive["x"])


def _sequence(activations: torch.Tensor, entry: dict[str, Any]) -> torch.Tensor:
    return activations[entry["sequence"]].to(DTYPES[entry["dtype"]])


def test_the_golden_data_is_what_arm_md_says(activations: torch.Tensor) -> None:
    assert activations.shape == (2, 32, 1536)
    assert activations.dtype == torch.float32
    assert len(ENTRIES) == 2 * 2 * 7


@pytest.mark.parametrize("entry", ENTRIES, ids=_label)
def test_plan(activations: torch.Tensor, entry: dict[str, Any]) -> None:
    plan = ARM(**entry["settings"]).plan(_sequence(activations, entry))
    assert plan is not None
    assert plan.n == 32 * 1536
    assert plan.k == entry["k"]
    found = {name: getattr(plan, name) for name in FLOAT64_FIELDS}
    expected = {name: entry[name] for name in FLOAT64_FIELDS}
    assert found == pytest.approx(expected, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("entry", ENTRIES, ids=_label)
def test_selection(activations: torch.Tensor, entry: dict[str, Any]) -> None:
    selected = ARM(**entry["settings"]).selected(_sequence(activations, entry))
    assert selected.dtype == np.int64
    assert selected.size == entry["k"]
    assert int(selected.sum()) == entry["selected_sum"]
    assert selected[:8].tolist() == entry["selected_first"]
    assert selected[-8:].tolist() == entry["selected_last"]
    assert np.all(np.diff(selected) > 0)


@pytest.mark.parametrize("entry", ENTRIES, ids=_label)
def test_a_batch_moves_the_pinned_values_and_no_other(
    activations: torch.Tensor, entry: dict[str, Any]
) -> None:
    x = activations.to(DTYPES[entry["dtype"]])
    moved = ARM(**entry["settings"], seed=3)(x)
    changed = np.flatnonzero((moved != x)[entry["sequence"]].reshape(-1).numpy())
    pinned = reference_selection(x[entry["sequence"]], entry["k"])
    assert set(changed.tolist()) <= set(pinned.tolist())
    assert changed.size > 0.99 * entry["k"]


@pytest.mark.parametrize("entry", ENTRIES, ids=_label)
def test_the_plain_reference_agrees_with_the_released_code(
    activations: torch.Tensor, entry: dict[str, Any]
) -> None:
    x = _sequence(activations, entry)
    plan = reference_plan(x, **entry["settings"])
    assert plan is not None
    selected = reference_selection(x, plan.k)
    assert (plan.k, int(selected.sum())) == (entry["k"], entry["selected_sum"])
    assert selected[:8].tolist() == entry["selected_first"]
    found = {name: getattr(plan, name) for name in FLOAT64_FIELDS}
    expected = {name: entry[name] for name in FLOAT64_FIELDS}
    assert found == pytest.approx(expected, rel=1e-12, abs=0.0)
