"""The first value that is not finite, on the CPU and on a device."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from distviz.hooks.nonfinite import FirstNonfinite
from distviz.hooks.recorder import Recorder
from distviz.hooks.tokens import Tokens
from distviz.sites import HookPoint, SiteKey
from distviz.stats import Sketch, kernels


def tokens_of(mask: np.ndarray) -> Tokens:
    """Rows are documents 10, 11 and so on; ids are 100 plus the row of the tensor."""
    index = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    ids = 100 + np.arange(mask.size).reshape(mask.shape)
    return Tokens(mask, mask, 10 + np.arange(len(mask)), index, np.zeros_like(index), ids=ids)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(("value", "kind"), [("nan", "nan"), ("inf", "inf"), ("-inf", "inf")])
def test_padding_is_passed_over(value: str, kind: str, *, on_device: bool) -> None:
    mask = np.array([[True, True, False, False], [False, True, True, True]])
    values = torch.ones(8, 5)
    values[2, 1] = values[4, 0] = float("nan")  # padding
    values[6, 3] = float(value)
    values[7, 0] = float("nan")
    told: list[dict[str, Any]] = []
    first, recorder = FirstNonfinite(told.append), Recorder()
    with kernels.force_torch() if on_device else contextlib.nullcontext():
        for layer, seen in ((1, torch.ones(8, 5)), (2, values), (2, values)):
            tokens = tokens_of(mask)
            recorder.add(HookPoint(layer, "decoder", "act", "m", "output"), "before", seen, tokens)
            first.see(recorder, SiteKey(layer, "decoder", "act", "before", "m"), seen, tokens)
        assert bool(told) != on_device  # on a device nothing waits
        first.finish()
    assert told == [
        {"layer": 2, "stack": "decoder", "site": "act", "module": "m", "kind": kind}
        | {"document": 11, "position": 1, "channel": 3, "token_id": 106}
    ]
    assert first.found == told[0]


def test_values_without_tokens() -> None:
    first, recorder = FirstNonfinite(lambda _: None), Recorder()
    key = SiteKey(0, "decoder", "weight:q", "before", "q")
    recorder.sketches[key] = {"all": Sketch().add(torch.tensor([1.0, float("inf")]))}
    first.see_sketch(recorder, key)
    assert first.found == {
        "layer": 0,
        "stack": "decoder",
        "site": "weight:q",
        "module": "q",
        "kind": "inf",
    }
