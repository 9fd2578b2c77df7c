"""Portions of a measurement: saved and added, they are the whole."""

from __future__ import annotations

import functools
import itertools
import operator
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from distviz.data.corpus import Batch
from distviz.hooks.recorder import Recorder
from distviz.hooks.tokens import Tokens
from distviz.measure.output_effect import Effect
from distviz.measure.partial import PartialResult, batches_of_documents
from distviz.sites import HookPoint
from distviz.stats import serialize as packing
from distviz.stats.moments import ExactSum
from distviz.stats.sketch import Sketch

WIDTH, LENGTH = 7, 5
POINTS = [HookPoint(layer, "decoder", "act", f"layers.{layer}.act", "output") for layer in (0, 1)]
# Which documents the rows of each batch belong to: one, two and four batches long.
ROWS = [[0, 1], [1, 2], [3, 4], [4, 4], [4, 4], [4, 5], [6, 7]]


def _batch(number: int) -> Batch:
    documents = np.array(ROWS[number])
    shape = (len(documents), LENGTH)
    zeros = np.zeros(shape, np.int64)
    counted = np.ones(shape, bool)
    counted[0, :number] = False
    others = {d for n, rows in enumerate(ROWS) if n != number for d in rows}
    whole = frozenset(documents.tolist()) - others
    classes = np.random.default_rng(number).integers(0, 4, shape)
    ends = frozenset[int]()
    named = zeros, zeros, documents, zeros[:, 0]
    return Batch(zeros, None, counted, counted, classes, *named, whole, ends)


BATCHES = [_batch(number) for number in range(len(ROWS))]
SPANS = batches_of_documents(BATCHES)


def _measure(portion: PartialResult, number: int, dtype: torch.dtype) -> None:
    """What a batch gives depends on its number alone, as a forward pass does."""
    batch = BATCHES[number]
    tokens = Tokens(
        batch.valid, batch.counted, batch.documents, batch.index, batch.classes, batch.whole
    )
    for phase, point in itertools.product(("before", "after"), POINTS):
        seed = torch.Generator().manual_seed(100 * number + 10 * point.layer + (phase == "after"))
        values = torch.randn(batch.valid.size, WIDTH, generator=seed) * 10.0 ** (number - 3)
        values[3, number % WIDTH] = float("nan") if number == 2 else -0.0
        portion.recorder.add(point, phase, values.to(dtype), tokens)
    portion.plans.append(
        {"layer": 0, "document": ROWS[number][0], "window": number, "eps": 0.1 * number}
        | {"pass": 0, "module": "layers.0.act", "stack": "decoder", "n": number}
    )
    effect = portion.effect
    effect.loss_before = effect.loss_before.plus(0.1 * number)
    effect.positions += number
    portion.finish(number, batch, SPANS)


def _portion(numbers: list[int], dtype: torch.dtype) -> PartialResult:
    portion = PartialResult(Recorder(class_layers=frozenset([1])))
    for number in numbers:
        _measure(portion, number, dtype)
    return portion


def _saved(portion: PartialResult) -> PartialResult:
    return PartialResult.from_state(packing.decode(packing.encode(portion.state())))


def _exact(portion: PartialResult) -> dict[str, Any]:
    """Everything that is promised to the bit."""
    facts = {
        (key, name): (*packing.pack_sketches([sketch])["facts"], sketch.moments)
        for key, by_class in portion.recorder.sketches.items()
        for name, sketch in by_class.items()
    }
    return {
        "facts": repr(sorted(facts.items())),
        "effect": portion.effect,
        "batches": portion.batches,
    }


def _merged(portion: PartialResult) -> dict[Any, Sketch]:
    found = portion.recorder.sketches.items()
    return {key: functools.reduce(operator.add, one.values(), Sketch()) for key, one in found}


def _assert_same(one: PartialResult, other: PartialResult) -> None:
    assert _exact(one) == _exact(other)
    for key, by_class in one.recorder.sketches.items():
        for name, sketch in by_class.items():
            np.testing.assert_array_equal(sketch.table, other.recorder.sketches[key][name].table)
    pd.testing.assert_frame_equal(
        one.recorder.documents.frame(), other.recorder.documents.frame(), check_exact=True
    )
    pd.testing.assert_frame_equal(one.plan_table(), other.plan_table(), check_exact=True)
    assert repr(one.recorder.extremes.frame(_merged(one))) == repr(
        other.recorder.extremes.frame(_merged(other))
    )
    channels = (portion.recorder.channels() for portion in (one, other))
    pd.testing.assert_frame_equal(*channels, check_exact=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(4))
def test_any_share_in_any_order_is_the_whole(dtype: torch.dtype, seed: int) -> None:
    numbers = list(range(len(BATCHES)))
    whole = _portion(numbers, dtype)
    order = random.Random(seed)
    order.shuffle(numbers)
    cuts = sorted(order.sample(range(1, len(numbers)), 2))
    parts = [numbers[: cuts[0]], numbers[cuts[0] : cuts[1]], numbers[cuts[1] :], []]
    portions = [_saved(_portion(part, dtype)) for part in parts]
    order.shuffle(portions)
    total = portions[0]
    for portion in portions[1:]:
        total = total + portion
    total.recorder.documents.close()
    _assert_same(total, whole)
    assert len(whole.recorder.documents.frame()) == 8 * 2 * 2


@pytest.mark.parametrize("stop", range(len(BATCHES) + 1))
def test_going_on_from_a_saved_state_is_not_seen(stop: int) -> None:
    whole = _portion(list(range(len(BATCHES))), torch.float32)
    resumed = _saved(_portion(list(range(stop)), torch.float32))
    for number in range(stop, len(BATCHES)):
        _measure(resumed, number, torch.float32)
    _assert_same(resumed, whole)


def test_documents_close_as_soon_as_nothing_follows() -> None:
    portion = PartialResult(Recorder())
    open_after = []
    for number in range(len(BATCHES)):
        _measure(portion, number, torch.float32)
        open_after.append(portion.recorder.documents.open_documents())
    assert open_after == [[1], [], [4], [4], [4], [], []]
    assert portion.recorder.documents._eps == {}


def test_a_batch_cannot_count_twice() -> None:
    with pytest.raises(ValueError, match="batch 2 would be counted twice"):
        _portion([1, 2], torch.float32) + _portion([2, 3], torch.float32)


def test_a_tree_comes_back_as_it_was() -> None:
    tree = {
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "empty": np.empty((0, 4)),
        "huge": -(3**1300),
        "floats": [0.1, float("inf"), float("nan"), -0.0],
        "text": ["ü", None, True, {"deeper": [np.array([2**63], np.uint64)]}],
    }
    found = packing.decode(packing.encode(tree))
    assert repr(found) == repr(tree)
    found["array"][0, 0] = 9  # may be changed


def test_what_is_no_tree_is_refused() -> None:
    with pytest.raises(TypeError, match="a Effect cannot be packed"):
        packing.encode({"effect": Effect()})


def test_effects_add_without_rounding() -> None:
    terms = [0.1] * 10
    effect = sum((Effect(positions=1, kl=ExactSum().plus(t)) for t in terms), Effect())
    assert effect.result(is_paired=True) is not None
    assert effect.result(is_paired=True)["kl"] == 1.0 / 10
    assert Effect.from_state(packing.decode(packing.encode(effect.state()))) == effect
