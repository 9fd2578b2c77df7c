"""Several worlds on one store, each in a thread: exchange, progress, failures, lost processes."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from torch.distributed import TCPStore

from distviz.errors import MeasurementError
from distviz.measure import distributed
from distviz.measure.distributed import LaunchedWorld
from distviz.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Counts(Progress):
    """Adds up tokens."""

    def __init__(self) -> None:
        self.tokens = 0

    def advance(self, tokens: int) -> None:
        self.tokens += tokens


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[LaunchedWorld]]]:
    """Processes that are threads of this one; signals stay as they are."""
    monkeypatch.setattr(distributed, "_GRACE_SECONDS", 0.3)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    stores = []

    def join(size: int) -> list[LaunchedWorld]:
        stores.append(TCPStore("localhost", 0, is_master=True, wait_for_workers=False))
        for _ in range(size):
            stores.append(TCPStore("localhost", stores[0].port, is_master=False))
        return [LaunchedWorld(rank, size, store=stores[1 + rank]) for rank in range(size)]

    yield join
    stores.clear()


def _together(worlds: list[LaunchedWorld], act: Callable[[LaunchedWorld], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(worlds)) as pool:
        return [one.result(10) for one in [pool.submit(act, world) for world in worlds]]


def _where(rank: int, size: int) -> str:
    return f"distviz: rank {rank} of {size} ({socket.gethostname()}, process {os.getpid()}): "


def test_every_process_has_the_values_of_all(worlds: Callable[..., list[LaunchedWorld]]) -> None:
    found = _together(
        worlds(3),
        lambda world: [world.exchange(name, [name, world.rank]) for name in ("a", "b", "a")],
    )
    expected = [[[name, rank] for rank in range(3)] for name in ("a", "b", "a")]
    assert found == [expected] * 3


def test_the_bar_of_the_first_shows_the_tokens_of_all(
    worlds: Callable[..., list[LaunchedWorld]],
) -> None:
    first, second = worlds(2)
    bar, silent = Counts(), Counts()
    mine, other = first.progress(bar), second.progress(silent)
    other.advance(7)
    mine.advance(3)
    other.advance(1)
    assert bar.tokens == 10
    _together([first, second], lambda world: world.finish())
    assert (bar.tokens, silent.tokens) == (11, 0)


def test_a_failure_is_reported_once_with_its_rank_and_ends_all(
    worlds: Callable[..., list[LaunchedWorld]], capfd: pytest.CaptureFixture[str]
) -> None:
    first, second, third = worlds(3)
    second.fail("disk is full", "free some", 1)
    assert capfd.readouterr().err == f"{_where(1, 3)}disk is full\n  free some\n"
    with pytest.raises(SystemExit, match=r"^1$"):
        first.exchange("anything", None)
    with pytest.raises(SystemExit, match=r"^1$"):
        third.progress(Progress()).advance(5)
    first.fail("interrupted", "", 130)
    assert capfd.readouterr().err == ""


def test_an_error_that_all_find_is_reported_by_the_first(
    worlds: Callable[..., list[LaunchedWorld]], capfd: pytest.CaptureFixture[str]
) -> None:
    _together(worlds(3), lambda world: world.fail("no such layer", "", 2))
    assert capfd.readouterr().err == "distviz: no such layer\n"


def test_an_error_of_the_first_alone_has_its_rank(
    worlds: Callable[..., list[LaunchedWorld]], capfd: pytest.CaptureFixture[str]
) -> None:
    worlds(2)[0].fail("disk is full", "", 1)
    assert capfd.readouterr().err == f"{_where(0, 2)}disk is full\n"


def test_missing_ranks_are_named(
    worlds: Callable[..., list[LaunchedWorld]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_TIMEOUT", timedelta(seconds=0.3))
    first, second, _, _ = worlds(4)

    def exchange(world: LaunchedWorld) -> str:
        with pytest.raises(MeasurementError, match="no response") as caught:
            world.exchange("a", 1)
        return caught.value.message

    for message in _together([first, second], exchange):
        assert message == "no response from rank 2, 3 of 4 for 0 s"


def test_a_process_that_makes_progress_is_not_missing(
    worlds: Callable[..., list[LaunchedWorld]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_TIMEOUT", timedelta(seconds=0.5))
    first, second = worlds(2)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(first.exchange, "a", 1)
        for _ in range(6):
            assert not waits.done()
            second.count(10)
            distributed.time.sleep(0.2)
        assert second.exchange("a", 2) == waits.result(10) == [1, 2]


def test_a_lost_store_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    class Lost:
        def check(self, _keys: list[str]) -> bool:
            raise RuntimeError("Connection reset by peer\nand a long trace")

    world = LaunchedWorld(1, 2, store=Lost())
    with pytest.raises(
        MeasurementError, match=r"cannot be reached: Connection reset by peer\n.*rank 0 has ended"
    ):
        world.progress(Progress()).advance(1)
