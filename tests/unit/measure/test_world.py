"""Processes that share a measurement: shares, agreement, and the wires that notice an end."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from distviz.errors import MeasurementError, RequestError
from distviz.hooks.recorder import Recorder
from distviz.measure import wires
from distviz.measure import world as processes
from distviz.measure.output_effect import Effect
from distviz.measure.partial import PartialResult, gather, partition_batches
from distviz.measure.wires import FirstEnd, OtherEnd
from distviz.measure.world import World, agree
from distviz.progress import Progress
from distviz.stats import serialize as packing
from distviz.stats.moments import ExactSum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Where a process would end, the thread that stands for it does.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Told(World):
    """A world in which the other processes said this."""

    def __init__(self, rank: int, answers: list[Any]) -> None:
        super().__init__(rank, len(answers))
        self.answers = answers

    def exchange(self, name: str, value: Any) -> list[Any]:
        return [value if rank == self.rank else other for rank, other in enumerate(self.answers)]

    def broadcast(self, data: bytes) -> Any:
        return iter(self.exchange("", data))


@pytest.mark.parametrize("n_shares", [1, 2, 3, 7])
def test_shares_are_runs_of_about_equal_cost(n_shares: int) -> None:
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
        whole = gather(Told(rank, sent), _portion(*kind))
        assert whole.batches == {0, 1, 2, 3, 4}
        assert float(whole.effect.kl) == 0.1
    alone = _portion({0}, 1.0)
    assert gather(World(), alone) is alone


def test_processes_that_differ_are_named() -> None:
    same = {"torch": "2.13", "text": "ab"}
    agree(Told(1, [same, same]), "request", same)
    with pytest.raises(RequestError, match=r"differ: rank 2 has torch 2.9 \(rank 0: 2.13\)"):
        agree(Told(0, [same, same, same | {"torch": "2.9"}]), "request", same)


@pytest.mark.parametrize(
    ("environment", "size"),
    [({}, 1), ({"WORLD_SIZE": "4"}, 1), ({"RANK": "0", "WORLD_SIZE": "4"}, 4), ({"RANK": "0"}, 1)],
)
def test_what_a_launcher_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], size: int
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.launched_size() == size


# Wires ----------------------------------------------------------------------------------------


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Exit codes by the kind of thread that asked for the end, instead of the end."""
    found: list[tuple[str, int]] = []

    def end(code: int) -> None:
        found.append((threading.current_thread().name, code))
        raise SystemExit

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(wires, "_GRACE", 0.05)
    monkeypatch.setattr(wires, "_PATIENCE", 0.3)
    return found


class Counts(Progress):
    """Adds up, and tells when something came."""

    def __init__(self) -> None:
        self.tokens = 0
        self.came = threading.Event()

    def advance(self, tokens: int) -> None:
        self.tokens += tokens
        self.came.set()


@pytest.fixture
def wired(ends: list[Any]) -> Iterator[Callable[[int], tuple[FirstEnd, list[OtherEnd]]]]:
    """Join processes that are threads of this one; all are gone before the next test."""
    sockets: list[socket.socket] = []

    def join(size: int) -> tuple[FirstEnd, list[OtherEnd]]:
        first = FirstEnd(size, "secret", Counts(), lambda: "go on")
        port = first.listen()
        others = [OtherEnd(rank, size, "secret") for rank in range(1, size)]
        for other in others:
            other.connect("localhost", port, 5)
        first.accept(5)
        sockets.extend([*first._wires.values(), *(other._wire for other in others)])
        return first, others

    yield join
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    _join_threads()
    for one in sockets:
        one.close()


def _join_threads() -> None:
    for thread in threading.enumerate():
        if "_follow" in thread.name:
            thread.join(5)


def test_progress_of_all_is_shown(ends: list[Any], wired: Callable[..., Any]) -> None:
    first, others = wired(3)
    for other in others:
        other.advance(7)
    others[0].advance(1)
    while first.progress.tokens < 15:
        assert first.progress.came.wait(5)
        first.progress.came.clear()
    first.finish()
    for other in others:
        other.finish()
    _join_threads()
    assert ends == []


def test_a_process_that_is_lost_ends_all_with_one_message(
    ends: list[tuple[str, int]], wired: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    _, others = wired(3)
    others[1]._wire.shutdown(socket.SHUT_RDWR)  # what the system does for a process that dies
    _join_threads()
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"distviz: rank 2 of 3 ({socket.gethostname()}, process ")
    assert said[0].endswith(") was lost: killed, or out of memory")
    assert said[1] == "  go on"
    assert {code for _, code in ends} == {1}
    assert len(ends) >= 2


def test_the_first_process_is_lost(
    ends: list[tuple[str, int]], wired: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    first, _ = wired(3)
    first._is_over = True  # a process that was killed says nothing
    for connection in first._wires.values():
        connection.shutdown(socket.SHUT_RDWR)
    _join_threads()
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "distviz: rank 0 of 3 was lost: killed, or out of memory"
    assert len(said) == 2
    assert [code for _, code in ends] == [1, 1]


def test_a_failure_elsewhere_is_said_by_the_first(
    ends: list[tuple[str, int]], wired: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    _, others = wired(2)
    with pytest.raises(SystemExit):
        others[0].fail("disk is full", "free some", 1)
    _join_threads()
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith("distviz: rank 1 of 2 (")
    assert said[0].endswith("): disk is full")
    assert said[1:] == ["  free some"]
    assert {code for _, code in ends} == {1}


def test_one_message_where_all_fail_alike(
    ends: list[tuple[str, int]], wired: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    first, others = wired(3)
    failing = [
        threading.Thread(target=other.fail, args=("no such layer", "", 2)) for other in others
    ]
    for thread in failing:
        thread.start()
    first.say("no such layer", "", 2)
    for thread in failing:
        thread.join(5)
    _join_threads()
    assert capfd.readouterr().err == "distviz: no such layer\n"
    assert {code for _, code in ends} == {2}


def test_after_the_result_is_written_anybody_may_end(
    ends: list[tuple[str, int]], wired: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    first, others = wired(2)
    first.finish()
    others[0]._wire.shutdown(socket.SHUT_RDWR)
    _join_threads()
    assert (ends, capfd.readouterr().err) == ([], "")


def test_strangers_are_sent_away_and_who_is_missing_is_named(ends: list[Any]) -> None:
    first = FirstEnd(3, "secret")
    port = first.listen()
    other = OtherEnd(1, 3, "secret")
    with socket.create_connection(("localhost", port)) as stranger:
        stranger.sendall(b'{"rank": 1, "key": "guess", "name": "x"}\n')
        other.connect("localhost", port, 5)
        with pytest.raises(MeasurementError, match=r"1 of 3 processes did not .*first is rank 2"):
            first.accept(0.5)
        assert stranger.recv(1) == b""
    for one in (other._wire, first._wires[1]):
        one.shutdown(socket.SHUT_RDWR)
    _join_threads()
    for one in (other._wire, first._wires[1]):
        one.close()


def test_the_first_process_cannot_be_reached() -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(MeasurementError, match="rank 1 cannot reach rank 0 at localhost"):
        OtherEnd(1, 2, "secret").connect("localhost", port, 1)
