"""A filler study on the terminal: its numbers, ASCII, withheld intervals, no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.synthetic_fillers import SIZES, study
from support.terminal import printed

from distviz.cli.views import filler as filler_tables
from distviz.reports import export as exports
from distviz.results.filler_study import FillerStudy


@pytest.fixture(scope="module")
def made() -> FillerStudy:
    return study()


@pytest.fixture(scope="module")
def saved(made: FillerStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports.write_folder(made, tmp_path_factory.mktemp("studies") / "mine")


def _printed(made: FillerStudy, encoding: str = "utf-8") -> list[str]:
    return printed(filler_tables.summary, made, encoding=encoding).splitlines()


def test_the_findings_on_the_terminal(made: FillerStudy) -> None:
    lines = _printed(made)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "synthetic · silu · 3 layers · 230 own tokens in 12 prompts · bf16"
    assert lines[1] == "filler “/” × 4, 16 between system prompt and question"
    rows = [next(line for line in lines if re.match(r" 1 +[-+]", line))]
    rows += [line for line in lines if re.match(r" *16 +-", line)]
    for line in rows:  # layer 1 of the largest count, and that count at the most changed layer
        cells = line.split()
        assert float(cells[1]) == pytest.approx(100 * SIZES["near_zero_difference"], abs=0.1)
        ratios = [float(cell.strip("*")) for cell in cells[4:7]]
        assert ratios == pytest.approx(np.exp([0.5, 0.1, 0.2]), rel=0.03)
        assert float(cells[7].removesuffix("*")) == pytest.approx(-0.01, abs=5e-4)
        assert cells[7].endswith("*")
        assert cells[8] == "5.88%"
    along = lines.index("By distance from 16 filler tokens, layer 1:")
    first = next(line.split() for line in lines[along:] if re.match(r" 1 ", line))
    assert float(first[1]) == pytest.approx(400 * SIZES["near_zero_difference"], abs=0.2)
    assert float(first[5].strip("*")) == pytest.approx(np.exp(4 * 0.1), rel=0.03)
    assert any(line.startswith(" 5 to 8  ") for line in lines[along:])
    assert any(line.startswith("Most changed in near zero: layer 1 -") for line in lines)
    assert any(line.startswith("Most changed in variance: layer 1 ×1.6") for line in lines)


def test_the_findings_in_ascii(made: FillerStudy) -> None:
    assert all(line.isascii() for line in _printed(made, "ascii"))


def test_few_prompts_withhold_the_interval(made: FillerStudy) -> None:
    table = made.table.assign(ci_low=np.nan, ci_high=np.nan, documents=5)
    along = made.positions.assign(ci_low=np.nan, ci_high=np.nan)
    few = replace(made, table=table, positions=along, attention=made.attention.iloc[:0])
    lines = _printed(few)
    assert "intervals withheld" in " ".join(lines)
    assert not any("[" in line and re.match(r" \d", line) for line in lines)


def test_showing_imports_no_torch(saved: Path) -> None:
    code = (
        "import sys; from distviz.cli.views import filler as filler_tables; "
        "from distviz.results import loading as folders; "
        f"filler_tables.summary(folders.load({str(saved)!r})); "
        "print([n for n in ('torch', 'numba', 'transformers', 'matplotlib') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
