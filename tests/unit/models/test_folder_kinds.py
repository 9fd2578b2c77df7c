"""A folder of another tool is recognized, and the advice works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.tiny_models import edit_config

from distviz.errors import RequestError
from distviz.models.open import describe, open_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put(folder: Path, *names: str) -> None:
    """Create empty files; a name that ends in a slash is a folder."""
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def bare(*names: str) -> Callable[[Path], Any]:
    """Only these files."""
    return lambda folder: (shutil.rmtree(folder), folder.mkdir(), put(folder, *names))


def beside(*names: str) -> Callable[[Path], Any]:
    """These files in place of the weights, beside config.json and tokenizer."""
    return lambda folder: ((folder / "model.safetensors").unlink(), put(folder, *names))


def moved(*parts: str) -> Callable[[Path], Any]:
    """The whole checkpoint in a subfolder."""

    def change(folder: Path) -> None:
        away = folder.with_name("away")
        folder.rename(away)
        folder.joinpath(*parts).parent.mkdir(parents=True)
        away.rename(folder.joinpath(*parts))

    return change


def cache(folder: Path) -> None:
    moved("snapshots", COMMIT)(folder)
    put(folder, "blobs/", "refs/main", "snapshots/older/")
    (folder / "refs" / "main").write_text(COMMIT)


KINDS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "empty": (bare(), "has no config.json, it is empty", "save_pretrained"),
    "tokenizer": (bare("tokenizer.json"), "holds only a tokenizer", "folder of the model"),
    "config": (beside(), "has no weights: neither", "inspect"),
    "no config": (bare("model.safetensors"), "weights but no config.json", "copy config.json"),
    "some file": (bare("notes.txt"), "not a checkpoint: it has no config.json", "save_pretrained"),
    "deepspeed": (
        beside("global_step5/", "training_args.bin", "scheduler.pt", "zero_to_fp32.py", "latest"),
        "training checkpoint of DeepSpeed", "zero_to_fp32.py . OUT",
    ),
    "deepspeed step": (
        bare("zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"),
        "training checkpoint of DeepSpeed", "zero_to_fp32.py . OUT",
    ),
    "fsdp": (
        bare("__0_0.distcp", ".metadata"), "distributed checkpoint of PyTorch", "merge-weights . ",
    ),
    "fsdp trainer": (
        beside("pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp"),
        "distributed checkpoint of PyTorch", "accelerate merge-weights pytorch_model_fsdp_0 OUT",
    ),
    "megatron": (
        bare("latest_checkpointed_iteration.txt", "iter_0000100/"), "Megatron", "converter",
    ),
    "mlx": (
        lambda folder: edit_config(
            folder, quantization={"group_size": 64, "bits": 4},
            quantization_config={"group_size": 64, "bits": 4},
        ),
        "is quantized by MLX", "--dequantize",
    ),
    "onnx": (beside("onnx/model.onnx"), "a model for ONNX alone", "exported from"),
    "onnx file": (beside("model.onnx"), r"for ONNX alone \(model.onnx\)", "exported from"),
    "tensorflow": (beside("tf_model.h5"), "TensorFlow or Flax alone", "from_tf=True"),
    "flax": (beside("flax_model.msgpack"), "TensorFlow or Flax alone", "from_flax=True"),
    "diffusers": (
        bare("model_index.json", "text_encoder/config.json", "unet/config.json"),
        "pipeline of diffusers", "/text_encoder$",
    ),
    "original": (
        bare("params.json", "consolidated.00.pth", "tokenizer.model"), "original format",
        "version for transformers",
    ),
    "original beside config": (beside("consolidated.safetensors"), "original format", "version"),
    "sharded": (
        beside("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"),
        "has shards but no model.safetensors.index.json: model-00001-of-0000.* and 1 more of 3",
        "fetch model.safetensors.index.json",
    ),
    "sharded pickles": (
        beside("pytorch_model-00001-of-00002.bin"), "no pytorch_model.bin.index.json",
        "fetch pytorch_model.bin.index.json",
    ),
    "distributed": (
        lambda folder: put(folder, "shard-00000-model-00001-of-00002.safetensors"),
        "distributed checkpoint of transformers", "in one process",
    ),
    "variant": (beside("model.fp16.safetensors"), "does not read: model.fp16", "rename the file"),
    "trainer": (beside("training_args.bin", "optimizer.pt"), "has no weights", "inspect"),
    "other pickle": (beside("weights.pt"), "does not read: weights.pt", "pytorch_model.bin"),
    "adapter": (bare("adapter_model.safetensors"), "no adapter_config.json", "fetch adapter_conf"),
    "adapter beside weights": (
        lambda folder: put(folder, "adapter_config.json"), "both a whole model and an adapter",
        "folder of their own",
    ),
    "gguf": (bare("a.gguf"), "not a checkpoint", r"it contains a\.gguf: give that file \(.*a\.gg"),
    "ggufs": (bare("a.gguf", "b.gguf"), "not a checkpoint", "a.gguf and 1 more: give one"),
    "gguf beside config": (beside("a.gguf"), "no weights beside its .gguf", "a.gguf"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_folder_is_and_what_to_do(kind: str, llama: Path) -> None:
    change, what, hint = KINDS[kind]
    change(llama)
    with pytest.raises(RequestError, match=f"'{llama}' .*{what}") as caught:
        open_model(str(llama), device="cpu")
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(RequestError, match=hint):
        raise RequestError(caught.value.hint)


MOVED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "hub cache": (cache, "is the cache of a hub model"),
    "trainer": (moved("checkpoint-1000"), "is the output folder of a trainer"),
    "sentence-transformers": (
        lambda folder: (moved("0_Transformer")(folder), put(folder, "modules.json")),
        "is a folder of sentence-transformers",
    ),
    "one folder above": (moved("model"), "it has no config.json"),
}


@pytest.mark.parametrize("kind", MOVED)
def test_the_folder_that_is_named_opens(kind: str, llama: Path) -> None:
    change, what = MOVED[kind]
    change(llama)
    put(llama, "checkpoint-500/") if kind == "trainer" else None
    with pytest.raises(RequestError, match=what) as caught:
        open_model(str(llama))
    named = caught.value.hint.partition(": ")[2]
    assert Path(named).is_dir()
    assert open_model(named, device="cpu").details["layers"] == 3


@pytest.mark.parametrize("part", ["snapshots", "refs", "blobs"])
def test_a_part_of_a_hub_cache(part: str, llama: Path) -> None:
    cache(llama)
    with pytest.raises(RequestError, match=rf"hub model.*\ngive its snapshot: .*/{COMMIT}$"):
        describe(str(llama / part))


def test_links_into_the_blobs_of_a_hub_cache_are_followed(llama: Path) -> None:
    cache(llama)
    snapshot = llama / "snapshots" / COMMIT
    tensors = load_file(snapshot / "model.safetensors")
    (snapshot / "model.safetensors").unlink()
    names = {}
    for number, part in enumerate(("embed", "norm", "proj", "lm_head")):
        chosen = {name: t for name, t in tensors.items() if part in name and name not in names}
        save_file(chosen, llama / "blobs" / str(number), {"format": "pt"})
        (snapshot / f"model-{number}.safetensors").symlink_to(f"../../blobs/{number}")
        names |= dict.fromkeys(chosen, f"model-{number}.safetensors")
    index = {"metadata": {}, "weight_map": names}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert open_model(str(snapshot), device="cpu").details["warnings"] == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_a_checkpoint(name: str, llama: Path) -> None:
    with pytest.raises(RequestError, match=rf"is a file, but .*\ngive its folder: {llama}$"):
        open_model(str(llama / name))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "~nobody-here/x", "a/" + "y" * 5000])
def test_names_that_are_no_path(name: str) -> None:
    with pytest.raises(RequestError, match=r"^MODEL '") as caught:
        open_model(name)
    assert len(str(caught.value)) < 300
