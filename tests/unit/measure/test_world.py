"""Processes that share a measurement: partition of the batches, agreement, gathering."""

from __future__ import annotations

from typing import Any

import pytest

from distviz.errors import RequestError
from distviz.hooks.recorder import Recorder
from distviz.measure import world as processes
from distviz.measure.output_effect import Effect
from distviz.measure.partial import PartialResult, gather, partition_batches
from distviz.measure.world import World, agree
from distviz.stats import serialize as packing
from distviz.stats.moments import ExactSum


class Fixed(World):
    """A world in which the other processes give fixed answers."""

    def __init__(self, rank: int, answers: list[Any]) -> None:
        super().__init__(rank, len(answers))
        self.answers = answers

    def exchange(self, name: str, value: Any) -> list[Any]:
        return [value if rank == self.rank else other for rank, other in enumerate(self.answers)]

    def broadcast(self, data: bytes) -> Any:
        return iter(self.exchange("", data))


@pytest.mark.parametrize("n_shares", [1, 2, 3, 7])
def test_shares_are_ranges_of_about_equal_cost(n_shares: int) -> None:
    costs = {number: 100 + 37 * (number % 5) for number in range(3, 90) if number % 7}
    shares = partition_batches(costs, n_shares)
    assert [number for share in shares for number in share] == sorted(costs)
    totals = [sum(costs[number] for number in share) for share in shares]
    assert max(totals) - min(totals) <= 2 * max(costs.values())


@pytest.mark.parametrize(("n_batches", "n_shares"), [(1, 3), (2, 3), (0, 2)])
def test_fewer_batches_than_processes(n_batches: int, n_shares: int) -> None:
    shares = partition_batches(dict.fromkeys(range(n_batches), 5), n_shares)
    assert len(shares) == n_shares
    assert sorted(map(len, shares)) == sorted([1] * n_batches + [0] * (n_shares - n_batches))


def _portion(batches: set[int], kl: float) -> PartialResult:
    return PartialResult(Recorder(), Effect(len(batches), kl=ExactSum().plus(kl)), [], batches)


def test_every_process_has_the_whole_after_gathering() -> None:
    kinds = [({0, 1}, 0.1), ({2}, 1e16), ({3, 4}, -1e16)]
    sent = [packing.encode(_portion(*kind).state()) for kind in kinds]
    for rank, kind in enumerate(kinds):
        whole = gather(Fixed(rank, sent), _portion(*kind))
        assert whole.batches == {0, 1, 2, 3, 4}
        assert float(whole.effect.kl) == 0.1
    alone = _portion({0}, 1.0)
    assert gather(World(), alone) is alone


def test_processes_that_differ_are_named() -> None:
    same = {"torch": "2.13", "text": "ab"}
    agree(Fixed(1, [same, same]), "request", same)
    with pytest.raises(RequestError, match=r"differ: rank 2 has torch 2.9 \(rank 0: 2.13\)"):
        agree(Fixed(0, [same, same, same | {"torch": "2.9"}]), "request", same)


HOST = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", *HOST)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the variables of a launcher."""

    def set_variables(values: dict[str, str]) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "4"}, 1),
        ({"RANK": "3"}, 1),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 1),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"} | HOST, 4),
    ],
)
def test_the_size_is_read_from_the_environment(
    launched: Any, environment: dict[str, str], size: int
) -> None:
    launched(environment)
    assert processes.launched_size() == size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "5"}, "RANK='5', it must be a number from 0 to 1"),
        ({"RANK": "2"}, "RANK='2', it must be"),
        ({"RANK": "-1"}, "RANK='-1', it must be"),
        ({"RANK": "x"}, "RANK='x', it must be"),
        ({"RANK": ""}, "RANK='', it must be"),
        ({"RANK": "1.0"}, "RANK='1.0', it must be"),
        ({"RANK": "\N{SUPERSCRIPT TWO}"}, "RANK='\N{SUPERSCRIPT TWO}', it must be"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x', it must be a number from 1 to 65535"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0', it must be"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE='9+', it must be"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE is 2, and MASTER_ADDR is not set"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT='x', it must be"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT='65536', it must be"),
        ({"LOCAL_RANK": "-2"}, "LOCAL_RANK='-2', it must be"),
    ],
)
def test_variables_that_do_not_fit_are_refused(
    launched: Any, changes: dict[str, str], message: str
) -> None:
    launched({"RANK": "0", "WORLD_SIZE": "2"} | HOST | changes)
    with pytest.raises(RequestError, match=message) as refused:
        processes.launched_size()
    assert "unset RANK and WORLD_SIZE" in refused.value.hint


def test_a_single_process_reports_and_exchanges_with_itself(
    capfd: pytest.CaptureFixture[str],
) -> None:
    world = World()
    assert world.exchange("name", 3) == [3]
    assert list(world.broadcast(b"x")) == [b"x"]
    world.fail("disk is full", "free some", 1)
    assert capfd.readouterr().err == "distviz: disk is full\n  free some\n"
