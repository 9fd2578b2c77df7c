"""Answers about a run: printed, plotted, written, read again, and refused."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.synthetic_runs import place, run_of, silu_run
from support.terminal import printed

from distviz import plots
from distviz.cli.views import whatif as whatif_tables
from distviz.errors import RequestError
from distviz.reports.export import write_folder
from distviz.results.whatif import WhatIf
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


def test_awkward_data_are_answered_told_drawn_and_written(awkward: Run, tmp_path: Path) -> None:
    found = evaluate_whatif(awkward, parse_whatif(thresholds="0,1"))
    rows = found.losses("act", "int8", "mse").set_index("layer")
    assert rows["sqnr_db"].isna().tolist() == [True, True, False, False, False, False]
    assert math.isinf(rows.loc[2, "sqnr_db"])
    assert found.manifest["warnings"] == [
        "2 NaN and 4 infinite values are left out (layer 4, act, before and 1 more)"
    ]
    write_folder(found, tmp_path / "w")
    read = WhatIf.load(tmp_path / "w")
    pd.testing.assert_frame_equal(
        read.table, found.table, check_dtype=False, check_exact=False, rtol=1e-14
    )
    json.dumps(found.summary(), allow_nan=False)
    assert "inf" in _printed(found)


# Told ----------------------------------------------------------------------------------------


_printed = partial(printed, whatif_tables.summary)


# Drawn ---------------------------------------------------------------------------------------


def _lines(figure: Any) -> dict[str, Any]:
    return {line.get_gid(): line for ax in figure.axes for line in ax.get_lines() if line.get_gid()}


def test_the_figure_of_formats_draws_the_table(asked: WhatIf) -> None:
    figure = plots.format_losses(asked, "act")
    lines = _lines(figure)
    for name, range_ in asked.kinds("act"):
        rows = asked.losses("act", name, range_)
        drawn = lines[f"{name}-{range_}-before"]
        assert list(drawn.get_xdata()) == list(rows["layer"])
        np.testing.assert_array_equal(drawn.get_ydata(), rows["sqnr_db"])
    after = asked.losses("act", "int8", "mse", "after")["sqnr_db"]
    np.testing.assert_array_equal(lines["int8-mse-after"].get_ydata(), after)
    titles = [ax.get_title(loc="right") for ax in figure.axes]
    worst = asked.losses("act", "int4", "mse").sort_values("sqnr_db")
    expected = ", ".join(
        f"{row['layer']} ({row['sqnr_db']:.1f})" for row in worst.to_dict("records")
    )
    assert f"worst layers {expected}" in titles


def test_the_figure_of_zeros_draws_the_table(asked: WhatIf) -> None:
    figure = plots.zeros_kept(asked, "act")
    lines = _lines(figure)
    for layer in range(3):
        rows = [asked.thinned("act", level).iloc[layer] for level in (0.25, 0.5, 0.9)]
        drawn = lines[f"layer-{layer}-before"]
        np.testing.assert_array_equal(drawn.get_xdata(), [row["zeros"] for row in rows])
        np.testing.assert_array_equal(drawn.get_ydata(), [row["l2_kept"] for row in rows])
    for level in (0.25, 0.5, 0.9):
        for column in ("l2_kept", "threshold"):
            for phase in ("before", "after"):
                drawn = lines[f"{column}-{level:g}-{phase}"].get_ydata()
                np.testing.assert_array_equal(drawn, asked.thinned("act", level, phase)[column])
    changed = {gid for gid in lines if gid.startswith("layer") and gid.endswith("after")}
    expected = {
        f"layer-{layer}-after"
        for layer in range(3)
        if any(
            abs(
                asked.thinned("act", level).iloc[layer]["l2_kept"]
                - asked.thinned("act", level, "after").iloc[layer]["l2_kept"]
            )
            > 0.005
            for level in (0.25, 0.5, 0.9)
        )
    }
    assert changed == expected != set()
    (least,) = [text.get_text() for text in figure.texts if text.get_gid() == "least"]
    first = asked.thinned("act", 0.5).sort_values("l2_kept").iloc[0]["layer"]
    assert least.startswith(f"At 50 % zeros least energy is kept in layers {first} (")


def test_what_was_not_asked_is_not_drawn(measured: Synthetic) -> None:
    few = evaluate_whatif(measured.run, parse_whatif(formats="int4", ranges="max", sparsity="none"))
    assert len(plots.format_losses(few, "act").axes) == 1
    with pytest.raises(RequestError, match="no levels of sparsity"):
        plots.zeros_kept(few, "act")
    none = evaluate_whatif(measured.run, parse_whatif(formats="none", sparsity="50"))
    with pytest.raises(RequestError, match="no number formats"):
        plots.format_losses(none, "act")


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
