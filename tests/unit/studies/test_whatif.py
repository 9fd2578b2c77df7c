"""The answers to what-if questions, against raw values."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.synthetic_comparisons import with_channels
from support.synthetic_runs import place, run_of, silu_run
from support.terminal import printed

from distviz import plots
from distviz.cli.views import whatif as whatif_tables
from distviz.errors import RequestError
from distviz.results.whatif import COLUMNS, WhatIf, whatif_verdict
from distviz.sites import SiteKey
from distviz.stats.number_formats import FORMATS
from distviz.stats.quantization import RANGES
from distviz.studies.whatif import evaluate_whatif, parse_whatif, read_run

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


# Numbers -------------------------------------------------------------------------------------


def test_one_row_an_answer(asked: WhatIf) -> None:
    table = asked.table
    assert tuple(table) == COLUMNS
    kinds = 4 * 3 + 2 * 4
    assert len(table) == 3 * 2 * (3 + 2 + kinds)
    asked_for = ["layer", "phase", "question", "level", "format", "range", "threshold"]
    assert not table.duplicated(asked_for).any()
    assert table["layer"].drop_duplicates().tolist() == [0, 1, 2]
    assert table["phase"].drop_duplicates().tolist() == ["before", "after"]
    formats = table[table["question"] == "format"]
    assert set(zip(formats["format"], formats["range"], strict=True)) == {
        (name, range_)
        for name in FORMATS
        for range_ in RANGES
        if range_ != "none" or name.startswith("fp8")
    }
    assert (table["zero_point"].notna() == table["format"].str.endswith("asym")).all()


def test_zeros_are_those_of_raw_values(asked: WhatIf, measured: Synthetic) -> None:
    rows = asked.table[asked.table["question"] != "format"]
    for row in rows.to_dict("records"):
        x = np.abs(measured.raw[row["layer"], row["phase"]])
        if row["question"] == "sparsity":
            place_of = math.ceil(round(row["level"] * 100) * x.size / 100)
            assert row["threshold"] == np.sort(x)[place_of - 1]
        gone = x <= row["threshold"]
        assert row["zeros"] == gone.mean()
        assert row["zeroed"] == (gone & (x > 0)).mean()
        assert row["l1_kept"] == pytest.approx(x[~gone].sum() / x.sum(), rel=1e-12)
        assert row["l2_kept"] == pytest.approx((x[~gone] ** 2).sum() / (x**2).sum(), rel=1e-12)
    assert len(rows) == 30


def test_formats_are_those_of_raw_values(asked: WhatIf, measured: Synthetic) -> None:
    """From the table's own scale and zero point, by torch, to the table's losses."""
    rows = asked.table[asked.table["question"] == "format"]
    for row in rows.to_dict("records"):
        x = measured.raw[row["layer"], row["phase"]]
        scaled = torch.from_numpy(x / row["scale"])
        if row["format"].startswith("fp8"):
            dtype = {"fp8-e4m3": torch.float8_e4m3fn, "fp8-e5m2": torch.float8_e5m2}[row["format"]]
            top = torch.finfo(dtype).max
            kept = scaled.clamp(-top, top).to(torch.float32).to(dtype).to(torch.float64)
        else:
            shift = int(row["zero_point"]) if row["format"].endswith("asym") else 0
            bits = int(row["format"][3])
            half = 2 ** (bits - 1)
            ends = (0, 2 * half - 1) if row["format"].endswith("asym") else (1 - half, half - 1)
            kept = (scaled.round() + shift).clamp(*ends) - shift
        back = kept.numpy() * row["scale"]
        noise = ((x - back) ** 2).sum()
        assert row["mse"] == pytest.approx(noise / x.size, rel=1e-12)
        assert row["sqnr_db"] == pytest.approx(10 * math.log10((x**2).sum() / noise), rel=1e-12)
        assert row["zeros"] == (back == 0).mean()
        assert row["zeroed"] == ((back == 0) & (x != 0)).mean()
        if row["clipped"] == 0:
            assert back.min() >= row["clip_low"]
            assert back.max() <= row["clip_high"]
        else:
            outside = (x < row["clip_low"]) | (x > row["clip_high"])
            assert 0 < row["clipped"] <= outside.mean()


@pytest.fixture(scope="module")
def massive() -> tuple[Run, dict[int, np.ndarray]]:
    """Layers of 20 channels; in layer 1 one value is massive, in layer 2 a channel is."""
    generator = np.random.default_rng(0)
    raw = {layer: generator.standard_normal((600, 20)) * (1 + layer / 9) for layer in range(4)}
    for x in raw.values():
        x[0, 0], x[1, 1] = 9.0, -8.0  # no equal magnitudes where the largest end
    raw[1][3, 11] = -20_000.0
    raw[2][:, 7] *= 400
    raw[2][5:7, 7] = 2_000.0, -1_800.0
    exact = {
        layer: torch.from_numpy(x).to(torch.bfloat16).to(torch.float64).numpy()
        for layer, x in raw.items()
    }
    return with_channels(exact), exact


def _restored(row: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Quantize with the scale of a row, by torch."""
    scaled = torch.from_numpy(x / row["scale"])
    if row["format"] == "fp8-e4m3":
        kept = scaled.clamp(-448, 448).to(torch.float32).to(torch.float8_e4m3fn).double()
    elif row["format"] == "int8-asym":
        kept = (scaled.round() + row["zero_point"]).clamp(0, 255) - row["zero_point"]
    else:
        top = {"int8": 127, "int4": 7}[row["format"]]
        kept = scaled.round().clamp(-top, top)
    return kept.numpy() * row["scale"]


