"""`compare --elementwise` on SmolLM2: equal weights, one changed weight, every column by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.brute_force import Measured
from support.brute_places import LLAMA, assert_pairs, at, measure_texts, rows_at, shown
from support.texts import TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer

import distviz
from distviz.results import Comparison
from distviz.settings import OPTIONS, RunSettings

pytestmark = [pytest.mark.extended, pytest.mark.real_model]
LENGTH = 32


@pytest.fixture(scope="module")
def edited(dequantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one weight of layer 7 changed."""
    folder = tmp_path_factory.mktemp("edited") / "smollm2"
    folder.mkdir()
    for path in dequantized.iterdir():
        (folder / path.name).symlink_to(path)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.7.mlp.down_proj.weight"][5, 7] += 1.0
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def compare(a: Path, b: Path, folder: Path, **options: Any) -> Comparison:
    """Compare value by value on `TEXTS`, a document each; options as of `distviz.compare`."""
    files = []
    for number, text in enumerate(TEXTS):
        files.append(folder / f"{number}.txt")
        files[-1].write_text(text, encoding="utf-8")
    own = {name: options.pop(name) for name in list(options) if name in OPTIONS}
    own |= {"text": [*map(str, files)], "max_length": LENGTH, "device": "cpu"}
    given = {"settings": RunSettings(**own), "given": frozenset(own), "elementwise": True}
    return distviz.compare(a, b, **given | options)


def test_a_gguf_equals_the_folder_of_its_weights(
    smollm2: Path, dequantized: Path, tmp_path: Path
) -> None:
    found = compare(smollm2, dequantized, tmp_path, local=True)
    assert found.manifest["elementwise"]["verdict"] == "all values are equal"
    table = found.elementwise["elementwise"]
    assert len(table) == 30 * len(LLAMA)
    for part in (table, found.elementwise["elementwise_documents"]):
        names = [name for name in part if name.endswith(("error", "difference"))]
        assert len(names) > 1
        assert (part[names] == 0).all(axis=None)
        assert (part.filter(like="sqnr_db") == np.inf).all(axis=None)
        assert (part.filter(like="cosine") == 1).all(axis=None)
    assert table[["max_document", "max_position", "max_channel"]].isna().all(axis=None)
    assert found.elementwise["elementwise_channels"].empty
    assert found.elementwise["elementwise_tokens"].empty
    output = found.manifest["output"]
    assert (output["kl"], output["top1_agreement"]) == (0, 1)
    assert output["loss_a"] == output["loss_b"]


def test_one_weight_of_layer_7(dequantized: Path, edited: Path, tmp_path: Path) -> None:
    found = compare(dequantized, edited, tmp_path, local=True)
    note = found.manifest["elementwise"]
    assert (note["first"]["layer"], note["first"]["site"]) == (7, "residual")
    assert "first differ by more than rounding at layer 7, residual" in note["verdict"]
    table = found.elementwise["elementwise"]
    places = list(zip(table["layer"], table["site"], strict=True))
    is_own = np.array([place == (7, "residual") for place in places])
    assert (table["local_relative_error"][~is_own] == 0).all()
    assert (table["local_sqnr_db"][~is_own] == np.inf).all()
    (first,) = table[is_own].to_dict("records")
    assert first["local_relative_error"] == first["relative_error"] > 0
    later = table["layer"] > 7
    assert (table["relative_error"][later] > 0).all()
    assert (table["relative_error"][~later & ~is_own] == 0).all()
    channels = found.elementwise["elementwise_channels"]
    assert channels[channels["layer"] == 7]["channel"].tolist() == [5]


CHOSEN = [0, 11, 29]


@pytest.fixture(scope="module")
def by_hooks(dequantized: Path) -> Callable[[int], list[Measured]]:
    """What plain hooks see in float32 and in bfloat16, by batch size."""

    @cache
    def measured(batch_size: int) -> list[Measured]:
        tokenizer = AutoTokenizer.from_pretrained(dequantized)
        sides = []
        for dtype in (torch.float32, torch.bfloat16):
            model = AutoModelForCausalLM.from_pretrained(dequantized, dtype=dtype).eval()
            sides.append(measure_texts(model, tokenizer, TEXTS, LENGTH, batch_size, layers=CHOSEN))
        return sides

    return measured


@pytest.mark.usefixtures("quick_bfloat16")
@pytest.mark.parametrize(
    ("stream", "batch_size"),
    [(False, 3), (False, 1), (True, 3)],
    ids=["several at once", "one by one", "streamed"],
)
def test_every_column_in_two_dtypes(
    stream: bool,
    batch_size: int,
    dequantized: Path,
    by_hooks: Callable[[int], list[Measured]],
    tmp_path: Path,
) -> None:
    own = {"layers": ",".join(map(str, CHOSEN)), "stream": stream, "batch_size": batch_size}
    tables = compare(dequantized, dequantized, tmp_path, b_dtype="bf16", **own).elementwise
    tokenizer = AutoTokenizer.from_pretrained(dequantized)
    for layer in CHOSEN:
        for site in LLAMA:
            a, b = (rows_at(one, (layer, site, "before")) for one in by_hooks(batch_size))
            assert_pairs(at(tables, layer, site), a, b, partial(shown, tokenizer))
