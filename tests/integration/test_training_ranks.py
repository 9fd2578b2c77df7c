"""A `Monitor` in trainings of two processes, against plain hooks in each of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.brute_force import assert_stats, eps_of

from distviz.results import Training

pytestmark = pytest.mark.extended

PROGRAM = Path(__file__).parents[1] / "support" / "training_ranks.py"


KINDS = ["ddp", "fsdp1", "fsdp2", "accelerate"]
Trained = tuple[subprocess.CompletedProcess[str], Path]


def trained(folder: Path, *kinds: str) -> Trained:
    """Train with torchrun, one kind after the other; return the process and the folder."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *command, str(PROGRAM), str(folder), *kinds],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done, folder


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Each kind, and one that fails, in one start: a start costs more than a training."""
    return trained(tmp_path_factory.mktemp("trained"), *KINDS, "fails")


@pytest.mark.parametrize("kind", KINDS)
def test_the_ranks_are_put_together(kind: str, every: Trained) -> None:
    done, folder = every
    assert done.returncode == 0, done.stderr
    kept: list[Any] = [np.load(path) for path in sorted((folder / kind).glob("rank*.npz"))]
    assert len(kept) == 2
    training = Training.load(folder / kind / "out")
    assert training.steps == [0, 2]
    assert [one["passes"] for one in training.manifest["steps"]] == [4, 4]
    for step in (0, 2):
        run = training.at(step)
        rows = run.stats().set_index(["layer", "site"])
        for layer in range(3):
            for site, name in (("act", "act"), ("gradient:act", "gradient")):
                values = np.concatenate([one[f"{step}:{name}:{layer}"] for one in kept])
                assert_stats(rows.loc[layer, site].to_dict(), values, eps_of(values))
        documents = run.documents[run.documents["site"] == "act"]
        assert sorted(set(documents["document"])) == [*range(12)]
    if kind != "fsdp1":
        rows = training.at(0).stats().set_index(["layer", "site"])
        weights = [name for name in kept[0].files if name.startswith("weight:")]
        assert len(weights) == 9
        for name in weights:
            values, row = kept[0][name].ravel(), rows.loc[1, name.removesuffix(".weight")]
            assert_stats(row.to_dict(), values, eps_of(values))


def test_only_the_process_that_fails_says_so(every: Trained) -> None:
    done, folder = every
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("distviz:")] == [
        "distviz: step 2 has no snapshot: rank 1: broken",
        "distviz: 1 of 2 snapshots missing, step 2: rank 1: broken",
    ]
    assert Training.load(folder / "fails" / "out").steps == [0]


def test_a_monitor_in_the_first_process_alone_is_refused(tmp_path: Path) -> None:
    done, _ = trained(tmp_path, "only first")
    assert done.returncode != 0
    assert "the Monitor waits for rank 1 of 2" in done.stderr