def test_ratios_without_the_largest_values(massive: tuple[Run, dict[int, np.ndarray]]) -> None:
    run, raw = massive
    asked = "int8,int4,int8-asym,fp8-e4m3"
    found = evaluate_whatif(run, parse_whatif(formats=asked, ranges="max,mse", thresholds="0.5"))
    for row in found.table.to_dict("records"):
        x = raw[row["layer"]]
        order = np.argsort(np.abs(x), axis=None)
        largest, rest = order[-2:], order[:-2]  # 0.01 % of 12,000 are two, rounded up
        energy = x.ravel() ** 2
        assert row["top_energy"] == pytest.approx(energy[largest].sum() / energy.sum(), rel=1e-12)
        assert row["value_energy"] == pytest.approx(energy.max() / energy.sum(), rel=1e-12)
        by_channel = (x**2).sum(axis=0)
        assert row["channel"] == by_channel.argmax()
        assert row["channel_energy"] == pytest.approx(by_channel.max() / energy.sum(), rel=1e-9)
        if row["question"] == "format":
            noise = (x - _restored(row, x)).ravel() ** 2
            ratio = 10 * np.log10(energy[rest].sum() / noise[rest].sum())
            # torch rounds to fp8 by way of float32
            slack = 1e-6 if row["format"] == "fp8-e4m3" else 1e-9
            assert row["sqnr_rest_db"] == pytest.approx(ratio, rel=slack, abs=slack)
        else:
            kept = energy * (np.abs(x.ravel()) > row["threshold"])
            share = kept[rest].sum() / energy[rest].sum()
            assert row["l2_kept_rest"] == pytest.approx(share, rel=1e-12)
    _assert_ranks(found.table)


def _assert_ranks(table: pd.DataFrame) -> None:
    """Count the places with a larger ratio."""
    for row in table.to_dict("records"):
        same = table[table["question"] == row["question"]]
        for name in ("site", "phase", "format", "range", "level"):
            same = same[(same[name] == row[name]) | (row[name] != row[name])]
        by = "sqnr_db" if row["question"] == "format" else "l2_kept"
        rest = by.replace("_db", "_rest_db").replace("_kept", "_kept_rest")
        assert row["rank"] == 1 + (same[by] > row[by]).sum()
        assert row["rank_rest"] == 1 + (same[rest] > row[rest]).sum()


