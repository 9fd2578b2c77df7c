"""The mean movement of values, against hooks of its own and sums in NumPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.texts import TEXTS
from support.tiny_models import save_tiny

from distviz.data import make_batches
from distviz.data.documents import read_documents
from distviz.hooks.paired_changes import PairedChanges
from distviz.hooks.redistribution import Redistribution
from distviz.hooks.token_tracker import Tracker
from distviz.measure.forward import inputs_of, tokens_of
from distviz.measure.measurement import measure
from distviz.measure.opening import corpus_of
from distviz.models.architectures import find_points
from distviz.models.open import open_model
from distviz.settings import RunSettings
from distviz.sites import SiteKey, parse_layers
from distviz.stats import statistics

KEY = SiteKey(1, "decoder", "act", "after", "m")
ALL = np.ones(2, bool)


def _moved(folder: Any, dtype: str, settings: RunSettings, run: Any) -> dict[SiteKey, float]:
    """Return the mean ``|after - before|`` of every place, from hooks on plain forward calls."""
    opened = open_model(str(folder), device="cpu", dtype=dtype)
    corpus = corpus_of(read_documents(TEXTS), opened, settings)
    seen: dict[SiteKey, np.ndarray] = {}

    def note(place: SiteKey, value: torch.Tensor) -> None:
        seen[place] = value.detach().double().numpy().copy()

    def watch(place: SiteKey) -> Any:
        module = opened.model.get_submodule(place.module)
        if place.site == "product":
            return module.register_forward_pre_hook(lambda _m, args: note(place, args[0]))
        return module.register_forward_hook(lambda _m, _a, out: note(place, out))

    places = [key for key in run.keys if key.phase == "after" and ".experts." not in key.module]
    handles = [watch(place) for place in places]
    layers = parse_layers(settings.arm_layers, 9, "")
    points = find_points(opened.mlps, opened.model, ["act"], [n for n in layers if n < 6])
    sums, counts = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0)
    for batch in make_batches(corpus, settings.batch_size, skip_special=settings.skip_special):
        tracker = Tracker()
        tracker.given = tokens_of(batch)
        arm = Redistribution(settings.arm(), points, tracker)
        inputs = inputs_of(batch, opened.model)
        with torch.inference_mode():
            opened.model(**inputs)
            before = dict(seen)
            with arm.active(opened.model):
                opened.model(**inputs)
        for place in places:
            change = np.abs(seen[place] - before[place])[batch.counted]
            sums[place] += change.sum()
            counts[place] += change.size
    for handle in handles:
        handle.remove()
    return {place: sums[place] / counts[place] for place in places}


PATTERN = "module:*.?_proj"
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "one text at a time": ("demo", "float32", {"arm_layers": "0"}),
    "padded": ("demo", "float32", {"arm_layers": "1,3", "batch_size": 4, "passes": 2}),
    "without special tokens": ("llama", "auto", {"batch_size": 3, "skip_special": True}),
    "bf16": ("demo", "bfloat16", {"arm_layers": "0", "batch_size": 4}),
    "fp16": ("llama", "float16", {"batch_size": 4}),
    "one pass": ("demo", "float32", {"arm_layers": "2", "ripple": False, "batch_size": 4}),
    "several modules of a layer": ("llama", "auto", {"sites": f"act,{PATTERN}", "batch_size": 2}),
    "experts": ("mixtral", "auto", {"sites": f"act,{PATTERN}", "batch_size": 2}),
    "encoder and decoder": ("t5", "auto", {"sites": "act,down,module:*.o", "batch_size": 2}),
    "streamed": ("llama", "auto", {"stream": True, "batch_size": 2}),
    "streamed experts": ("mixtral", "auto", {"sites": f"act,{PATTERN}", "stream": True}),
    "streamed encoder": ("t5", "auto", {"sites": "act,down", "stream": True, "batch_size": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_movement_is_that_of_hooks(case: str, demo_folder: Path, tmp_path: Path) -> None:
    kind, dtype, options = CASES[case]
    folder = demo_folder if kind == "demo" else save_tiny(kind, tmp_path / kind, demo_folder)
    defaults = {"batch_size": 1, "sites": "act,product,down", "arm_layers": "0"}
    settings = RunSettings(max_length=24, c=0.8, **(defaults | options))
    opened = open_model(str(folder), device="cpu", dtype=dtype, stream=settings.stream)
    run = measure(opened, corpus_of(read_documents(TEXTS), opened, settings), settings)
    expected = _moved(folder, dtype, settings, run)
    table = run.stats()
    table = table[table["phase"] == "after"]
    assert len(table) >= (4 if settings.ripple else 1)
    for row in table.itertuples():
        key = SiteKey(row.layer, row.stack, row.site, "after", row.module)
        if key not in expected:  # rows of experts cannot be paired
            assert (kind, math.isnan(row.mean_abs_change)) == ("mixtral", True)
            continue
        assert row.mean_abs_change == pytest.approx(expected[key], rel=1e-5, abs=1e-7), key
        before = run.merged[key._replace(phase="before")]
        distance = statistics.wasserstein(before, run.merged[key])
        assert distance <= row.mean_abs_change * (1 + 1e-2) + 1e-7
    assert max(expected.values()) > 0.01
    said = [text for text in run.manifest["warnings"] if text.startswith("mean_abs_change")]
    assert len(said) == bool(table["mean_abs_change"].isna().any())


def _pass(changes: PairedChanges, before: Any, after: Any, rows: Any = ALL) -> None:
    changes.see(KEY._replace(phase="before"), torch.tensor(before), rows)
    changes.see(KEY, torch.tensor(after), rows)


def test_pairs_of_finite_counted_values() -> None:
    changes = PairedChanges(is_on=True)
    _pass(changes, [[0.0, 1.0], [5.0, 5.0]], [[3.0, 1.0], [9.0, 9.0]], np.array([True, False]))
    _pass(changes, [[float("inf"), 1.0], [0.0, float("nan")]], [[1.0, 2.0], [0.0, 1.0]])
    assert changes.means() == {KEY: 1.0}
    again = PairedChanges.from_state(changes.state())
    assert (again + changes).means() == changes.means()


def test_what_cannot_be_paired_is_missing() -> None:
    for changes in (PairedChanges(True, most_bytes=8), PairedChanges(True)):
        rows = ALL if changes.most_bytes == 8 else None
        _pass(changes, [[0.0, 1.0], [5.0, 5.0]], [[3.0, 1.0], [9.0, 9.0]], rows)
        why = "memory" if changes.most_bytes == 8 else "tokens"
        assert (changes.means(), changes.missing) == ({}, {KEY: why})
    changes = PairedChanges(is_on=True)
    _pass(changes, [[0.0]], [[3.0, 1.0]], np.ones(1, bool))
    assert changes.missing == {KEY: "tokens"}
    for phase in ("before", "after"):  # of the second batch, one pass alone
        changes = PairedChanges(is_on=True)
        _pass(changes, [[0.0]], [[3.0]], np.ones(1, bool))
        changes.see(KEY._replace(phase=phase), torch.ones(1, 1), np.ones(1, bool))
        assert changes.means() == (changes + changes).means() == {}
        assert PairedChanges.from_state(changes.state()).missing == {KEY: "tokens"}
    off = PairedChanges()
    _pass(off, [[0.0]], [[3.0]], np.ones(1, bool))
    assert not off.totals
