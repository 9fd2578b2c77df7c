"""Continuations: greedy decoding against a plain loop, diversity by hand, refused options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from distviz.errors import RequestError
from distviz.models.open import open_model
from distviz.progress import Progress
from distviz.settings import RunSettings
from distviz.studies.generation import Decoding, diversity, generate


@pytest.fixture(scope="module")
def opened(demo_folder: Any) -> Any:
    return open_model(str(demo_folder), device="cpu")


def greedy(opened: Any, prompt: str, steps: int) -> str:
    """The most likely token, one whole pass after another."""
    ids = list(opened.tokenizer(prompt)["input_ids"])
    start = len(ids)
    with torch.inference_mode():
        for _ in range(steps):
            token = int(opened.model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == opened.tokenizer.eos_token_id:
                break
            ids.append(token)
    return str(opened.tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_without_redistribution_both_sides_are_greedy(opened: Any) -> None:
    settings, decoding = RunSettings(arm_layers="none"), Decoding(max_new_tokens=12)
    found = generate(opened, "Once upon a time", settings, decoding, Progress())
    expected = greedy(opened, "Once upon a time", 12)
    assert found.before == found.after == [expected]
    assert found.summary()["same_tokens"] == found.same
    assert found.manifest["prompt_tokens"] == len(opened.tokenizer("Once upon a time")["input_ids"])


def test_the_side_before_is_the_model_of_the_user(opened: Any) -> None:
    settings = RunSettings(arm_layers="all", fraction=0.9)
    found = generate(opened, "Once upon a time", settings, Decoding(max_new_tokens=8), Progress())
    assert found.before == [greedy(opened, "Once upon a time", 8)]
    assert found.after != found.before


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], None),
        ([[1]], None),
        ([[1, 2, 3]], 1.0),
        ([[1, 2, 1, 2, 1]], 0.5),
        ([[1, 2], [1, 2], [2, 1]], 2 / 3),
    ],
)
def test_diversity_counts_pairs_of_tokens(samples: list[list[int]], expected: Any) -> None:
    found = diversity(samples)
    assert found is expected or math.isclose(found or 0, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "--max-new-tokens is 0"),
        ({"samples": 2}, "--num-samples 2 would be the same text 2 times"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"top_p": 1.5}, "--top-p is 1.5"),
        ({"on": "never"}, "--on is 'never'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Decoding(**options)
