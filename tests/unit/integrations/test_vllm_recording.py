"""Bookkeeping of requests in a worker of vLLM, and engines that are refused."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from support.pretended_engine import configuration

from distviz.errors import RequestError
from distviz.integrations.vllm_places import Place
from distviz.integrations.vllm_recording import Requests, check_engine, put_together, tokens_of
from distviz.sites import HookPoint

if TYPE_CHECKING:
    from typing import Any


def schedule(requests: Requests, spans: dict[str, tuple[int, int]]) -> Any:
    computed = np.array([start for start, _ in spans.values()])
    scheduled = np.array([stop for _, stop in spans.values()]) - computed
    return requests.schedule(
        list(spans), scheduled, computed, lambda owner, index: 100 * owner + index
    )


def rows(tokens: Any) -> list[tuple[int, int, bool, int]]:
    """Document, position, whether it counts, and id of each row."""
    assert tokens.valid.all()
    columns = (tokens.documents, tokens.index[:, 0], tokens.counted[:, 0], tokens.ids[:, 0])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_rows_are_in_the_order_of_the_batch() -> None:
    requests = Requests()
    assert rows(schedule(requests, {"x": (0, 2), "y": (0, 1)})) == [
        (0, 0, True, 0),
        (0, 1, True, 1),
        (1, 0, True, 100),
    ]
    assert rows(schedule(requests, {"y": (1, 2), "x": (2, 3)})) == [
        (1, 1, True, 1),
        (0, 2, True, 102),
    ]
    assert (requests.n_documents, requests.n_tokens, requests.n_skipped) == (2, 5, 0)


def test_what_is_computed_again_counts_once() -> None:
    requests = Requests()
    schedule(requests, {"x": (0, 3)})
    again = rows(schedule(requests, {"x": (1, 5)}))
    assert [counted for _, _, counted, _ in again] == [False, False, True, True]
    assert [counted for _, _, counted, _ in rows(schedule(requests, {"x": (0, 2)}))] == [False] * 2
    assert requests.n_tokens == 5


def test_what_was_in_the_cache_is_not_counted_later() -> None:
    requests = Requests()
    schedule(requests, {"x": (3, 5)})
    assert (requests.n_tokens, requests.n_skipped) == (2, 3)
    assert [counted for _, _, counted, _ in rows(schedule(requests, {"x": (0, 6)}))] == [
        *[False] * 5,
        True,
    ]
    assert (requests.n_tokens, requests.n_skipped) == (3, 3)


def test_a_finished_request_is_forgotten_and_its_name_is_another_document() -> None:
    requests = Requests()
    schedule(requests, {"x": (0, 3), "y": (0, 3)})
    assert requests.finish({"y", "unknown"}) == [1]
    assert [row[:3] for row in rows(schedule(requests, {"y": (0, 1), "x": (3, 4)}))] == [
        (2, 0, True),
        (0, 3, True),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_any_schedule_counts_every_position_once(seed: int) -> None:
    """Chunks, preemption to any earlier position, any order, against a set of positions."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "d"]
    requests, position = Requests(), dict.fromkeys(names, 0)
    seen: set[tuple[str, int]] = set()
    numbers: dict[str, int] = {}
    for _ in range(30):
        batch = chance.sample(names, chance.randint(1, 4))
        spans = {}
        for name in batch:
            if chance.random() < 0.2:
                position[name] = chance.randint(0, position[name])
            spans[name] = (position[name], position[name] + chance.randint(1, 4))
            position[name] = spans[name][1]
            numbers.setdefault(name, len(numbers))
        expected = []
        for row, (name, span) in enumerate(spans.items()):
            expected += [
                (numbers[name], index, (name, index) not in seen, 100 * row + index)
                for index in range(*span)
            ]
        seen |= {(name, index) for name, span in spans.items() for index in range(*span)}
        assert rows(schedule(requests, spans)) == expected
    assert requests.n_tokens == len(seen)


def test_tokens_come_from_the_runner_s_batch() -> None:
    batch = SimpleNamespace(
        req_ids=["y", "x"],
        num_computed_tokens_cpu=np.array([1, 0, 7], np.int32),
        token_ids_cpu=np.array([[5, 6, 7], [8, 9, 10], [0, 0, 0]], np.int32),
        is_token_ids=np.array([[True, True, True], [True, False, True], [True] * 3]),
    )
    step = SimpleNamespace(num_scheduled_tokens={"x": 3, "y": 1})
    tokens = tokens_of(SimpleNamespace(input_batch=batch), step, Requests())
    assert rows(tokens) == [(0, 1, True, 6), (1, 0, True, 8), (1, 1, True, -1), (1, 2, True, 10)]
    assert tokens.index.dtype == tokens.documents.dtype == tokens.ids.dtype == np.int64


class Gathered:
    """A group whose other ranks have sent their slices."""

    def __init__(self, parts: list[torch.Tensor], rank: int = 0) -> None:
        self.parts, self.rank_in_group = parts, rank

    def all_gather(self, value: torch.Tensor, dim: int) -> torch.Tensor:
        assert value.is_contiguous()
        assert torch.equal(value, self.parts[self.rank_in_group])
        return torch.cat(self.parts, dim)


def place(slices: int, copies: int) -> Place:
    return Place(HookPoint(0, "decoder", "k", "m", "output"), lambda value: value, slices, copies)


def test_slices_stand_in_the_order_of_the_ranks() -> None:
    whole = torch.arange(24.0).reshape(3, 8)
    parts = [part.contiguous() for part in whole.chunk(4, dim=1)]
    found = put_together(parts[0], place(4, 1), Gathered(parts))
    assert torch.equal(found, whole)
    assert put_together(whole[:, 2:4], place(4, 1), Gathered(parts, rank=1)) is None
    doubled = [parts[0], parts[0], parts[1], parts[1]]
    found = put_together(parts[0], place(4, 2), Gathered(doubled))
    assert torch.equal(found, whole[:, :4])


def test_what_every_rank_holds_is_counted_on_the_first() -> None:
    whole = torch.ones(2, 3)
    assert put_together(whole, place(1, 1), SimpleNamespace(rank_in_group=0)) is whole
    assert put_together(whole, place(1, 1), SimpleNamespace(rank_in_group=1)) is None


@pytest.mark.parametrize(
    ("part", "field", "value", "message", "hint"),
    [
        ("model_config", "enforce_eager", False, "compiled code", "enforce_eager=True"),
        ("", "speculative_config", object(), "speculative decoding", "speculative_config"),
        ("scheduler_config", "async_scheduling", True, "asynchronous", "async_scheduling=False"),
        ("", "use_v2_model_runner", True, "model runner V2", "VLLM_USE_V2_MODEL_RUNNER=0"),
        ("parallel_config", "data_parallel_size", 2, "data par", "data_parallel_size=1"),
        ("parallel_config", "prefill_context_parallel_size", 2, "context parallelism", "=1"),
        ("model_config", "is_encoder_decoder", True, "an encoder", "distviz run"),
    ],
)
def test_engines_that_would_be_counted_wrongly_are_refused(
    part: str, field: str, value: Any, message: str, hint: str
) -> None:
    config = configuration()
    check_engine(config)
    setattr(getattr(config, part) if part else config, field, value)
    with pytest.raises(RequestError, match=message) as error:
        check_engine(config)
    assert hint in error.value.hint
