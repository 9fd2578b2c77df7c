"""Reading a part of a checkpoint: the same numbers, and nothing else read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.equality import same
from support.synthetic_checkpoints import LIBRARIES_MB, forget, resident_bytes, write_llama
from support.tiny_models import save_tiny

import distviz
from distviz.data.corpus import tokenize
from distviz.data.documents import read_documents
from distviz.errors import RequestError
from distviz.measure.measurement import measure
from distviz.models.lazy_layers import SharedWeightsError, layer_of, layer_paths, refuse_shared
from distviz.models.open import open_model
from distviz.settings import RunSettings

TEXTS = ["Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away.", "9 * 3 = 27"]


@pytest.fixture
def tiny(tmp_path: Path, demo_folder: Path) -> Any:
    return lambda kind, **more: save_tiny(kind, tmp_path / kind, demo_folder, **more)


def plain_run(folder: Path, **options: Any) -> Any:
    """The same measurement on a model that was loaded whole."""
    settings = RunSettings(model=str(folder), **options)
    opened = open_model(str(folder), dtype=settings.dtype, device="cpu")
    assert opened.on_disk is None
    corpus = tokenize(read_documents(TEXTS), opened.tokenizer, max_length=16)
    return measure(opened, corpus, settings)


@pytest.mark.parametrize(
    "kind", ["llama", "qwen3", "gemma3_text", "gpt2", "phi", "mixtral", "minicpm3", "bert"]
)
def test_a_part_gives_the_numbers_of_the_whole(kind: str, tiny: Any) -> None:
    folder = tiny(kind)
    options: dict[str, Any] = {"layers": "0,2", "sites": "gate,act,down,residual"}
    options |= {"arm_layers": "0,1", "ripple": False, "max_length": 16, "device": "cpu"}
    part = distviz.run(str(folder), text=TEXTS, **options)
    whole = plain_run(folder, **options)
    same(part, whole)
    loaded = part.manifest["model"]["loaded"]
    assert [int(path.rpartition(".")[2]) for path in loaded["layers"]] == [0, 1, 2]
    assert "loaded" not in whole.manifest["model"]
    assert part.manifest["model"]["parameters"] == whole.manifest["model"]["parameters"]
    assert part.manifest["model"]["layers"] == 4
    assert part.manifest["effect"] is None


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_part_is_cast_like_the_whole(dtype: str, tiny: Any) -> None:
    folder = tiny("llama", dtype="bfloat16" if dtype == "fp32" else "float32")
    options: dict[str, Any] = {"layers": "1", "arm_layers": "none", "ripple": False}
    options |= {"dtype": dtype, "max_length": 16}
    same(distviz.run(str(folder), text=TEXTS, **options), plain_run(folder, **options))


def test_unneeded_layers_are_neither_stored_nor_used(tiny: Any) -> None:
    folder = tiny("llama")
    options: dict[str, Any] = {"layers": "1", "arm_layers": "1", "ripple": False}
    before = distviz.run(str(folder), text=TEXTS, **options)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, value in tensors.items():
            if "layers.2" in name or "layers.3" in name or "lm_head" in name:
                tensors[name] = torch.full_like(value, torch.nan)
        save_file(tensors, path, metadata={"format": "pt"})
    after = distviz.run(str(folder), text=TEXTS, **options)
    same(before, after)
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32
    assert after.manifest["model"]["loaded"] == {
        "layers": ["model.layers.0", "model.layers.1"],
        "parameters": 2 * layer + 2048 * 32 + 32,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"layers": "0", "arm_layers": "0"},
        {"layers": "0", "arm_layers": "0", "ripple": False, "sites": "act,module:*embed_tokens"},
    ],
)
def test_the_whole_model_is_loaded_where_all_may_be_needed(
    options: dict[str, Any], tiny: Any
) -> None:
    run = distviz.run(str(tiny("llama")), text=TEXTS, **options)
    assert "loaded" not in run.manifest["model"]


def test_indices_are_those_of_the_whole_model(tiny: Any) -> None:
    with pytest.raises(RequestError, match=r"layer 4 does not exist\nthis model has 4 layers, 0"):
        distviz.run(str(tiny("llama")), text=TEXTS, layers="4", arm_layers="none", ripple=False)


def test_pickles_and_gguf_load_whole(tiny: Any) -> None:
    folder = tiny("llama")
    state: dict[str, Any] = {}
    for path in folder.glob("*.safetensors*"):
        state |= load_file(path) if path.suffix == ".safetensors" else {}
        path.unlink()
    torch.save(state, folder / "pytorch_model.bin")
    options: dict[str, Any] = {"layers": "0", "arm_layers": "0", "ripple": False}
    run = distviz.run(str(folder), text=TEXTS, allow_pickle=True, **options)
    assert "loaded" not in run.manifest["model"]


def test_no_other_tensors_are_read_from_the_files(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny("llama")
    taken: list[str] = []

    class Recorded:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = safe_open(*args, **kwargs)

        def __enter__(self) -> Any:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def get_slice(self, name: str) -> Any:
            taken.append(name)
            return self.file.get_slice(name)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("transformers opened a shard itself")

    monkeypatch.setattr("safetensors.safe_open", Recorded)
    monkeypatch.setattr("transformers.modeling_utils.safe_open", refuse)
    distviz.run(str(folder), text=TEXTS, layers="0", arm_layers="0", ripple=False)
    assert "model.layers.0.mlp.up_proj.weight" in taken
    assert len(taken) == len(set(taken)) == 9 + 2
    others = ("model.layers.0.", "model.embed_tokens.weight", "model.norm.weight")
    assert all(name.startswith(others) for name in taken)


@pytest.mark.slow
def test_layer_0_of_24_takes_a_fifth_of_memory_and_bytes(tmp_path: Path) -> None:
    """2 GB; peak memory and what came into the page cache, by the operating system."""
    folder = write_llama(tmp_path / "m", layers=24, hidden=1792, intermediate=6144, shards=6)
    part_options = ["--layers", "0", "--arm-layers", "0", "--no-ripple"]
    peaks, read = [], []
    for options in (part_options, []):
        forget(folder)
        command = [sys.executable, "-m", "distviz", "run", str(folder), *options, "--quiet"]
        command += ["--max-tokens", "4096", "--no-figures", "--out", str(tmp_path / "run")]
        process = subprocess.Popen([*command, "--force"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        peaks.append(usage.ru_maxrss / 1024 - LIBRARIES_MB)
        read.append(resident_bytes(folder))
    assert read[1] > 2e9
    assert read[0] < 0.1 * read[1]  # a layer, the embedding, and what the disk reads ahead
    assert peaks[0] < peaks[1] / 5


@pytest.mark.parametrize("ripple", [True, False])
def test_a_tensor_of_the_wrong_shape_is_named(ripple: bool, tiny: Any) -> None:
    folder = tiny("llama")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = "model.layers.1.mlp.up_proj.weight"
    path = folder / index[name]
    tensors = load_file(path)
    tensors[name] = tensors[name][:40].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    message = r"contradicts its config\.json: model\.layers\.1\.mlp\.up_proj\.weight is 40×32"
    with pytest.raises(RequestError, match=message):
        distviz.run(str(folder), text=TEXTS, layers="0", ripple=ripple)


def test_weights_that_cannot_be_read_are_named(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("Input/output error")

    monkeypatch.setattr(
        "transformers.core_model_loading.convert_and_load_state_dict_in_model", fail
    )
    with pytest.raises(RequestError, match=r"model of '.*llama' cannot be read: Input/output"):
        distviz.run(str(tiny("llama")), text=TEXTS, layers="0", ripple=False)


def test_layers_are_the_elements_of_the_outermost_lists() -> None:
    model = torch.nn.Module()
    model.tower = torch.nn.ModuleList([torch.nn.Module(), torch.nn.Module()])
    for layer in model.tower:
        layer.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    model.other = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    layers = layer_paths(model, ["tower.0.experts.1"])
    assert layers == ["tower.0", "tower.1"]
    assert layer_of("tower.1.experts.0", layers) == "tower.1"
    assert layer_of("tower.1", layers) == "tower.1"
    assert layer_of("tower.10", layers) is None
    assert layer_of("other.0", layers) is None


def test_a_model_whose_layers_share_weights_is_loaded_whole(tiny: Any) -> None:
    """Albert has one layer that is run four times; a tie between two layers is another matter."""
    opened = open_model(str(tiny("llama")))
    layers = layer_paths(opened.model, [mlp.path for mlp in opened.mlps])
    down = opened.model.get_submodule(f"{layers[1]}.mlp.down_proj")
    down.weight = opened.model.get_submodule(f"{layers[0]}.mlp.down_proj").weight
    owners = {path: path for path in layers}
    with pytest.raises(SharedWeightsError, match=r"layers\.1\.mlp\.down_proj.*\n.*--no-stream"):
        refuse_shared(opened.model, owners, "x")