def test_where_one_value_or_channel_decides_is_told(
    massive: tuple[Run, dict[int, np.ndarray]],
) -> None:
    run, _ = massive
    found = evaluate_whatif(run, parse_whatif(formats="int8", ranges="max", sparsity="50"))
    value, channel = found.manifest["warnings"]
    assert value.startswith("act: one value holds at least half of the energy in layer 1 (")
    assert channel.startswith("act: one channel holds at least half of the energy in layer 2 (")
    assert "in layer 2, channel 7)" in channel
    rows = found.losses("act", "int8", "max").set_index("layer")
    assert rows["sqnr_db"].idxmax() == 1
    assert rows["sqnr_rest_db"].idxmin() == 1
    said = whatif_verdict(found)
    assert "By SQNR, int8 (max) in layer 1 is rank 1 (" in said
    assert "but rank 4 without the largest 0.01 % of the values" in said
    assert "SQNR is the error of the values, not the cost to the model." in said
    bare = evaluate_whatif(replace(run, channels=pd.DataFrame()), parse_whatif(sparsity="50"))
    assert bare.table["channel_energy"].isna().all()
    assert len(bare.manifest["warnings"]) == 1


def test_ranges_are_what_they_say(asked: WhatIf, measured: Synthetic) -> None:
    for layer in range(3):
        x = measured.raw[layer, "before"]
        tops = {"int8": 127, "int4": 7, "fp8-e4m3": 448, "fp8-e5m2": 57344}
        for name, top in tops.items():
            found = {
                range_: asked.losses("act", name, range_).set_index("layer").loc[layer]
                for one, range_ in asked.kinds("act")
                if one == name
            }
            assert found["max"]["clip_high"] == pytest.approx(np.abs(x).max(), rel=1e-15)
            reach = np.percentile(np.abs(x), 99)
            assert found["percentile"]["clip_high"] == pytest.approx(reach, rel=1e-14)
            assert found["max"]["scale"] == np.abs(x).max() / top
            assert found["mse"]["mse"] <= min(row["mse"] for row in found.values())
            assert found["max"]["clipped"] == 0
            if "none" in found:
                assert (found["none"]["scale"], found["none"]["clip_high"]) == (1, top)
        asym = asked.losses("act", "int8-asym", "max").set_index("layer").loc[layer]
        low, high = min(x.min(), 0), max(x.max(), 0)
        assert asym["scale"] == pytest.approx((high - low) / 255, rel=1e-15)
        assert asym["zero_point"] == round(-low / asym["scale"])
        assert asym["clip_low"] == pytest.approx(-asym["zero_point"] * asym["scale"], rel=1e-15)


def test_modules_of_a_layer_are_asked_apart_and_the_worst_speaks() -> None:
    generator = np.random.default_rng(0)
    easy, hard = generator.uniform(-1, 1, 500), generator.standard_cauchy(500)
    run = run_of(
        {
            place(0, "before", module="experts.0"): torch.tensor(easy).to(torch.bfloat16),
            place(0, "before", module="experts.1"): torch.tensor(hard).to(torch.bfloat16),
            SiteKey(0, "encoder", "act", "before", "e.0"): torch.tensor(easy).to(torch.bfloat16),
        }
    )
    found = evaluate_whatif(run, parse_whatif(formats="int8", ranges="max"))
    rows = found.losses("act", "int8", "max")
    assert list(zip(rows["stack"], rows["module"], strict=True)) == [
        ("decoder", "experts.1"),
        ("encoder", "e.0"),
    ]
    assert len(found.table[found.table["question"] == "format"]) == 3
    text = _printed(found)
    assert "encoder 0" in text
    for draw in (plots.format_losses, plots.zeros_kept):
        draw(found, "act")


# Choosing ------------------------------------------------------------------------------------


