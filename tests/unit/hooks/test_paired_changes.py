"""The mean movement of values, against hooks of its own and sums in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.texts import TEXTS

from distviz.data.documents import read_documents
from distviz.hooks.paired_changes import PairedChanges
from distviz.measure.measurement import corpus_of, measure
from distviz.models.open import open_model
from distviz.settings import RunSettings
from distviz.sites import SiteKey
from distviz.stats import statistics

KEY = SiteKey(1, "decoder", "act", "after", "m")
ALL = np.ones(2, bool)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {"arm_layers": "0"}),
        ("float32", {"arm_layers": "1,3", "skip_special": True, "passes": 2}),
        ("bfloat16", {"arm_layers": "0"}),
        ("float32", {"arm_layers": "2", "ripple": False}),
    ],
)
def test_movement_is_that_of_hooks(demo_folder: Any, dtype: str, options: dict[str, Any]) -> None:
    opened = open_model(str(demo_folder), device="cpu", dtype=dtype)
    settings = RunSettings(max_length=24, batch_size=1, sites="act,product,down", c=0.8, **options)
    corpus = corpus_of(read_documents(TEXTS), opened, settings)
    run = measure(opened, corpus, settings)
    mlps = [layer.mlp for layer in opened.model.model.layers]
    seen: dict[tuple[int, str], list[np.ndarray]] = {}

    def note(layer: int, site: str, value: torch.Tensor) -> None:
        seen.setdefault((layer, site), []).append(value.detach().double().numpy().copy()[0])

    handles = []
    for layer, mlp in enumerate(mlps):
        handles += [
            mlp.act_fn.register_forward_hook(lambda _m, _a, out, n=layer: note(n, "act", out)),
            mlp.down_proj.register_forward_hook(
                lambda _m, a, _o, n=layer: note(n, "product", a[0])
            ),
            mlp.down_proj.register_forward_hook(lambda _m, _a, out, n=layer: note(n, "down", out)),
        ]
    special = set(opened.tokenizer.all_special_ids) if settings.skip_special else set()
    sums = dict.fromkeys(
        ((layer, site) for layer in range(6) for site in settings.sites.split(",")), 0.0
    )
    counts = dict.fromkeys(sums, 0)
    from distviz.data import make_batches
    from distviz.measure.forward import inputs_of, tokens_of

    for batch in make_batches(corpus, 1, skip_special=settings.skip_special):
        kept = [token not in special for token in batch.ids[0].tolist()]
        pair = []
        from distviz.hooks.redistribution import Redistribution
        from distviz.hooks.token_tracker import Tracker
        from distviz.models.architectures import find_points

        layers = [int(one) for one in settings.arm_layers.split(",")]
        points = find_points(opened.mlps, opened.model, ["act"], layers)
        for is_after in (False, True):
            seen.clear()
            tracker = Tracker()
            tracker.given = tokens_of(batch)
            with torch.inference_mode():
                if is_after:
                    # The hooks of this test see what the redistribution returns.
                    with Redistribution(settings.arm(), points, tracker).active(opened.model):
                        opened.model(**inputs_of(batch, opened.model))
                else:
                    opened.model(**inputs_of(batch, opened.model))
            pair.append({place: values[-1][kept] for place, values in seen.items()})
        for place in sums:
            change = np.abs(pair[1][place] - pair[0][place])
            sums[place] += change.sum()
            counts[place] += change.size
    for handle in handles:
        handle.remove()
    table = run.stats()
    table = table[table["phase"] == "after"]
    assert len(table) == (len(sums) if settings.ripple else 1)
    for row in table.itertuples():
        place = (row.layer, row.site)
        expected = sums[place] / counts[place]
        assert row.mean_abs_change == pytest.approx(expected, rel=1e-5), place
        before = run.sketch(*place)
        distance = statistics.wasserstein(before, run.sketch(*place, phase="after"))
        assert distance <= row.mean_abs_change * (1 + 1e-3)


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
        assert (changes.means(), changes.missing) == ({}, {KEY})
    changes = PairedChanges(is_on=True)
    _pass(changes, [[0.0]], [[3.0, 1.0]], np.ones(1, bool))
    assert changes.missing == {KEY}
    off = PairedChanges()
    _pass(off, [[0.0]], [[3.0]], np.ones(1, bool))
    assert not off.totals
