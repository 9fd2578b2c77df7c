"""stats, channels, extremes and tokens of whole runs, recomputed from every value in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import ranks
from support.brute_force import Measured, keeping
from support.brute_places import LLAMA, assert_run, llama_places, measure_texts, shown
from support.texts import TEXTS
from support.tiny_models import save_tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

import distviz
from distviz.results import Run

if TYPE_CHECKING:
    from support.commands import Done

EXTENDED = pytest.mark.extended
LINES = [*TEXTS, "one\ntwo\n", TEXTS[0][:40]]
LENGTH = 24
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def texts_in(folder: Path) -> list[Path]:
    """Write a document into a file each."""
    paths = [folder / f"{number}.txt" for number in range(len(LINES))]
    for path, text in zip(paths, LINES, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def check(
    out: Path, folder: Path, arm_layers: list[int], layers: list[int] | None, options: list[str]
) -> None:
    """Compare a run folder with what plain hooks see of the same model."""
    given = dict(zip(options[::2], options[1::2], strict=False))
    dtype = DTYPES[given.get("--dtype", "fp32")]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = int(given.get("--batch-size", 4))
    found = measure_texts(model, tokenizer, LINES, LENGTH, size, arm_layers, layers)
    assert_run(
        Run.load(out), found, partial(shown, tokenizer), pd.read_parquet(out / "tokens.parquet")
    )


def arguments(folder: Path, arm_layers: str, *options: str) -> list[str | Path]:
    Path("texts").mkdir()
    text = [one for path in texts_in(Path("texts")) for one in ("--text", path)]
    args = ["run", folder, *text, "--max-length", str(LENGTH), "--arm-layers", arm_layers]
    args += ["--tokens", "--channels", "--no-figures", "--quiet", "--device", "cpu", "-o", "out"]
    return [*args, "--sites", "act,product,attention,residual", *options]


@pytest.mark.parametrize(
    "options",
    [
        ["--dtype", "fp32", "--batch-size", "3"],
        pytest.param(["--dtype", "bf16", "--batch-size", "1"], marks=EXTENDED),
        pytest.param(["--dtype", "bf16", "--batch-size", "4", "--stream"], marks=EXTENDED),
    ],
)
def test_every_column_of_the_demo(
    options: list[str], demo_folder: Path, call: Callable[..., Done]
) -> None:
    done = call(*arguments(demo_folder, "0,2", *options))
    assert done.code == 0, done.err
    check(Path("out"), demo_folder, [0, 2], None, options)


@pytest.mark.extended
@pytest.mark.real_model
@pytest.mark.usefixtures("quick_bfloat16")
@pytest.mark.parametrize(
    "options",
    [
        ["--dtype", "fp32", "--batch-size", "4"],
        ["--dtype", "bf16", "--batch-size", "1"],
        ["--dtype", "fp32", "--batch-size", "3", "--stream"],
    ],
)
def test_every_column_of_smollm2(
    options: list[str], dequantized: Path, call: Callable[..., Done]
) -> None:
    layers = [0, 10, 11, 29]
    chosen = ["--layers", ",".join(map(str, layers))]
    done = call(*arguments(dequantized, "10", *options, *chosen))
    assert done.code == 0, done.err
    check(Path("out"), dequantized, [10], layers, options)
    massive = Run.load("out").extremes.query("massive and phase == 'before'")
    assert set(zip(massive["layer"], massive["site"], strict=True)) >= {(11, "residual")}
    first = massive.query("layer == 11 and site == 'residual' and rank == 1")
    assert first[["channel", "position"]].to_numpy().tolist() == [[507, 0]]


@pytest.mark.extended
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_column_of_two_processes(
    dtype: str, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--dtype", dtype, "--batch-size", "2"]
    ranks.finished(arguments(demo_folder, "0,2", *options), 2)
    check(Path("out"), demo_folder, [0, 2], None, options)


def check_padded(model: Any, tokenizer: Any, side: str) -> None:
    """Watch calls of texts that are padded on one side; compare with what plain hooks see."""
    ids = [tokenizer(text)["input_ids"][:LENGTH] for text in LINES]
    longest = max(map(len, ids))
    places = {
        f"{layer} {site}": place
        for (layer, site), place in llama_places(model.config.num_hidden_layers).items()
    }
    found = Measured()
    with (
        torch.no_grad(),
        keeping(model, places) as kept,
        distviz.watch(model, sites=[*LLAMA], tokenizer=tokenizer, channels=True) as watched,
    ):
        for group in (range(4), range(4, len(ids))):
            gaps = [longest - len(ids[row]) for row in group]
            before = [gap if side == "left" else 0 for gap in gaps]
            rows = [
                [2] * start + ids[row] + [2] * (gap - start)
                for row, gap, start in zip(group, gaps, before, strict=True)
            ]
            valid = np.zeros((len(rows), longest), bool)
            for number, (row, start) in enumerate(zip(group, before, strict=True)):
                valid[number, start : start + len(ids[row])] = True
                found.places.append((row, 0))
                found.ids.append(np.array(ids[row]))
            model(torch.tensor(rows), attention_mask=torch.from_numpy(valid).long())
            for name in places:
                layer, site = name.split()
                parts = found.values.setdefault((int(layer), site, "before"), [])
                parts += [
                    x[torch.from_numpy(v)] for x, v in zip(kept[name][-1], valid, strict=True)
                ]
    assert_run(watched.run(), found, partial(shown, tokenizer))


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_column_of_padded_calls(side: str, demo_folder: Path, demo_tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo_folder, dtype=torch.float32).eval()
    check_padded(model, demo_tokenizer, side)


@pytest.mark.extended
@pytest.mark.real_model
@pytest.mark.usefixtures("quick_bfloat16")
def test_every_column_of_smollm2_padded_on_the_left(dequantized: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dequantized, dtype=torch.bfloat16).eval()
    check_padded(model, AutoTokenizer.from_pretrained(dequantized), "left")


# Unusual models and texts -------------------------------------------------------------------


def _not_finite(model: Any, token: int) -> None:
    model.model.embed_tokens.weight[token, 3] = math.nan
    model.model.layers[1].mlp.down_proj.weight[3, 4] = math.inf


def _planted(model: Any, token: int) -> None:
    model.model.embed_tokens.weight[token, 3] = 1e6


def _coarse(model: Any, _: int) -> None:
    for weight in model.parameters():
        weight.copy_((32 * weight).round() / 32)


def _constant(model: Any, _: int) -> None:
    for layer in model.model.layers:
        layer.mlp.gate_proj.weight.zero_()
        layer.self_attn.v_proj.weight.fill_(0.5)


CONTROLS = ["a\r\nb\r\r c\n\n", "NA", "null nan", "\x1b[31m x\x07"]


@pytest.mark.parametrize(
    ("change", "texts", "length"),
    [
        (_not_finite, TEXTS, LENGTH),
        (_planted, TEXTS, LENGTH),
        (_coarse, TEXTS, LENGTH),
        (_constant, TEXTS, LENGTH),
        (None, ["a", "9"], 2),
        (None, [TEXTS[0]] * 3, LENGTH),
        (None, CONTROLS, LENGTH),
    ],
)
def test_unusual_models_and_texts(
    change: Any,
    texts: list[str],
    length: int,
    demo_folder: Path,
    demo_tokenizer: Any,
    tmp_path: Path,
) -> None:
    folder = save_tiny_llama(tmp_path / "model", demo_folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    token = demo_tokenizer(TEXTS[0])["input_ids"][2]
    if change is not None:
        with torch.no_grad():
            change(model, token)
        model.save_pretrained(folder)
    run = distviz.run(
        folder, text=texts, max_length=length, batch_size=3, device="cpu", sites=",".join(LLAMA),
        arm_layers="none", channels=True, tokens=True,
    )  # fmt: skip
    out = run.save(tmp_path / "run")
    found = measure_texts(model, demo_tokenizer, texts, length, 3)
    tokens = pd.read_parquet(out / "tokens.parquet")
    assert_run(Run.load(out), found, partial(shown, demo_tokenizer), tokens)
    if change is _planted:
        first = run.extremes.query("site == 'residual' and rank == 1")
        assert (first["value"] > 9e5).all()
        assert set(first["channel"]) == {3}
        assert first["massive"].all()
        assert set(first["token_id"]) == {token}
