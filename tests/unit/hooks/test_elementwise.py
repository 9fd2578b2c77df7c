"""Values held of one model and compared with those of another: what is left out, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from distviz.errors import RequestError
from distviz.hooks import PairRecorder, Tokens
from distviz.hooks.elementwise import OTHER_ROWS, REPEATED, ROUTED
from distviz.hooks.moe_layouts import Routed
from distviz.sites import HookPoint
from distviz.stats import decode, encode

A = HookPoint(0, "decoder", "act", "a.act", "output")
B = HookPoint(0, "decoder", "act", "b.act", "output")
OTHER_A, OTHER_B = replace(A, layer=1), replace(B, layer=1)
COUNTED = np.array([[True, True, False], [True, True, True]])
TOKENS = Tokens(
    np.ones((2, 3), bool), COUNTED, np.array([4, 5]), np.arange(6).reshape(2, 3),
    np.zeros((2, 3), np.int64),
)  # fmt: skip
IDS = np.array([[4, 0, 0, 10], [4, 0, 1, 11], [5, 0, 0, 20], [5, 0, 1, 21], [5, 0, 2, 22]])


def _recorder() -> PairRecorder:
    return PairRecorder({B: A, OTHER_B: OTHER_A})


def test_only_counted_rows_are_compared() -> None:
    recorder, a = _recorder(), torch.ones(6, 2)
    recorder.hold(0, A, a, TOKENS)
    a.zero_()  # the model may write into its values
    b = torch.ones(6, 2)
    b[2], b[5, 1] = 100.0, 1.5
    recorder.compare(0, B, b, TOKENS, IDS)
    recorder.release([0])
    found = recorder.places[A]
    assert not recorder.left_out
    assert (found.tokens, found.most, found.most_channel) == (5, 0.5, 1)
    assert found.most_token == (5, 0, 2, 22)
    assert found.total.error == 0.25
    recorder.check()


def test_a_place_that_runs_twice_is_compared_in_order() -> None:
    recorder = _recorder()
    for value in (1.0, 2.0):
        recorder.hold(0, A, torch.full((6, 2), value), TOKENS)
    for value in (1.0, 3.0):
        recorder.compare(0, B, torch.full((6, 2), value), TOKENS, IDS)
    recorder.release([0])
    assert recorder.places[A].total.error == 5 * 2
    assert not recorder.left_out


def test_the_own_error_is_kept_apart() -> None:
    recorder = _recorder()
    recorder.hold(0, A, torch.zeros(6, 2), TOKENS)
    recorder.compare(0, B, torch.ones(6, 2), TOKENS, IDS)
    recorder.compare(0, B, torch.full((6, 2), 2.0), TOKENS, IDS, is_own=True)
    recorder.release([0])
    assert recorder.places[A].most == 1
    assert recorder.own[A].most == 2


def test_what_has_no_pair_is_left_out_by_name() -> None:
    recorder = _recorder()
    recorder.hold(0, A, torch.zeros(6, 2), TOKENS)
    recorder.compare(0, B, torch.zeros(6, 3), TOKENS, IDS)
    assert recorder.left_out[A] == "it has 2 channels in A and 3 in B"
    recorder.hold(0, OTHER_A, torch.zeros(6, 2), TOKENS)
    recorder.release([0])
    assert recorder.left_out[OTHER_A] == REPEATED
    with pytest.raises(RequestError, match="nothing can be compared element by element"):
        recorder.check()


def test_rows_that_are_not_tokens_are_left_out() -> None:
    recorder = _recorder()
    patches = replace(TOKENS, counted=np.ones((2, 2), bool), valid=np.ones((2, 2), bool))
    recorder.hold(0, A, torch.zeros(4, 2), patches)
    recorder.compare(0, B, torch.zeros(4, 2), patches, IDS)
    assert recorder.left_out[A] == OTHER_ROWS
    routed = replace(
        TOKENS, routed=Routed(np.arange(6), np.zeros(6, np.int64), np.zeros(6, np.int64), 6, 1)
    )
    recorder.hold(1, OTHER_A, torch.zeros(6, 2), routed)
    assert recorder.left_out[OTHER_A] == ROUTED


def test_values_are_held_elsewhere() -> None:
    """What is given back may be asked for twice, and is released where B has no counterpart."""
    recorder, log = _recorder(), []

    def hold(values: torch.Tensor) -> Callable[[], torch.Tensor]:
        return lambda: (log.append(values), values)[1]

    recorder.holds = hold
    recorder.hold(0, A, torch.zeros(6, 2), TOKENS)
    recorder.hold(0, OTHER_A, torch.ones(6, 2), TOKENS)
    for is_own in (False, True):
        recorder.compare(0, B, torch.ones(6, 2), TOKENS, IDS, is_own=is_own)
    assert len(log) == 2
    recorder.release([0])
    assert any(bool(one.all()) for one in log)
    assert recorder.left_out == {OTHER_A: REPEATED}


def test_states_add_up() -> None:
    recorder, others = _recorder(), [_recorder(), _recorder()]
    for number in range(4):
        a, b = torch.full((6, 2), 1.0), torch.full((6, 2), 1.0 + number)
        for one in (recorder, others[number % 2]):
            one.hold(number, A, a, TOKENS)
            one.compare(number, B, b, TOKENS, IDS + np.array([number, 0, 0, 0]))
            one.release([number])
    others[1].left_out[OTHER_A] = ROUTED
    total = _recorder()
    for one in others:
        total.add_state(decode(encode(one.state())))
    expected, found = recorder.places[A].state(), total.places[A].state()
    for state in (expected, found):
        state["worst"] = sorted(state["worst"])
    assert encode(found) == encode(expected)
    assert total.left_out == {OTHER_A: ROUTED}
