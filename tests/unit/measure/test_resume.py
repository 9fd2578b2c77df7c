"""States on disk: whole or not there, damaged ones progress, those of another request refused."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distviz.errors import RequestError
from distviz.measure import resume as states
from distviz.measure.resume import CheckpointFolder, read_state, write_state
from distviz.progress import Progress

TREE = {"request": {"--c": "0.13"}, "batches": [0, 2], "content": {"table": np.arange(40)}}
REQUEST = {"--c": "0.13", "threads": "2"}


class Notes(Progress):
    """Collects notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class OneOf:
    """A process of several, the others' answers given beforehand."""

    def __init__(self, rank: int, answers: list[Any]) -> None:
        self.rank, self.size, self.answers = rank, len(answers), answers

    def exchange(self, name: str, value: Any) -> list[Any]:
        return [value if rank == self.rank else a for rank, a in enumerate(self.answers)]


def _saved(folder: Path, rank: int, batches: list[int], request: dict[str, str] = REQUEST) -> None:
    folder.mkdir(exist_ok=True)
    tree = {"request": request, "batches": batches, "content": f"rank {rank}: {batches}"}
    write_state(folder / f"rank-{rank}.state", tree)


def _begin(folder: Path, **world: Any) -> tuple[list[Any], set[int], list[str]]:
    progress = Notes()
    state_folder = CheckpointFolder(folder, 0.0, resumes=True, **world)
    return *state_folder.begin(REQUEST, progress), progress.notes


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    write_state(tmp_path / "a.state", TREE)
    found, digest = read_state(tmp_path / "a.state")
    assert repr(found) == repr(TREE)
    assert len(digest) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["a.state"]


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        "x",
        {"request": [], "batches": [], "content": {}},
        {"request": REQUEST, "batches": [-1], "content": {}},
        {"request": REQUEST, "batches": "01", "content": {}},
        {"request": REQUEST, "batches": [0], "content": {"$array": ["O", [1], 0]}},
        {"request": REQUEST, "batches": [0], "content": {"$array": ["<f8", [2**40], 0]}},
        {"request": REQUEST, "batches": [0], "content": {"$array": ["<f8", [-1], 0]}},
        {"request": REQUEST, "batches": [0], "content": {"$array": [["<f8"], [1], 0]}},
        {"request": REQUEST, "batches": [0], "content": {"$array": 3}},
        {"request": REQUEST, "batches": [0], "content": {"$array": ["<f8", [1], 2**70]}},
    ],
)
def test_a_state_of_another_structure_is_named(tree: Any, tmp_path: Path) -> None:
    write_state(tmp_path / "rank-0.state", tree)
    contents, done, notes = _begin(tmp_path)
    assert (contents, done) == ([], set())
    assert "the state rank-0.state is damaged" in notes[0]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_state_that_is_no_file_is_named(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "rank-0.state")
    contents, done, notes = _begin(tmp_path)
    assert (contents, done) == ([], set())
    assert "it is not a regular file" in notes[0]
    CheckpointFolder(tmp_path, 0.0, resumes=True).remove()


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    write_state(path, TREE)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"a state of this version|its checksum"):
            read_state(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a state of this version|its checksum"):
            read_state(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="its checksum"):
        read_state(path)


def test_a_full_disk_leaves_the_previous_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, folder = Notes(), CheckpointFolder(tmp_path / "x.partial", 0.0, resumes=False)
    folder.begin(REQUEST, progress)
    folder.save_if_due(lambda: "first", [0], 0.1, progress)
    before = (folder.folder / "rank-0.state").read_bytes()

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for share in (0.2, 0.3):
        folder.save_if_due(lambda: "second", [0, 1], share, progress)
    assert progress.notes == [
        f"{folder.folder} cannot be written (No space left on device): no state to resume"
    ]
    assert [path.name for path in folder.folder.iterdir()] == ["rank-0.state"]
    assert (folder.folder / "rank-0.state").read_bytes() == before
    assert folder.share == 0.1


def test_states_take_two_percent_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(states.time, "monotonic", lambda: clock[0])
    folder, written = CheckpointFolder(tmp_path / "x.partial", 10.0, resumes=False), []

    def content() -> str:
        written.append(clock[0])
        clock[0] += 0.1 if len(written) < 3 else 1.0
        return ""

    folder.begin(REQUEST, Notes())
    while clock[0] < 130:
        clock[0] += 0.5
        folder.save_if_due(content, [0], 0.5, Notes())
    # Every ten seconds; once it costs a second, every fifty.
    assert written == pytest.approx([10.0, 20.1, 30.2, 81.2], abs=0.6)


def test_a_state_of_another_request_is_refused_by_name(tmp_path: Path) -> None:
    _saved(tmp_path, 0, [0], {"--c": "0.2", "threads": "2", "torch": "2.9"})
    with pytest.raises(RequestError, match=r"another measurement: --c 0.2, now 0.13; torch 2.9"):
        _begin(tmp_path)


def test_without_resume_nothing_is_read(tmp_path: Path) -> None:
    _saved(tmp_path, 0, [0])
    assert CheckpointFolder(tmp_path, 0.0, resumes=False).begin(REQUEST, Notes()) == ([], set())


def test_a_missing_checkpoint_is_reported(tmp_path: Path) -> None:
    content, done, notes = _begin(tmp_path / "none")
    assert (content, done) == ([], set())
    assert notes == [f"no checkpoint in {tmp_path / 'none'}; starting from the beginning"]


def test_a_damaged_state_is_reported_and_the_others_are_used(tmp_path: Path) -> None:
    _saved(tmp_path, 0, [0, 1])
    _saved(tmp_path, 1, [2, 3])
    path = tmp_path / "rank-0.state"
    path.write_bytes(path.read_bytes()[:-1])
    content, done, notes = _begin(tmp_path)
    assert (content, done) == (["rank 1: [2, 3]"], {2, 3})
    assert len(notes) == 1
    assert notes[0].startswith("the state rank-0.state is damaged (its content does not agree")
    assert notes[0].endswith("), its part is measured again")


def test_one_process_resumes_the_states_of_three(tmp_path: Path) -> None:
    for rank, batches in enumerate([[0, 1], [4], [7, 8, 9]]):
        _saved(tmp_path, rank, batches)
    content, done, _ = _begin(tmp_path)
    assert sorted(content) == ["rank 0: [0, 1]", "rank 1: [4]", "rank 2: [7, 8, 9]"]
    assert done == {0, 1, 4, 7, 8, 9}


def test_batches_of_a_larger_state_are_not_counted_twice(tmp_path: Path) -> None:
    _saved(tmp_path, 0, [0, 1, 4, 5])  # one process that resumed two
    _saved(tmp_path, 1, [4])
    content, done, _ = _begin(tmp_path)
    assert (content, done) == (["rank 0: [0, 1, 4, 5]"], {0, 1, 4, 5})


def _facts(folder: Path) -> dict[str, Any]:
    found = CheckpointFolder(folder, 0.0, resumes=True)
    found._request = REQUEST
    return {path.name: found._entry(path) | {"content": None} for path in folder.glob("*.state")}


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_number_of_processes_share_the_states(tmp_path: Path, size: int) -> None:
    for rank, batches in enumerate([[0, 1], [4], [7, 8, 9]]):
        _saved(tmp_path, rank, batches)
    answers = [_facts(tmp_path)] * size
    taken = [_begin(tmp_path, world=OneOf(rank, answers)) for rank in range(size)]
    assert all(done == {0, 1, 4, 7, 8, 9} for _, done, _ in taken)
    every = [content for contents, _, _ in taken for content in contents]
    assert sorted(every) == ["rank 0: [0, 1]", "rank 1: [4]", "rank 2: [7, 8, 9]"]
    if size == 3:
        assert [contents[0][:6] for contents, _, _ in taken] == ["rank 0", "rank 1", "rank 2"]


def test_states_on_disks_that_are_not_shared(tmp_path: Path) -> None:
    disks = [tmp_path / "one", tmp_path / "two"]
    for rank, disk in enumerate(disks):
        _saved(disk, rank, [rank])
    answers = [_facts(disk) for disk in disks]
    for rank, disk in enumerate(disks):
        content, done, _ = _begin(disk, world=OneOf(rank, answers))
        assert (content, done) == ([f"rank {rank}: [{rank}]"], {0, 1})


def test_only_files_of_distviz_are_removed(tmp_path: Path) -> None:
    _saved(tmp_path / "x", 0, [0])
    (tmp_path / "x" / "rank-1.state.tmp").touch()
    (tmp_path / "x" / "mine.txt").touch()
    CheckpointFolder(tmp_path / "x", 0.0, resumes=False).remove()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["mine.txt"]
    (tmp_path / "x" / "mine.txt").unlink()
    CheckpointFolder(tmp_path / "x", 0.0, resumes=False).remove()
    assert not (tmp_path / "x").exists()


def test_processes_can_remove_at_the_same_time(tmp_path: Path) -> None:
    for number in range(60):
        states = CheckpointFolder(tmp_path / str(number), 0, resumes=False)
        for path in (states.folder / part / f"rank-{n}.state" for part in "ab" for n in range(3)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        together = threading.Barrier(3)

        def drop(states: CheckpointFolder = states, together: threading.Barrier = together) -> None:
            together.wait()
            states.exists()
            states.remove()
            assert not states.exists()

        with ThreadPoolExecutor(3) as pool:
            for one in [pool.submit(drop) for _ in range(3)]:
                one.result()
        assert not states.folder.exists()
