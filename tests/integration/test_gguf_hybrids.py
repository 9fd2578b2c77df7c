"""Commands on GGUF files of the newer loader: as on the same model in a folder, and as by hooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import keeping, raw
from support.interrupted import killed_and_resumed
from support.tiny_gguf import HYBRIDS, tiny_hybrid, write_hybrid_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

import distviz

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

pytestmark = pytest.mark.extended

pytest.importorskip("gguf")

TEXTS = ["a b! abc hello there world", "quick brown fox and b a b again", "zz", "lorem ipsum! a"]
LENGTH = 12
OPTIONS: dict[str, Any] = {
    "text": TEXTS, "max_length": LENGTH, "batch_size": 1, "device": "cpu", "threads": 1,
}  # fmt: skip
COLUMNS = [
    "document", "layer", "layers", "site", "phase", "module", "count", "mean", "std", "l2",
    "redistribution", "at", "c", "p1", "loss_before", "loss_after", "kl",
]  # fmt: skip
PLACES = {str(layer): (f"model.layers.{layer}", "output") for layer in range(2)}


@pytest.fixture(scope="module", params=HYBRIDS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder ``source`` of a model, ``tiny.gguf`` of it, folder ``same`` with its values."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_hybrid(request.param)
    path = write_hybrid_gguf(model, folder / "tiny.gguf")
    model.save_pretrained(folder / "source")
    model.load_state_dict(loaded(path).state_dict())
    model.save_pretrained(folder / "same")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    for name in ("source", "same"):
        tokenizer.save_pretrained(folder / name)
    return folder


def loaded(path: Path) -> Any:
    where = {"pretrained_model_name_or_path": path}
    if path.suffix == ".gguf":
        config = GgufConfig(dequantize=True)
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
        where["quantization_config"] = config
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()


def layers_of(path: Path) -> dict[str, list[torch.Tensor]]:
    """What each layer returns for each window of the texts."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent / "same")
    model = loaded(path)
    with torch.no_grad(), keeping(model, PLACES) as kept:
        for text in TEXTS:
            for window in tokenizer(text, return_tensors="pt").input_ids.split(LENGTH, dim=1):
                model(window, use_cache=False)
    return kept


def assert_equal(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Compare counts and means; sums of products differ by rounding where the memory does."""
    assert len(first)
    pairs = [table[[name for name in COLUMNS if name in table]] for table in (first, second)]
    assert len(pairs[0].columns) > 4
    pd.testing.assert_frame_equal(*pairs, rtol=1e-4, atol=1e-6)


def test_run_equals_plain_hooks(files: Path) -> None:
    kept = layers_of(files / "tiny.gguf")
    options = OPTIONS | {"sites": "residual", "arm_layers": "none"}
    on_map = {key: value for key, value in options.items() if key != "device"}
    for given in (options, on_map | {"device_map": "auto"}):
        run = distviz.run(files / "tiny.gguf", **given)
        rows = run.stats().to_dict("records")
        assert [row["layer"] for row in rows] == [0, 1]
        for row in rows:
            values = raw(kept[str(row["layer"])])
            assert row["count"] == values.size
            for name in ("mean", "std", "min", "max"):
                wanted = getattr(values, name)()
                assert row[name] == pytest.approx(wanted, rel=1e-5, abs=1e-6), name


def test_commands_give_the_numbers_of_the_folder(files: Path) -> None:
    paths = files / "tiny.gguf", files / "same"
    of_arm = {"c": [0.1, 0.5], "p1": [90]}
    runs = [distviz.run(path, **OPTIONS, sites="act,product,residual") for path in paths]
    assert_equal(*(run.stats() for run in runs))
    assert_equal(*(run.documents for run in runs))
    for by_layer in (False, True):
        sweeps = [distviz.sweep(path, **OPTIONS, **of_arm, by_layer=by_layer) for path in paths]
        assert_equal(*(sweep.table for sweep in sweeps))
    prompts = [{"system": "a b", "question": f"abc {text}"} for text in TEXTS]
    given = OPTIONS | {"text": prompts, "max_length": 64}
    studies = [distviz.filler(path, **given, counts=[0, 3]) for path in paths]
    for count in (0, 3):
        assert_equal(*(study.runs[count].stats() for study in studies))
    for on in ("both", "decode"):
        texts = [
            distviz.generate(path, prompt="a b! abc", max_new_tokens=6, arm_layers="all", on=on)
            for path in paths
        ]
        assert all(one.before == texts[0].before != [""] for one in texts)
        assert all(one.after == texts[0].after != [""] for one in texts)


def test_the_model_of_a_comparison_may_be_the_file(files: Path) -> None:
    own: dict[str, Any] = {"elementwise": True, "local": True, "sites": "residual"}
    found = distviz.compare(files / "tiny.gguf", files / "same", **OPTIONS, **own)
    table = found.elementwise["elementwise"]
    assert table[["relative_error", "local_relative_error"]].max(axis=None) < 1e-6
    found = distviz.compare(files / "source", files / "tiny.gguf", **OPTIONS, **own)
    table = found.elementwise["elementwise"]
    source, stored = layers_of(files / "source"), layers_of(files / "tiny.gguf")
    for row in table.to_dict("records"):
        x, y = (raw(one[str(row["layer"])]) for one in (source, stored))
        error = np.sqrt(((y - x) ** 2).sum() / (x**2).sum())
        assert 1e-4 < error < 1e-1
        assert row["relative_error"] == pytest.approx(error, rel=1e-4)
        assert row["max_abs_difference"] == pytest.approx(np.abs(y - x).max(), rel=1e-3)


def test_a_killed_run_is_resumed(files: Path, tmp_path: Path, call: Callable[..., Done]) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS * 4))
    command = ["run", files / "tiny.gguf", "--text", text, "--max-length", "12", "--quiet"]
    command += ["--batch-size", "1", "--threads", "1", "--no-figures"]
    assert call(*command, "--out", tmp_path / "whole").code == 0
    killed_and_resumed(tmp_path / "out", 2, *command)
    for name in ("stats.csv", "counts.parquet", "documents.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_streaming_is_refused(files: Path) -> None:
    with pytest.raises(distviz.DistvizError, match="only safetensors files can be read layer by"):
        distviz.run(files / "tiny.gguf", **OPTIONS, stream=True)
