"""Answers about a run: printed, written, read again, and refused."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import torch
from support.synthetic_runs import place, run_of, silu_run
from support.terminal import printed

from distviz.cli.views import whatif as whatif_tables
from distviz.errors import RequestError
from distviz.reports.export import write_folder
from distviz.results.whatif import WhatIf, whatif_verdict
from distviz.studies.whatif import evaluate_whatif, parse_whatif

if TYPE_CHECKING:
    from pathlib import Path

    from support.synthetic_runs import Synthetic

    from distviz.results.run import Run


@pytest.fixture(scope="module")
def measured() -> Synthetic:
    return silu_run()


@pytest.fixture(scope="module")
def asked(measured: Synthetic) -> WhatIf:
    questions = parse_whatif(sparsity="25,50,90", thresholds="0.05,1", percentile=99)
    return evaluate_whatif(measured.run, questions, "mine")


# Awkward data --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def awkward() -> Run:
    data = {
        0: [0.0] * 8,
        1: [],
        2: [1.5] * 5,
        3: [-1.0, -2.0, -3.0, -40.0],
        4: [1.0, math.nan, math.inf, -math.inf, 2.0],
        5: [1e30] + [0.001] * 50,
    }
    return run_of(
        {
            place(layer, phase): torch.tensor(values, dtype=torch.bfloat16)
            for layer, values in data.items()
            for phase in ("before", "after")
        }
    )


def _assert_same(read: pd.DataFrame, written: pd.DataFrame) -> None:
    """Equal to the last digit; pandas keeps texts that were read in another type."""
    pd.testing.assert_frame_equal(read, written, check_dtype=False, check_exact=True)


def test_awkward_data_are_answered_printed_and_written(awkward: Run, tmp_path: Path) -> None:
    found = evaluate_whatif(awkward, parse_whatif(thresholds="0,1"))
    rows = found.losses("act", "int8", "mse").set_index("layer")
    assert rows["sqnr_db"].isna().tolist() == [True, True, False, False, False, False]
    assert math.isinf(rows.loc[2, "sqnr_db"])
    left_out, held = found.manifest["warnings"]
    assert left_out == "2 NaN and 4 infinite values are left out (layer 4, act, before and 1 more)"
    assert "one value holds at least half of the energy in layers 3, 4, 5 (100.0 %" in held
    write_folder(found, tmp_path / "w")
    read = WhatIf.load(tmp_path / "w")
    pd.testing.assert_frame_equal(
        read.table, found.table, check_dtype=False, check_exact=False, rtol=1e-14
    )
    json.dumps(found.summary(), allow_nan=False)
    assert "inf" in _printed(found)


_printed = partial(printed, whatif_tables.summary)


# The folder ----------------------------------------------------------------------------------


def test_a_folder_is_written_and_read_again(asked: WhatIf, tmp_path: Path) -> None:
    out = write_folder(asked, tmp_path / "out", figures=("png",))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == [
        "figures/formats.png",
        "figures/zeros.png",
        "whatif.csv",
        "whatif.json",
    ]
    read = WhatIf.load(out)
    assert read.manifest == asked.manifest
    assert read.manifest["kind"] == "whatif"
    pd.testing.assert_frame_equal(
        read.table, asked.table, check_dtype=False, check_exact=False, rtol=1e-14
    )
    assert _printed(read) == _printed(asked)
    assert read.n_layers == 3
    again = write_folder(asked, tmp_path / "again")
    for path in out.rglob("*.*"):
        assert path.read_bytes() == (again / path.relative_to(out)).read_bytes()
    with pytest.raises(RequestError, match="exists"):
        write_folder(asked, out)
    assert write_folder(asked, out, force=True, figures=()) == out
    assert not (out / "figures").exists()
    assert asked.save(tmp_path / "saved") == tmp_path / "saved"


def test_damage_is_named(asked: WhatIf, tmp_path: Path) -> None:
    out = asked.save(tmp_path / "out")
    text = (out / "whatif.csv").read_text().splitlines()
    (out / "whatif.csv").write_text(text[0] + "\n")
    with pytest.raises(RequestError, match=r"whatif\.csv is damaged: it has no rows"):
        WhatIf.load(out)
    (out / "whatif.csv").write_text("layer,site\n0,act\n")
    with pytest.raises(RequestError, match=r"whatif\.csv is damaged: it has no column clip_high"):
        WhatIf.load(out)
    (out / "whatif.csv").unlink()
    with pytest.raises(RequestError, match=r"whatif\.csv is missing"):
        WhatIf.load(out)
    (out / "whatif.json").write_text('{"schema_version": 99}')
    with pytest.raises(RequestError, match="schema version 99"):
        WhatIf.load(out)


def test_the_finding_names_the_worst_layers(asked: WhatIf) -> None:
    table = asked.table[(asked.table["phase"] == "before") & (asked.table["question"] == "format")]
    least = table.groupby(["format", "range"])["sqnr_db"].min().sort_values()
    said = whatif_verdict(asked)
    for (name, range_), value in (*least.head(1).items(), *least.tail(1).items()):
        assert f"{name} ({range_}) has the " in said
        assert len(said) <= 320
        assert f"{value:.1f} dB in its worst layer" in said
    zeros = asked.table[(asked.table["phase"] == "before") & (asked.table["level"] == 0.5)]
    assert f"keeps {100 * zeros['l2_kept'].min():.1f} % of its energy" in said
