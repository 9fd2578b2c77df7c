"""What-if results on the terminal: the worst layers, zeros, ASCII."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from support.synthetic_runs import silu_run
from support.terminal import printed

from distviz.cli.views import whatif as whatif_tables
from distviz.cli.views.console import percent_cell
from distviz.results.labels import decibels
from distviz.results.whatif import WhatIf
from distviz.studies.whatif import evaluate_whatif, parse_whatif

if TYPE_CHECKING:
    from pathlib import Path

    from support.synthetic_runs import Synthetic


@pytest.fixture(scope="module")
def measured() -> Synthetic:
    return silu_run()


@pytest.fixture(scope="module")
def asked(measured: Synthetic) -> WhatIf:
    questions = parse_whatif(sparsity="25,50,90", thresholds="0.05,1", percentile=99)
    return evaluate_whatif(measured.run, questions, "mine")


_printed = partial(printed, whatif_tables.summary)


def test_the_terminal_names_the_worst_and_the_best_layer(asked: WhatIf) -> None:
    text = _printed(asked)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for name, range_ in asked.kinds("act"):
        rows = asked.losses("act", name, range_).sort_values("sqnr_db")
        worst, best = (
            f"{row['layer']} {row['sqnr_db']:.1f} {percent_cell(row['zeroed'])} "
            f"{percent_cell(row['top_energy'])}"
            for row in rows.iloc[[0, -1]].to_dict("records")
        )
        rest = rows.loc[rows["sqnr_rest_db"].idxmin()]
        shown = f" {worst} {best} {rest['layer']} {decibels(rest['sqnr_rest_db'])}"
        assert any(shown in line and f" {range_} " in f" {line}" for line in lines), shown
    assert "50 %" in text
    assert "fp32 values" not in text


def test_the_table_of_zeros_in_full(measured: Synthetic) -> None:
    found = evaluate_whatif(
        measured.run, parse_whatif(sparsity="50", formats="none", phases="before")
    )
    least = sorted((found.thinned("act", 0.5)["l2_kept"].iloc[layer], layer) for layer in range(3))
    words = [f"{layer} {100 * kept:.1f}%" for kept, layer in least]
    rows, rest = found.thinned("act", 0.5), found.thinned("act", 0.5, by="l2_kept_rest")
    lowest = rest.loc[rest["l2_kept_rest"].idxmin()]
    words.append(f"{lowest['layer']} {100 * lowest['l2_kept_rest']:.1f}%")
    numbers = [f"{rows['threshold'].median():.3f}"] + [
        f"{100 * rows[name].median():.1f}%" for name in ("l1_kept", "l2_kept")
    ]
    (line,) = [line for line in _printed(found).splitlines() if line.strip().startswith("50 %")]
    assert line.split() == ["50", "%", *numbers, *" ".join(words).split()]


def test_ascii_where_the_console_asks_for_it(asked: WhatIf, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        console = Console(width=80, file=file)
        console.print(whatif_tables.summary(asked, console))
    _, _, tables = (tmp_path / "out").read_text(encoding="ascii").partition("number format")
    assert tables.count("int8") == 2
