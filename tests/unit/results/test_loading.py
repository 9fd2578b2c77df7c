"""Loading: the class of a result follows from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.synthetic_comparisons import make
from support.synthetic_fillers import study
from support.synthetic_runs import silu_run
from support.synthetic_sweeps import rows_of, sweep_from

from distviz.errors import RequestError
from distviz.results import loading as folders
from distviz.results.comparison import Comparison
from distviz.studies.comparison import compare_runs
from distviz.studies.whatif import evaluate_whatif, parse_whatif


def test_every_kind_of_folder_is_loaded(tmp_path: Path) -> None:
    folder = study().save(tmp_path / "mine")
    assert folders.load(folder / "count_000").manifest["kind"] == "run"
    with pytest.raises(RequestError, match="does not exist"):
        folders.load(tmp_path / "nothing")
    with pytest.raises(RequestError, match="is not a comparison"):
        Comparison.load(folder)


def test_the_class_follows_from_the_folder(tmp_path: Path) -> None:
    run = silu_run().run
    results = [
        run,
        compare_runs(make(1).run, make(2, scale=1.3).run),
        evaluate_whatif(run, parse_whatif(sparsity="50"), "mine"),
        study(),
        sweep_from(rows_of(c=[0.1, 0.2], kl=[0.01, 0.5])),
    ]
    for number, result in enumerate(results):
        again = folders.load(result.save(tmp_path / str(number)))
        assert type(again) is type(result)
        assert again.manifest["kind"] == result.manifest["kind"]
