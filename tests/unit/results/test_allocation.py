"""An allocation as a result: the verdict, the command, and what a folder must hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support.synthetic_allocations import allocation_of

from distviz.errors import RequestError
from distviz.results import load
from distviz.results.allocation import Allocation


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ((0.001, 0.003), "better than uniform beyond noise, by 0.00200 nats [0.0010, 0.0030]"),
        ((-0.001, 0.003), "not different from uniform beyond noise: it saves 0.00200 nats"),
        ((-0.003, -0.001), "worse than uniform beyond noise"),
        ((float("nan"), float("nan")), "there are too few documents"),
    ],
)
def test_the_verdict_is_that_of_the_interval(saved: tuple[float, float], message: str) -> None:
    found = allocation_of(saved=saved)
    assert message in found.verdict
    assert "50.0 % zeros on average over 10 places: KL 0.0200 nats allocated" in found.verdict


def test_the_budget_is_named_where_it_matters() -> None:
    assert "exceeds the budget of 0.001 nats" in allocation_of(budget=0.001).verdict
    assert "budget" not in allocation_of(budget=None).verdict
    found = allocation_of()
    found.manifest["target"] = 0.7
    assert "It ends before 70.0 %, at the budget of 0.05 nats" in found.verdict
    curve = found.curve.assign(kl=0.01, kl_saved=0.0)
    even = Allocation(found.manifest, found.table, found.table, found.costs, curve)
    assert "they are the same" in even.verdict


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    for formats in (False, True):
        found = allocation_of(formats=formats)
        found.save(tmp_path / "a", force=True)
        again = load(tmp_path / "a")
        assert isinstance(again, Allocation)
        assert (again.verdict, again.command) == (found.verdict, found.command)
        for name, table in found.tables().items():
            pd.testing.assert_frame_equal(again.tables()[name], table, check_dtype=False)
        part = again.select(layers=[1])
        assert part.table["layer"].unique().tolist() == [1]
        assert (part.verdict, part.command) == (found.verdict, found.command)
        assert again.summary()["places"][0]["layer"] == 0
    kind = "quantize:FOLDER/allocation.csv"
    assert f"--arm-layers 0-4 --at product --redistribution {kind}" in found.command


def test_a_curve_without_a_chosen_row_is_damaged(tmp_path: Path) -> None:
    found = allocation_of()
    curve = found.curve.assign(is_chosen=False)
    Allocation(found.manifest, found.table, found.even, found.costs, curve).save(tmp_path / "a")
    with pytest.raises(RequestError, match="does not say which rows are chosen"):
        load(tmp_path / "a")
    curve = found.curve[found.curve["is_chosen"] | (found.curve["kind"] == "uniform")]
    Allocation(found.manifest, found.table, found.even, found.costs, curve).save(tmp_path / "b")
    with pytest.raises(RequestError, match="a row lacks that of the other kind"):
        load(tmp_path / "b")
