"""What commands check before torch is imported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distviz.cli.checks import checked_output, checkpoint_folder, parse_counts, short_name
from distviz.errors import RequestError
from distviz.settings import RunSettings


@pytest.mark.parametrize(
    ("source", "name"),
    [("org/Model-1.5B", "Model-1.5B"), ("a b/", "a-b"), ("runs/mine.gguf", "mine.gguf")],
)
def test_short_names(source: str, name: str) -> None:
    assert short_name(source) == name


def test_counts() -> None:
    assert parse_counts(None, 55) == [55]
    assert parse_counts("10,0,10,3", 55) == [0, 3, 10]
    for wrong in ("x", "-1,3", "0"):
        with pytest.raises(RequestError, match="--counts"):
            parse_counts(wrong, 55)


def test_output_is_dated_and_texts_must_exist(tmp_path: Path) -> None:
    out = checked_output(RunSettings(), "demo")
    assert re.fullmatch(r"runs/demo-\d{8}-\d{6}", str(out))
    assert checked_output(RunSettings(out=str(tmp_path / "new"), text=["-"]), "demo").name == "new"
    with pytest.raises(RequestError, match="there is no such file"):
        checked_output(RunSettings(text=[str(tmp_path / "none.txt")]), "demo")


def test_a_checkpoint_is_not_dropped_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "rank-0.state").touch()
    with pytest.raises(RequestError, match="holds a checkpoint of an interrupted run"):
        checkpoint_folder(out, RunSettings(out=str(out)))
    for given in ({"resume": True}, {"force": True}):
        assert checkpoint_folder(out, RunSettings(out=str(out), **given)).exists()
