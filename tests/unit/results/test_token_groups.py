"""token_groups.parquet: there and back, contradictions found; rows of a partition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.counted_runs import key_of, make_run

from distviz.errors import RequestError
from distviz.results.run import Run
from distviz.results.token_groups import FILE, class_tokens, partition_rows, write
from distviz.stats import Magnitudes, Sketch

VALUES = [0.0, -0.5, 0.5, 2.0, 1e-3, -3.0]


def magnitudes(*values: float) -> Magnitudes:
    own = torch.tensor(values).bfloat16().double().abs().numpy()
    return Magnitudes(*np.unique(own, return_counts=True))


def run_of(system: Magnitudes, rest: Magnitudes) -> Run:
    halves = VALUES[:3], VALUES[3:]
    classes = {
        name: Sketch().add(torch.tensor(part).bfloat16())
        for name, part in zip(("digits", "other"), halves, strict=True)
    }
    groups = {key_of(): {"role": {"system": system, "rest": rest}, "position": {"0": whole()}}}
    return replace(make_run({key_of(): classes}), groups=groups)


def whole() -> Magnitudes:
    return magnitudes(*VALUES)


def test_save_and_load_change_nothing(tmp_path: Path) -> None:
    run = run_of(magnitudes(*VALUES[:2]), magnitudes(*VALUES[2:]))
    again = Run.load(run.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(again.classes(), run.classes(), check_exact=True)
    shares = again.classes().set_index(["partition", "token_class"])["near_zero"]
    eps = run.bands[key_of()]
    for name, part in (("system", VALUES[:2]), ("rest", VALUES[2:])):
        assert shares["role", name] == (np.abs(part) < eps).mean()
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / "run" / FILE).read_bytes()


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (magnitudes(*VALUES[:3]), "counts.parquet has 6 values"),
        (Magnitudes(np.array([0.5, 0.0]), np.array([1, 1])), "not of magnitudes"),
        (Magnitudes(np.array([-0.5, 0.0]), np.array([1, 1])), "not of magnitudes"),
        (Magnitudes(np.array([0.0, np.nan]), np.array([1, 1])), "not of magnitudes"),
        (Magnitudes(np.array([0.0, 0.5]), np.array([3, -1])), "not positive"),
    ],
)
def test_a_file_that_contradicts_is_refused(
    damaged: Magnitudes, reason: str, tmp_path: Path
) -> None:
    rest = magnitudes(*VALUES[2:])
    folder = run_of(magnitudes(*VALUES[:2]), rest).save(tmp_path / "run")
    write(folder / FILE, {key_of(): {"role": {"system": damaged, "rest": rest}}})
    with pytest.raises(RequestError, match=reason):
        Run.load(folder)


def test_groups_of_another_place_are_refused(tmp_path: Path) -> None:
    folder = run_of(magnitudes(*VALUES[:2]), magnitudes(*VALUES[2:])).save(tmp_path / "run")
    write(folder / FILE, {key_of(5): {"position": {"0": whole()}}})
    with pytest.raises(RequestError, match="layer 5, act, before, position"):
        Run.load(folder)


def test_a_selection_has_its_groups() -> None:
    run = run_of(magnitudes(*VALUES[:2]), magnitudes(*VALUES[2:]))
    assert run.select([0]).groups == run.groups
    assert "groups" not in run.select([0]).manifest


def test_a_table_without_partitions_is_of_classes() -> None:
    old = pd.DataFrame({"token_class": ["digits"]})
    assert len(partition_rows(old, "class")) == 1
    assert not len(partition_rows(old, "role"))


def test_numbers_of_tokens() -> None:
    manifest = {"token_classes": {"other": 3}, "token_groups": {"role": {"rest": 3}}}
    assert class_tokens(manifest, "class") == {"other": 3}
    assert class_tokens(manifest, "role") == {"rest": 3}
    assert class_tokens(manifest, "position") == class_tokens({}, "class") == {}
