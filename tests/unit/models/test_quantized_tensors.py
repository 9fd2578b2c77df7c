"""Quantized checkpoints whose tensors contradict their configuration are refused before reading."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.quantized_checkpoints import (
    TENSOR_CHANGES,
    change_quantization,
    change_tensors,
    decode_blocks,
    write_compressed,
    write_fp8,
    write_plain,
)
from support.tiny_models import edit_config

from distviz.errors import RequestError
from distviz.models.checkpoint import Checkpoint
from distviz.models.open import open_model
from distviz.models.quantized_tensors import check_scales
from distviz.models.safetensors_files import StoredTensor
from distviz.models.tensor_targets import Target, Targets


def _compressed(folder: Path, demo: Path, bits: int) -> Path:
    plain = write_plain(folder.with_name("plain"), demo)
    return write_compressed(plain, folder, demo, bits)


WRITERS: dict[str, Callable[[Path, Path], Path]] = {
    "fp8": write_fp8,
    "fp8 experts": lambda folder, demo: write_fp8(folder, demo, "mixtral"),
    "int8": lambda folder, demo: _compressed(folder, demo, 8),
    "int4": lambda folder, demo: _compressed(folder, demo, 4),
}
CHANGED_CONFIGS: dict[str, Any] = {
    "no quantization": None,
    "a word": "fp8",
    "a list": [1],
    "another method": {"quant_method": "mxfp4"},
    "no method": {"bits": 4},
}
SAVED_BLOCKS: list[Any] = [[64, 128], [128, 64], [256, 256], [128], [0, 128], [-1, 128], None, "x"]


@pytest.fixture(scope="module", params=sorted(WRITERS))
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_folder: Path
) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("quantized") / "tiny", demo_folder)


@pytest.fixture
def folder(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "distviz.models.open.read_model", lambda *_, **__: pytest.fail("weights read")
    )
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def refusal(folder: Path) -> str:
    with pytest.raises(RequestError) as caught:
        open_model(str(folder), device="cpu", needs_tokenizer=False)
    assert caught.value.hint
    assert len(str(caught.value).splitlines()) == 2
    return caught.value.message


@pytest.mark.parametrize("change", TENSOR_CHANGES)
def test_tensors_that_contradict_the_configuration(change: str, folder: Path) -> None:
    change_tensors(folder, TENSOR_CHANGES[change])
    assert ".weight" in refusal(folder) or "model." in refusal(folder)


@pytest.mark.parametrize("change", CHANGED_CONFIGS)
def test_a_configuration_that_contradicts_the_tensors(change: str, folder: Path) -> None:
    edit_config(folder, quantization_config=CHANGED_CONFIGS[change])
    assert refusal(folder)


@pytest.mark.parametrize("block", SAVED_BLOCKS, ids=str)
def test_another_block_size(block: Any, tmp_path: Path, demo_folder: Path) -> None:
    folder = write_fp8(tmp_path / "tiny", demo_folder)
    change_quantization(folder, lambda told: told.update(weight_block_size=block))
    assert "fp8" in refusal(folder) or "scales of" in refusal(folder)


@pytest.mark.parametrize("told", [{"quant_method": "fp8"}, {"quant_method": "mxfp4"}])
def test_plain_weights_that_are_declared_quantized(
    told: dict[str, Any], tmp_path: Path, demo_folder: Path
) -> None:
    folder = write_plain(tmp_path / "tiny", demo_folder)
    edit_config(folder, quantization_config=told)
    assert "all its weights are plain" in refusal(folder)


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_eight_bit_floats_open_as_their_blocks_say(
    kind: str, tmp_path: Path, demo_folder: Path
) -> None:
    folder = write_fp8(tmp_path / "tiny", demo_folder, kind)
    found = open_model(str(folder), device="cpu", needs_tokenizer=False)
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    edit_config(plain, quantization_config=None)
    change_tensors(plain, decode_blocks)
    expected = open_model(str(plain), device="cpu", needs_tokenizer=False)
    assert found.details["warnings"] == expected.details["warnings"] == []
    assert found.details["quantization"] == "fp8"
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(found.model(ids).logits, expected.model(ids).logits)


def test_scales_of_activations_and_of_the_cache_are_noted(
    tmp_path: Path, demo_folder: Path
) -> None:
    folder = write_fp8(tmp_path / "tiny", demo_folder)
    names = ["model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.q_proj.input_scale"]
    change_tensors(folder, lambda t: t.update({name: torch.ones(1) for name in names}))
    (note,) = open_model(str(folder), device="cpu", needs_tokenizer=False).details["warnings"]
    assert note == f"weights not used, unknown to the architecture: {names[0]} and 1 more"


def test_a_pickle_is_checked_like_any_other_file(tmp_path: Path, demo_folder: Path) -> None:
    folder = write_fp8(tmp_path / "tiny", demo_folder)
    change_tensors(folder, TENSOR_CHANGES["one scale of all"])
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"\.weight \(F8_E4M3 in pytorch_model\.bin\) has no"):
        open_model(str(folder), device="cpu", needs_tokenizer=False, allow_pickle=True)


METHODS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "fp8": ({"weight_block_size": None}, {"weight": "F8_E4M3", "weight_scale_inv": "F32"}),
    "compressed-tensors": ({}, {"weight_packed": "I32", "weight_scale": "BF16"}),
    "bitsandbytes": ({}, {"weight": "I8", "SCB": "F32"}),
    "bitsandbytes 4": (
        {"load_in_4bit": True},
        {
            "weight": "U8", "weight.absmax": "U8", "weight.quant_map": "F32",
            "weight.nested_absmax": "F32", "weight.nested_quant_map": "F32",
            "weight.quant_state.bitsandbytes__nf4": "U8",
        },
    ),
    "mxfp4": ({}, {"down_proj_blocks": "U8", "down_proj_scales": "U8"}),
    "metal": ({}, {"weight": "U32", "scales": "F16", "qbiases": "F16"}),
    "sinq": ({}, {"W_q": "U8", "meta": "U8"}),
    "torchao": ({}, {"_weight_qdata": "I8", "_weight_scale": "F32"}),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_needs_its_scales(method: str, tmp_path: Path) -> None:
    told, parts = METHODS[method]
    told = told | {"quant_method": method.partition(" ")[0]}
    file = tmp_path / "model.safetensors"
    shapes = {"F8_E4M3": (4, 4), "F32": (4, 1)}

    def check(kept: dict[str, str]) -> None:
        tensors = {
            name: StoredTensor(file, kind, shapes.get(kind, ()), 1) for name, kind in kept.items()
        }
        checkpoint = Checkpoint(tmp_path, "x", "x", tensors=tensors)
        target = Target(torch.empty(4, 4, device="meta"), True, {name: name for name in tensors})
        check_scales(Targets({"weight": target}, {}), checkpoint, told, dequantizes=True)

    check(parts)
    code, *needed = parts
    for name in needed:
        with pytest.raises(RequestError, match=r"is quantized by .* has no .*\n"):
            check({key: kind for key, kind in parts.items() if key != name})
    if method != "torchao":
        with pytest.raises(RequestError, match="belongs to no quantized weight"):
            check({key: kind for key, kind in parts.items() if key != code})
