"""What a recorder counts: classes, channels, documents and sequences, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from distviz.hooks.recorder import Recorder
from distviz.hooks.tokens import TOKEN_CLASSES, Tokens
from distviz.sites import HookPoint, SiteKey
from distviz.stats import decode, encode

POINT = HookPoint(0, "decoder", "act", "m", "output")
KEY = SiteKey(0, "decoder", "act", "before", "m")
COUNTED = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], bool)


def tokens(**fields: Any) -> Tokens:
    valid = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    index = np.arange(8).reshape(2, 4)
    classes = np.array([[0, 1, 2, 3], [3, 3, 0, 0]])
    return Tokens(valid, COUNTED, np.array([5, 9]), index, classes, **fields)


def values(seed: int = 0, rows: int = 8, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-32, 33, (rows, channels), generator=generator) / 16


def test_only_counted_tokens_enter() -> None:
    recorder, x = Recorder(), values()
    recorder.add(POINT, "before", x, tokens())
    kept = x.numpy()[COUNTED.ravel()]
    sketch = recorder.sketches[KEY]["all"]
    assert sketch.count == kept.size
    assert sketch.magnitude_pairs()[1].sum() == kept.size
    channels = recorder.channels()
    assert channels["count"].tolist() == [4, 4, 4]
    np.testing.assert_allclose(channels["mean"], kept.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(channels["std"], kept.std(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(channels["absmax"], np.abs(kept).max(axis=0))
    documents = recorder.documents.frame()
    assert documents[["document", "count"]].to_numpy().tolist() == [[5, 9], [9, 3]]


def test_token_classes_on_chosen_layers() -> None:
    recorder, x = Recorder(class_layers=frozenset([0])), values()
    recorder.add(POINT, "before", x, tokens())
    by_class = recorder.sketches[KEY]
    assert tuple(by_class) == TOKEN_CLASSES
    assert [by_class[name].count for name in TOKEN_CLASSES] == [3, 3, 0, 6]
    other = POINT.__class__(1, "decoder", "act", "m", "output")
    recorder.add(other, "before", x, tokens())
    assert list(recorder.sketches[KEY._replace(layer=1)]) == ["all"]


def test_moved_values_alone_and_without_channels() -> None:
    recorder, x = Recorder(), values()
    moved = (x > 0.5).to(torch.uint8)
    recorder.add(POINT, "moved_before", x, tokens(), moved)
    kept = x.numpy()[COUNTED.ravel()]
    assert recorder.sketches[KEY._replace(phase="moved_before")]["all"].count == (kept > 0.5).sum()
    assert recorder.channels().empty
    assert recorder.documents.frame().empty


def test_details_of_channels() -> None:
    recorder, x = Recorder(channel_details=True), values(3)
    x[0], x[3] = torch.tensor([2.0, -2.0, 1.0]), 0.0
    recorder.add(POINT, "before", x, tokens())
    channels, kept = recorder.channels(), x.double().numpy()[COUNTED.ravel()]
    np.testing.assert_array_equal(channels["zeros"], (kept == 0).sum(axis=0))
    np.testing.assert_array_equal(channels["positive"], (kept > 0).sum(axis=0))
    largest = np.abs(kept).argmax(axis=1)  # the first of several
    np.testing.assert_array_equal(channels["top"], np.bincount(largest, minlength=3))
    deviations = kept - kept.mean(axis=0)
    kurtosis = (deviations**4).mean(axis=0) / (deviations**2).mean(axis=0) ** 2 - 3
    np.testing.assert_allclose(channels["kurtosis"], kurtosis, rtol=1e-12)
    plain = Recorder()
    plain.add(POINT, "before", x, tokens())
    assert set(channels) - set(plain.channels()) == {"kurtosis", "top"}


@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("classes", [frozenset(), None])
def test_sums_and_states_are_one_recorder(classes: frozenset[int] | None, details: bool) -> None:
    def recorded(*seeds: int) -> Recorder:
        recorder = Recorder(class_layers=classes, channel_details=details)
        for seed in seeds:
            recorder.add(POINT, "before", values(seed), tokens())
        return recorder

    total, together = recorded(1) + recorded(2), recorded(1, 2)
    again = Recorder.from_state(decode(encode(total.state())))
    for other in (total, again):
        pd.testing.assert_frame_equal(other.channels(), together.channels())
        pd.testing.assert_frame_equal(other.documents.frame(), together.documents.frame())
        for name, sketch in together.sketches[KEY].items():
            assert other.sketches[KEY][name].count == sketch.count
            assert other.sketches[KEY][name].moments == sketch.moments
