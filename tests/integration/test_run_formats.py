"""`run --formats` against plain hooks and plain loops; the ways to run it agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import batch_windows, cut_windows, measure
from support.brute_formats import brute_restore
from support.texts import TEXTS
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import distviz
from distviz.cli import app as cli
from distviz.errors import RequestError

FORMATS = ["nvfp4", "mxfp4", "mxfp8", "int8-token", "fp8-token", "int8-channel", "int4-group128"]
SITES = {"act": ("mlp.act_fn", "output"), "product": ("mlp.down_proj", "input")}
TEXT: Any = TEXTS[:3]


def measured(**options: Any) -> distviz.Run:
    given = {"text": TEXT, "formats": FORMATS, "max_length": 24, "device": "cpu"} | options
    return distviz.run(sites="act,product", **given)


@pytest.mark.extended
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
def test_the_table_is_that_of_plain_hooks(
    dtype: str, demo_folder: Path, demo_tokenizer: Any
) -> None:
    table = measured(dtype=dtype, layers="0,3").formats.set_index(
        ["layer", "site", "phase", "format"]
    )
    model = AutoModelForCausalLM.from_pretrained(demo_folder, dtype=getattr(torch, dtype)).eval()
    batches = batch_windows(cut_windows(demo_tokenizer, TEXT, 24, [0]), 4)
    paths = {layer: f"model.layers.{layer}" for layer in (0, 3)}
    places = {
        (layer, site): (f"{path}.{module}", side)
        for layer, path in paths.items()
        for site, (module, side) in SITES.items()
    }
    arm = {0: "model.layers.0.mlp.act_fn"}
    found = measure(model, batches, places, arm, has_head=True, call={"use_cache": False})
    for layer, site, phase, name in table.index:
        windows = [one.float().numpy() for one in found.values[layer, site, phase]]
        parts = [brute_restore(x, name, np.zeros(len(x), np.int64)) for x in windows]
        wide = np.concatenate(windows).astype(np.float64)
        kept = np.concatenate([part.values for part in parts]).astype(np.float64)
        error = ((wide - kept) ** 2).sum()
        row = table.loc[layer, site, phase, name]
        assert row["count"] == wide.size
        assert row["error"] == pytest.approx(error, rel=1e-12)
        assert row["sqnr_db"] == pytest.approx(10 * math.log10((wide**2).sum() / error))
        shares = ((wide - kept) ** 2).sum(1) / (wide**2).sum(1)
        assert row["token_error_share"] == pytest.approx(shares.mean())
        assert row["zeroed"] == pytest.approx(((kept == 0) & (wide != 0)).mean())
        clipped = np.concatenate([part.clipped for part in parts])
        assert row["clipped"] == pytest.approx(clipped.mean())
    assert set(table.index.get_level_values("phase")) == {"before", "after"}


@pytest.mark.extended
def test_streamed_the_numbers_are_the_same() -> None:
    plain = measured(rotate=["none", "hadamard"]).formats
    streamed = measured(rotate=["none", "hadamard"], stream=True).formats
    pd.testing.assert_frame_equal(plain, streamed, check_exact=True)


def test_the_folder_and_the_json_object_have_it(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text(TEXT[0], encoding="utf-8")
    words = ["run", "--text", text, "--layers", "0", "--no-figures", "--formats", "nvfp4,int8"]
    words += ["--device", "cpu", "--out", tmp_path / "out", "--json"]
    done = CliRunner().invoke(cli.app, [*map(str, words)])
    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    table = distviz.Run.load(tmp_path / "out").formats
    assert table["format"].tolist() == ["nvfp4", "int8"] * 2
    assert [row["sqnr_db"] for row in printed["formats"]] == pytest.approx(
        table["sqnr_db"].tolist()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["nvfp5"]}, "nvfp4"),
        ({"formats": ["nvfp4"], "rotate": []}, "--rotate is empty"),
        ({"formats": [], "rotate": ["hadamard"]}, "--rotate has no effect without --formats"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        measured(**options)
