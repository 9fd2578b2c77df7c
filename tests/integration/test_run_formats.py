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
from scipy.linalg import hadamard
from support.brute_force import batch_windows, cut_windows, keeping, measure
from support.brute_formats import brute_restore
from support.texts import TEXTS
from support.tiny_models import save_tiny_llama
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


ODD = {"attn_in": "self_attn.k_proj", "mlp_in": "mlp.up_proj", "product": "mlp.down_proj"}
"""Sites, and a module that reads their values: 36, 36 and 50 channels."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_widths_that_are_no_multiple_of_a_block(
    dtype: str, tmp_path: Path, demo_folder: Path, demo_tokenizer: Any
) -> None:
    sizes = {"hidden_size": 36, "intermediate_size": 50, "num_attention_heads": 2}
    folder = save_tiny_llama(tmp_path / "odd", demo_folder, **sizes)
    given: Any = {"text": TEXT, "max_length": 24, "dtype": dtype, "arm_layers": "none"}
    given |= {"formats": FORMATS, "rotate": ["none", "hadamard"], "device": "cpu"}
    run, streamed = (
        distviz.run(str(folder), sites=",".join(ODD), stream=stream, **given)
        for stream in (False, True)
    )
    pd.testing.assert_frame_equal(run.formats, streamed.formats, check_exact=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    places = {
        f"{layer} {site}": (f"model.layers.{layer}.{module}", "input")
        for layer in (0, 1)
        for site, module in ODD.items()
    }
    batches = batch_windows(cut_windows(demo_tokenizer, TEXT, 24, [0]), 4)
    assert not all(batch.valid.all() for batch in batches)
    with torch.inference_mode(), keeping(model, places) as seen:
        for batch in batches:
            model(**batch.inputs(), use_cache=False)
    assert len(run.formats) == len(places) * 2 * len(FORMATS)
    for row in run.formats.to_dict("records"):
        parts, rows = seen[f"{row['layer']} {row['site']}"], 0
        error = energy = shares = zeroed = 0.0
        for tensor, batch in zip(parts, batches, strict=True):
            windows = np.where(batch.valid, np.arange(len(batch.valid))[:, None], -1).ravel()
            x = tensor.float().numpy().reshape(windows.size, -1)
            if row["rotation"] == "hadamard":
                block = x.shape[1] & -x.shape[1]
                matrix = np.kron(np.eye(x.shape[1] // block), hadamard(block)) / math.sqrt(block)
                x = (x.astype(np.float64) @ matrix).astype(np.float32)
            brute = brute_restore(x, row["format"], windows)
            wide, kept = (one[windows >= 0].astype(np.float64) for one in (x, brute.values))
            of_tokens = (wide - kept) ** 2
            error, energy = error + of_tokens.sum(), energy + (wide**2).sum()
            rows += len(wide)
            shares += (of_tokens.sum(1) / (wide**2).sum(1)).sum()
            zeroed += ((kept == 0) & (wide != 0)).sum()
        # The matrix product rounds otherwise than the steps of 1, 2, 4, … channels.
        tolerance = 1e-12 if row["rotation"] == "none" else 2e-3
        assert row["count"] == rows * (50 if row["site"] == "product" else 36)
        assert row["error"] == pytest.approx(error, rel=tolerance)
        assert row["error_share"] == pytest.approx(error / energy, rel=tolerance)
        assert row["token_error_share"] == pytest.approx(shares / rows, rel=max(tolerance, 1e-9))
        assert row["zeroed"] == pytest.approx(zeroed / row["count"], abs=tolerance)


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
        ({"formats": ["nvfp4"], "rotate": []}, "^rotate is empty"),
        ({"formats": [], "rotate": ["hadamard"]}, "^rotate has no effect without formats"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        measured(**options)