def test_layers_sites_and_phases_are_chosen() -> None:
    values = torch.linspace(-1, 1, 64, dtype=torch.bfloat16)
    run = run_of(
        {
            place(layer, phase, site=site): values * (layer + 1)
            for layer in range(3)
            for site in ("gate", "act")
            for phase in ("before", "after", "moved_after")
        }
    )
    options = {"layers": "0,2", "sites": "act", "phases": "moved_after,before", "sparsity": "50"}
    found = evaluate_whatif(run, parse_whatif(**options, formats="none"))
    assert found.table[["layer", "site", "phase"]].to_numpy().tolist() == [
        [layer, "act", phase] for layer in (0, 2) for phase in ("before", "moved_after")
    ]
    assert found.manifest["phases"] == ["before", "moved_after"]
    both = evaluate_whatif(run, parse_whatif(formats="int4", ranges="max", sparsity="none"))
    assert both.sites == ["gate", "act"]
    assert both.select([1], ["gate"]).table["layer"].tolist() == [1, 1]
    assert _printed(both).count("SQNR, dB, by number format") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": "int9"}, r"--formats int9: unknown format 'int9' \(did you mean 'int"),
        ({"formats": ","}, "--formats ',' has an empty item"),
        ({"ranges": "maximum"}, r"unknown range 'maximum' \(did you mean 'max'"),
        ({"formats": "int8", "ranges": "none"}, "integer formats need a range"),
        ({"phases": "afterwards"}, "unknown phase 'afterwards'"),
        ({"phases": "arm_input"}, "the run has no phase arm_input there"),
        ({"percentile": 0.0}, "--percentile 0: give a number above 0, at most 100"),
        ({"percentile": 101.0}, "--percentile 101"),
        ({"percentile": math.nan}, "--percentile nan"),
        ({"sparsity": "0,50"}, "--sparsity '0,50' is not a list of percentages"),
        ({"sparsity": "half"}, "--sparsity 'half'"),
        ({"sparsity": "50,0.5"}, "--sparsity 0.5 may be 50% or 0.5%"),
        ({"sparsity": "1"}, "--sparsity 1 may be 100% or 1%"),
        ({"sparsity": "1/0"}, "--sparsity '1/0'"),
        ({"sparsity": "101"}, "--sparsity '101'"),
        ({"sparsity": "1e999999999"}, "--sparsity '1e999999999' is not a number"),
        ({"thresholds": "-1"}, "--thresholds '-1' is not a list of magnitudes"),
        ({"thresholds": "inf"}, "--thresholds 'inf'"),
        ({"thresholds": "a"}, "--thresholds 'a'"),
        ({"formats": "none", "sparsity": "none"}, "there is nothing to evaluate"),
        ({"layers": "7"}, "--layers 7: layer 7 does not exist"),
        ({"sites": "gate"}, "the run holds none of these layers and sites"),
        ({"sites": "gates"}, "unknown site 'gates'"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    measured: Synthetic, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        evaluate_whatif(measured.run, parse_whatif(**options))


def test_percentages_may_have_signs_and_digits() -> None:
    assert [float(one) for one in parse_whatif(sparsity="0.5%").levels] == [0.005]
    levels = parse_whatif(sparsity="12.5%, 99.9").levels
    assert [float(level) for level in levels] == [0.125, 0.999]
    assert [str(level) for level in levels] == ["1/8", "999/1000"]


def test_what_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no distributions"):
        evaluate_whatif(run_of({}), parse_whatif())


# Told ----------------------------------------------------------------------------------------


_printed = partial(printed, whatif_tables.summary)


def test_rounded_values_are_said_to_be_and_answer_closely() -> None:
    measured = silu_run(torch.float32)
    found = evaluate_whatif(measured.run, parse_whatif(formats="int8", ranges="max", sparsity="50"))
    assert found.manifest["is_rounded"]
    assert "fp32 values were counted rounded to bf16" in " ".join(_printed(found).split())
    for layer in range(3):
        x = measured.raw[layer, "before"]
        scale = np.abs(x).max() / 127
        noise = ((x - np.round(x / scale) * scale) ** 2).sum()
        row = found.losses("act", "int8", "max").set_index("layer").loc[layer]
        assert row["scale"] == pytest.approx(scale, rel=2**-8)
        assert row["sqnr_db"] == pytest.approx(10 * math.log10((x**2).sum() / noise), abs=0.2)
        half = np.sort(np.abs(x))[x.size // 2 - 1]
        assert found.thinned("act", 0.5).iloc[layer]["threshold"] == pytest.approx(half, rel=2**-8)


def test_runs_inside_a_folder_are_named(measured: Synthetic, tmp_path: Path) -> None:
    for side in "ab":
        measured.run.save(tmp_path / "both" / side)
    with pytest.raises(RequestError, match="not a run, it contains 2 runs") as refused:
        read_run(tmp_path / "both")
    assert str(tmp_path / "both" / "a") in refused.value.hint
    assert read_run(tmp_path / "both" / "a").merged == measured.run.merged
    shutil.rmtree(tmp_path / "both" / "b")
    (tmp_path / "both" / "a" / "counts.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RequestError, match=r"counts\.parquet is damaged"):
        read_run(tmp_path / "both" / "a")
    with pytest.raises(RequestError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="is not a run"):
        read_run(tmp_path / "empty")
