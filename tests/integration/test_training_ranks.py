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


def trained(kind: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """Train with torchrun; return the process, and what the hooks of each rank kept."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(PROGRAM), kind, str(folder / "out")]
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done, [np.load(path) for path in sorted(folder.glob("rank*.npz"))]


def messages(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("distviz:")]


@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2", "accelerate"])
def test_the_ranks_are_put_together(kind: str, tmp_path: Path) -> None:
    done, kept = trained(kind, tmp_path)
    assert done.returncode == 0, done.stderr
    assert messages(done) == []
    training = Training.load(tmp_path / "out")
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


def test_a_process_that_makes_no_pass_or_fails(tmp_path: Path) -> None:
    done, _ = trained("fails", tmp_path)
    assert done.returncode == 0, done.stderr
    assert messages(done) == [
        "distviz: step 2 has no snapshot: rank 1: broken",
        "distviz: 1 of 2 snapshots missing, step 2: rank 1: broken",
    ]
    assert Training.load(tmp_path / "out").steps == [0]


def test_a_monitor_in_the_first_process_alone_is_refused(tmp_path: Path) -> None:
    done, _ = trained("only first", tmp_path)
    assert done.returncode != 0
    assert "the Monitor waits for rank 1 of 2" in done.stderr
