"""Damaged checkpoints end in an error that names the file and the tensor, and leave no output."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import edit_config, edit_json, save_tiny_llama
from transformers import DeepseekV3Config, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from distviz.errors import RequestError
from distviz.models.open import open_model

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    """A tiny Llama in three shards with an index."""
    single = save_tiny_llama(tmp_path_factory.mktemp("single") / "one", demo_folder)
    folder = tmp_path_factory.mktemp("sharded") / "tiny"
    shutil.copytree(single, folder)
    (folder / "model.safetensors").unlink()
    LlamaForCausalLM.from_pretrained(single).save_pretrained(folder, max_shard_size="150KB")
    assert len(list(folder.glob("*.safetensors"))) == 3
    return folder


@pytest.fixture
def sharded(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def shard_of(folder: Path, name: str) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / index["weight_map"][name]


def edit_map(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    edit_json(folder / "model.safetensors.index.json", lambda index: change(index["weight_map"]))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = shard_of(folder, UP)
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def edit_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = shard_of(folder, UP)
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])


def cut_short(folder: Path) -> None:
    path = shard_of(folder, UP)
    path.write_bytes(path.read_bytes()[:-100])


def swap_in_map(folder: Path) -> None:
    other = next(path for path in folder.glob("*.safetensors") if path != shard_of(folder, UP))
    edit_map(folder, lambda names: names.update({UP: other.name}))


SHARD = r"model-0000\d-of-00003\.safetensors"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (
        lambda f: shard_of(f, UP).unlink(),
        rf"1 of 3 weights files are missing, the first: {SHARD}",
    ),
    "short shard": (cut_short, rf"{SHARD} is damaged: truncated: [\d,]+ bytes where [\d,]+ are"),
    "index points elsewhere": (
        swap_in_map,
        rf"index\.json is wrong: it lists {UP} in {SHARD}, but it is in {SHARD}",
    ),
    "index names what no file has": (
        lambda f: edit_map(f, lambda names: names.update(ghost=names[UP])),
        rf"index\.json is wrong: it lists ghost in {SHARD}, but no file has it",
    ),
    "index forgets a tensor": (
        lambda f: edit_map(f, lambda names: names.pop(UP)),
        rf"index\.json is wrong: it does not list {UP}, but it is in {SHARD}",
    ),
    "tensor gone from its shard": (
        lambda f: edit_tensors(f, lambda tensors: tensors.pop(UP)),
        rf"it lists {UP} in {SHARD}, but no file has it",
    ),
    "a tensor twice": (
        lambda f: edit_tensors(f, lambda t: t.update({"lm_head.weight": t[UP].clone()})),
        rf"tensor lm_head\.weight is in two files, {SHARD} and {SHARD}",
    ),
    "tensor of another shape": (
        lambda f: edit_tensors(f, lambda t: t.update({UP: torch.zeros(40, 32)})),
        rf"{UP} is 40×32 in {SHARD}, 48×32 expected",
    ),
    "tensor of whole numbers": (
        lambda f: edit_tensors(f, lambda t: t.update({UP: t[UP].int()})),
        rf"{UP} in {SHARD} is of type I32, and config\.json declares no quantization",
    ),
    "tensor of eight-bit floats": (
        lambda f: edit_tensors(f, lambda t: t.update({UP: t[UP].to(torch.float8_e4m3fn)})),
        rf"{UP} in {SHARD} is of type F8_E4M3",
    ),
    "offsets that run backwards": (
        lambda f: edit_header(f, lambda h: h[UP]["data_offsets"].reverse()),
        rf"{SHARD} is damaged: tensor {UP} \(48×32 F32\) takes -6,144 bytes",
    ),
    "offsets that overlap": (
        lambda f: edit_header(
            f, lambda h: h[UP].update(data_offsets=h[UP.replace("up", "gate")]["data_offsets"])
        ),
        rf"{SHARD} is damaged: tensor \S+(up|gate)_proj\.weight overlaps another or leaves a gap",
    ),
    "header shape": (
        lambda f: edit_header(f, lambda h: h[UP].update(shape=[40, 32])),
        rf"{SHARD} is damaged: tensor {UP} \(40×32 F32\) takes 6,144 bytes where 5,120",
    ),
    "config: other width": (
        lambda f: edit_config(f, intermediate_size=64),
        rf"layers\.0\.mlp\.down_proj\.weight is 32×48 in {SHARD}, 32×64 expected and 5 more",
    ),
    "config: other vocabulary": (
        lambda f: edit_config(f, vocab_size=4096),
        rf"lm_head\.weight is 2048×32 in {SHARD}, 4096×32 expected and 1 more",
    ),
    "config: other heads": (
        lambda f: edit_config(f, num_key_value_heads=4),
        r"layers\.0\.self_attn\.k_proj\.weight is 16×32 in .*, 32×32 expected and 3 more",
    ),
    "config: more layers": (
        lambda f: edit_config(f, num_hidden_layers=3),
        r"weights missing: .* has no model\.layers\.2\.\S+ and 8 more",
    ),
    "config: fewer layers": (
        lambda f: edit_config(f, num_hidden_layers=1),
        r"weights hold model\.layers\.1\.\S+, the configuration has 1 layer ",
    ),
    "config: biases": (
        lambda f: edit_config(f, mlp_bias=True),
        r"weights missing: .* has no model\.layers\.0\.mlp\.down_proj\.bias and 5 more",
    ),
    "config: other architecture": (
        lambda f: edit_config(f, model_type="gpt2", architectures=["GPT2LMHeadModel"]),
        r"weights missing: .* has no transformer\.h\.0",
    ),
    "config: sizes at odds": (
        lambda f: edit_config(f, num_attention_heads=5, head_dim=None),
        r"config\.json: .*hidden size \(32\) is not a multiple",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_in_two_lines_and_no_file_remains(
    damage: str, sharded: Path, call: Any
) -> None:
    break_it, message = DAMAGES[damage]
    break_it(sharded)
    done = call("run", sharded, "--out", "out", "--no-figures")
    assert (done.code, done.out) == (2, "")
    assert len(done.complaint()) == 2 or damage == "config: sizes at odds"
    assert re.search(message, "\n".join(done.complaint())), done.complaint()
    assert list(Path.cwd().iterdir()) == []


def test_the_whole_checkpoint_opens(sharded: Path) -> None:
    assert open_model(str(sharded)).details["warnings"] == []


def test_weights_are_checked_before_they_are_read(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "distviz.models.open.read_model", lambda *_, **__: pytest.fail("weights read")
    )
    edit_config(sharded, intermediate_size=64)
    with pytest.raises(RequestError, match="contradicts"):
        open_model(str(sharded))


def test_biases_that_the_configuration_does_not_have(tmp_path: Path, demo_folder: Path) -> None:
    """A Qwen2 file read as a Llama would silently lose the biases of its attention."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048}
    Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=False)).save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="llama", architectures=["LlamaForCausalLM"])
    with pytest.raises(RequestError, match=r"hold model\.layers\.0\.self_attn\.k_proj\.bias, but"):
        open_model(str(tmp_path), needs_tokenizer=False)


def test_a_tensor_unknown_to_the_architecture_is_noted(sharded: Path) -> None:
    name = "model.layers.0.self_attn.k_scale"
    edit_tensors(sharded, lambda tensors: tensors.update({name: torch.ones(1)}))
    edit_map(sharded, lambda names: names.update({name: names[UP]}))
    (note,) = open_model(str(sharded)).details["warnings"]
    assert note == f"weights not used, unknown to the architecture: {name}"


def test_layers_for_multi_token_prediction_are_accepted(sharded: Path) -> None:
    """DeepSeek-V3 stores further layers after the last one, and declares their number."""
    assert DeepseekV3Config().num_hidden_layers == 61
    edit_config(sharded, num_hidden_layers=1, num_nextn_predict_layers=1)
    assert open_model(str(sharded)).details["layers"] == 1
