"""Where a folder holds several sets of weights, the one that is read is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import distviz
from distviz.models.checkpoint import locate
from distviz.models.open import open_model

INDEX = "model.safetensors.index.json"


def shard(folder: Path) -> None:
    """Write the weights again in two shards with an index; the single file stays."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for part in set(parts.values()):
        chosen = {name: tensors[name] for name in names if parts[name] == part}
        save_file(chosen, folder / part, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": parts}))


def zeros(*names: str) -> Callable[[Path], Any]:
    """Further weights, of zeros."""

    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            empty = {key: torch.zeros_like(value) for key, value in tensors.items()}
            save_file(empty, folder / name, {"format": "pt"})

    return write


SETS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "shards beside a single file": (
        shard,
        "model.safetensors is read, model-00001-of-00002.safetensors and 2 more ignored",
    ),
    "a pickle": (zeros("pytorch_model.bin"), "pytorch_model.bin ignored"),
    "consolidated": (zeros("consolidated.safetensors"), "consolidated.safetensors ignored"),
    "original": (zeros("original/consolidated.00.pth"), "original/consolidated.00.pth ignored"),
    "a variant": (zeros("model.fp16.safetensors"), "model.fp16.safetensors ignored"),
    "an index without shards": (
        lambda folder: (folder / INDEX).write_text("{}"), f"{INDEX} ignored",
    ),
    "a gguf": (zeros("x.gguf"), "x.gguf ignored"),
    "leftover shards": (
        lambda folder: (
            shard(folder),
            zeros("model-00003-of-00003.safetensors")(folder),
            (folder / "model.safetensors").unlink(),
        ),
        "model-00001-of-00002.safetensors and 1 more is read, model-00003-of-00003.safetensors ig",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SETS)
def test_what_is_read_and_what_is_ignored(kind: str, llama: Path) -> None:
    expected = open_model(str(llama), device="cpu").model.state_dict()
    change, note = SETS[kind]
    change(llama)
    opened = open_model(str(llama), device="cpu")
    (warning,) = opened.details["warnings"]
    assert warning.startswith("several sets of weights: ")
    assert note in warning
    found = opened.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_warning_is_in_the_run(llama: Path) -> None:
    zeros("consolidated.safetensors")(llama)
    run = distviz.run(str(llama), text=["a b a"], device="cpu")
    assert any("consolidated.safetensors ignored" in line for line in run.manifest["warnings"])


def test_files_of_a_trainer_are_no_weights(llama: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state_0.pth"):
        (llama / name).touch()
    assert locate(str(llama)).notes == ()
