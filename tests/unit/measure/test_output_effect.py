"""Effects on the output: exact sums, the input of the head, and unknown post-processing."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from distviz.errors import MeasurementError
from distviz.measure import output_effect
from distviz.measure.output_effect import Baseline, Effect, HeadInput

VOCABULARY, WIDTH = 11, 4


class Config(SimpleNamespace):
    def get_text_config(self) -> Config:
        return self


class Model(nn.Module):
    """An embedding, a head, and a way to post-process logits."""

    def __init__(self, postprocess: Any = None, **config: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.postprocess = postprocess or (lambda logits: logits)
        self.config = Config(vocab_size=VOCABULARY, **config)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.postprocess(self.head(self.embedding(ids))))


IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
COUNTED = np.array([[True, True, False, True], [True, True, True, True]])


@torch.inference_mode()
def test_loss_and_divergence_are_those_of_whole_logits() -> None:
    model = Model()
    head = HeadInput.of(model)
    assert head is not None
    before = head.run(ids=torch.from_numpy(IDS))
    after = before + 0.1
    head.close()
    effect = Effect()
    effect.compare(Baseline(head, before, IDS, COUNTED), after)
    rows = np.argwhere(COUNTED[:, 1:])
    first, second = (
        functional.log_softmax(model.head(hidden)[rows[:, 0], rows[:, 1]].double(), 1)
        for hidden in (before, after)
    )
    targets = torch.from_numpy(IDS[rows[:, 0], rows[:, 1] + 1])
    found = effect.result(is_paired=True)
    assert found is not None
    assert found["positions"] == len(rows) == 5
    assert found["loss_before"] == pytest.approx(float(functional.nll_loss(first, targets)), 1e-5)
    assert found["loss_after"] == pytest.approx(float(functional.nll_loss(second, targets)), 1e-5)
    divergence = functional.kl_div(second, first, reduction="batchmean", log_target=True)
    assert found["kl"] == pytest.approx(float(divergence), 1e-4)
    assert found["top1_agreement"] == float((first.argmax(1) == second.argmax(1)).double().mean())
    alone = effect.result(is_paired=False)
    assert alone == dict.fromkeys(found) | {n: found[n] for n in ("loss_before", "positions")}


@torch.inference_mode()
def test_known_ways_to_post_process_logits_are_found() -> None:
    model = Model(lambda logits: torch.tanh(logits / 0.5) * 0.5, final_logit_softcapping=0.5)
    head = HeadInput.of(model)
    assert head is not None
    hidden = head.run(ids=torch.from_numpy(IDS))
    expected = model(torch.from_numpy(IDS)).logits
    assert torch.equal(head.logits(hidden), expected)


@torch.inference_mode()
def test_unknown_ways_to_post_process_logits_are_refused() -> None:
    head = HeadInput.of(Model(lambda logits: logits + 1))
    assert head is not None
    with pytest.raises(MeasurementError, match="Model post-processes its logits in an unsupported"):
        head.run(ids=torch.from_numpy(IDS))


def test_effects_add_and_are_restored_from_their_state() -> None:
    parts = [Effect(2, 1), Effect(3, 3)]
    for part, values in zip(parts, ([0.1, 1e16], [-1e16, 0.2]), strict=True):
        for value in values:
            part.kl = part.kl.plus(value)
    total = Effect.from_state(parts[0].state()) + Effect.from_state(parts[1].state())
    assert (total.positions, total.same) == (5, 4)
    assert float(total.kl) == math.fsum([0.1, 0.2])
    assert Effect().result(is_paired=True) is None


@pytest.mark.parametrize("vocabulary", [1, 7, 50_000])
def test_the_most_likely_token_is_the_first_of_equal_ones(vocabulary: int) -> None:
    torch.manual_seed(0)
    logits = torch.randint(-3, 3, (20, vocabulary)).float()
    logits[3] = -torch.inf
    logits[4, vocabulary // 2] = torch.nan
    logits[5, vocabulary // 2 :] = torch.inf
    for rows in (logits, logits[:, : vocabulary // 2 + 1], logits[::2]):
        assert torch.equal(output_effect.most_likely(rows), rows.argmax(1))
