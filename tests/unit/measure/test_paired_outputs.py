"""Two models on the same tokens: brute force, what is refused, gathering, no model kept."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from unit.measure.test_output_effect import Model

from distviz.data.corpus import Batch
from distviz.measure.output_effect import HeadInput
from distviz.measure.paired_outputs import FirstOutputs, PairedOutputs
from distviz.measure.tensor_files import SpillBuffer
from distviz.measure.world import World

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 0], [8, 9, 1, 2]])
VALID = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]], bool)
COUNTED = VALID & np.array([[1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]], bool)


def batch(rows: slice, ids: Any = IDS) -> Batch:
    documents = np.array([0, 1, 1])[rows]
    windows = np.array([0, 0, 1])[rows]
    zeros = np.zeros_like(IDS[rows])
    return Batch(
        ids[rows], None, VALID[rows], COUNTED[rows], zeros, zeros, zeros, documents,
        windows, frozenset(), frozenset(),
    )  # fmt: skip


def model(seed: int) -> Model:
    made = Model()
    torch.manual_seed(seed)
    torch.nn.init.normal_(made.head.weight)
    return made


@torch.inference_mode()
def send(made: Model, sink: Any, batches: list[Batch]) -> None:
    head = HeadInput.of(made)
    assert head is not None
    for one in batches:
        hidden = head.run(ids=torch.from_numpy(one.ids))
        sink.add(head, one, hidden, hidden + 1)
    head.close()


def pair(limit: int = 1 << 20, phase: str = "before") -> tuple[FirstOutputs, PairedOutputs]:
    first = FirstOutputs("before", SpillBuffer(limit))
    return first, PairedOutputs(first, phase)


def expected(a: Model, b: Model, shift: float = 0.0) -> dict[int, tuple[float, ...]]:
    """Loss of A and B, KL and agreement by document, a position at a time."""
    sums: dict[int, list[tuple[float, ...]]] = {0: [], 1: []}
    for row, document in enumerate((0, 1, 1)):
        for position in range(3):
            if COUNTED[row, position + 1]:
                with torch.inference_mode():
                    hidden = [one.embedding(torch.tensor(IDS[row, position])) for one in (a, b)]
                    p, q = (
                        torch.softmax(one.head(x).double(), 0)
                        for one, x in zip((a, b), (hidden[0], hidden[1] + shift), strict=True)
                    )
                target = IDS[row, position + 1]
                kl = float((p * (p.log() - q.log())).sum())
                same = float(p.argmax() == q.argmax())
                sums[document].append((-float(p[target].log()), -float(q[target].log()), kl, same))
    return {name: tuple(np.mean(rows, axis=0)) for name, rows in sums.items()}


@pytest.mark.parametrize("limit", [1 << 20, 0])
@pytest.mark.parametrize("phase", ["before", "after"])
def test_every_number_is_that_of_plain_loops(limit: int, phase: str) -> None:
    a, b = model(1), model(2)
    first, second = pair(limit, phase)
    send(a, first, [batch(slice(0, 3))])
    send(b, second, [batch(slice(0, 1)), batch(slice(1, 3))])  # other batches, the same windows
    second.gather()
    first.spill.close()
    assert not second.refused
    for document, values in expected(a, b, 1.0 if phase == "after" else 0.0).items():
        found = second.documents[document].result(is_paired=True)
        assert found is not None
        names = ("loss_before", "loss_after", "kl", "top1_agreement")
        # float32 logits depend on the shape of the product
        np.testing.assert_allclose([found[name] for name in names], values, rtol=1e-5)
    assert {n: one.positions for n, one in second.documents.items()} == {0: 2, 1: 5}


def test_a_model_and_itself_differ_by_exactly_nothing() -> None:
    first, second = pair()
    for sink in (first, second):
        send(model(1), sink, [batch(slice(0, 3))])
    for effect in second.documents.values():
        assert float(effect.kl) == 0
        assert effect.loss_before == effect.loss_after
        assert effect.same == effect.positions


def test_logits_that_exclude_a_token_add_nothing() -> None:
    made = model(1)
    first, second = pair()
    made.postprocess = lambda logits: logits
    with torch.no_grad():
        made.head.bias = torch.nn.Parameter(torch.zeros(11))
        made.head.bias[10] = -torch.inf
    for sink in (first, second):
        send(made, sink, [batch(slice(0, 3))])
    assert float(second.documents[0].kl) == 0


@pytest.mark.parametrize("reason", ["tokens", "part", "vocabulary"])
def test_windows_that_cannot_be_compared_are_counted(reason: str) -> None:
    first, second = pair()
    send(model(1), first, [batch(slice(1 if reason == "part" else 0, 3))])
    other = model(2)
    if reason == "vocabulary":
        other.config.vocab_size = 12
    ids = np.where(IDS == 3, 4, IDS) if reason == "tokens" else IDS
    send(other, second, [batch(slice(0, 3), ids)])
    assert second.refused == {reason: 3 if reason == "vocabulary" else 1}


def test_the_model_of_a_is_not_held() -> None:
    first, _ = pair()
    made = model(1)
    reference = weakref.ref(made)
    send(made, first, [batch(slice(0, 3))])
    del made
    gc.collect()
    assert reference() is None


def test_the_results_of_all_processes_are_added() -> None:
    class Two(World):
        def broadcast(self, data: bytes) -> Any:
            yield from (data, data)

    first, second = pair()
    for sink in (first, second):
        send(model(1), sink, [batch(slice(0, 3))])
    second.refused["part"] = 1
    alone = {number: replace(effect) for number, effect in second.documents.items()}
    second.gather(Two())
    assert second.refused == {"part": 2}
    for number, effect in second.documents.items():
        assert effect == alone[number] + alone[number]
