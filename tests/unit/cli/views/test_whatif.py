"""What-if results on the terminal: the worst layers, zeros, ASCII."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from support.synthetic_runs import silu_run
from support.terminal import printed

from distviz.cli.views import whatif as whatif_tables
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


def test_the_terminal_names_the_worst_layers_first(asked: WhatIf) -> None:
    text = _printed(asked)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for name, range_ in asked.kinds("act"):
        rows = asked.losses("act", name, range_).sort_values("sqnr_db")
        worst = " ".join(
            f"{row['layer']} {row['sqnr_db']:.1f}" for row in rows.head(2).to_dict("records")
        )
        median = f"{rows['sqnr_db'].median():.1f}"
        lines = [" ".join(line.split()) for line in text.splitlines()]
        line = next(line for line in lines if worst in line and f" {range_} " in f" {line}")
        assert median in line.split(worst)[1].split()[:3]
    assert "50 %" in text
    assert "fp32 values" not in text


def test_the_table_of_zeros_in_full(measured: Synthetic) -> None:
    found = evaluate_whatif(
        measured.run, parse_whatif(sparsity="50", formats="none", phases="before")
    )
    least = sorted((found.thinned("act", 0.5)["l2_kept"].iloc[layer], layer) for layer in range(3))
    words = [f"{layer} {100 * kept:.1f}%" for kept, layer in least]
    rows = found.thinned("act", 0.5)
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
