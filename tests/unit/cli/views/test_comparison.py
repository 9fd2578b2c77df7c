"""A comparison on the terminal: the cells of the tables, their width, ASCII, no colours."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from support.terminal import printed

from distviz.cli.views import comparison as comparison_tables

if TYPE_CHECKING:
    from distviz.results.comparison import Comparison


_shown = partial(printed, comparison_tables.summary)


def test_the_summary_holds_every_pair(comparison: Comparison) -> None:
    lines = _shown(comparison).splitlines()
    assert lines[0] == "A  synthetic · silu · 3 layers · 60 tokens in 10 documents · bf16"
    assert " ".join(comparison.manifest["verdict"].split("\n")[0].split()) in " ".join(lines)
    for row in comparison.table.to_dict("records"):
        (line,) = (line for line in lines if line.startswith(f" {row['layer_a']} "))
        cells = line.split()
        assert cells[3] == f"{row['std_ratio']:.4f}"
        assert cells[4] == f"{row['ks']:.4f}"
        assert cells[5] == f"{row['wasserstein_normalized']:.4f}"
        assert cells[6] == f"{row['js_divergence']:.4f}"
    most = comparison.table.loc[comparison.table["ks"].idxmax(), "layer_a"]
    assert any(line.startswith(f"Channels that changed most, layer {most} ·") for line in lines)
    assert any(line.startswith(f"Near zero by token class, layer {most}: digits") for line in lines)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_nothing_is_cut(comparison: Comparison, width: int) -> None:
    shown = _shown(comparison, width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_without_unicode_everything_is_ascii(comparison: Comparison, encoding: str) -> None:
    assert _shown(comparison, encoding=encoding).isascii()


def test_no_color_leaves_no_colours(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = {"force_terminal": True, "color_system": "standard"}
    assert "\x1b[1;34m" in _shown(comparison, **look)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = _shown(comparison, **look)
    assert "\x1b[3" not in plain.replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_equal_sides_have_no_channels_to_show(same: Comparison) -> None:
    shown = _shown(same)
    assert "no layer differs" in shown
    assert "Channels" not in shown
