"""The table of channels on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.figure_results import result_of
from support.synthetic_comparisons import outlier_channels, with_channels
from support.terminal import printed

from distviz.cli.views.channels import channel_details, channel_table
from distviz.errors import RequestError
from distviz.results import channel_summary, records
from distviz.results.run import Run

FOLDER = Path("runs/mine")


def text_of(run: Run, width: int = 80, encoding: str = "utf-8") -> str:
    return printed(channel_table, records(channel_summary(run)), width, encoding)


def test_a_line_for_each_layer() -> None:
    text = text_of(with_channels(outlier_channels(3)))
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert "largest" in lines[2]
    rows = [line for line in lines if line and line[0] in "012"]
    assert [row[:5] for row in rows[1:]] == [[str(n), "60", "1", "1", "7"] for n in (1, 2)]
    assert rows[1][-1].endswith("%")
    assert "--channels" not in text


def test_without_the_option_it_is_named() -> None:
    text = text_of(with_channels(outlier_channels(2), top=False))
    assert "measure with --channels" in text
    assert "most tokens" not in text.partition("dead: ")[0]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_narrow_and_plain_terminals(width: int) -> None:
    text = text_of(with_channels(outlier_channels(3)), width, "ascii")
    assert text.isascii()
    assert all(len(line) <= width or "(see" in line for line in text.splitlines())
    assert ("not shown" in text) == (width < 80)


def test_data_of_json_and_the_folder() -> None:
    run = with_channels(outlier_channels(2))
    data, views = channel_details(run, FOLDER)
    assert data()["folder"] == "runs/mine"
    assert [row["largest"] for row in data()["channels"]] == list(channel_summary(run)["largest"])
    assert "runs/mine" in printed(lambda _, screen: views[-1](screen), run)


@pytest.mark.parametrize("name", ["comparison", "no ARM"])
def test_what_has_no_channels_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=r"runs/mine has no channels\ngive the folder of a run"):
        channel_details(result_of(name), FOLDER)
