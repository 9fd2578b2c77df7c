"""Finding checkpoints: folders, hub ids and files, and their fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import edit_config

from distviz.errors import RequestError
from distviz.models.checkpoint import fingerprint, has_tokenizer, locate, refuse_opened
from distviz.models.open import describe, open_model


def test_fingerprint_follows_configuration_name_and_weights(tmp_path: Path) -> None:
    first = tmp_path / "model.safetensors"
    weights = {"w": torch.zeros(3 << 19, dtype=torch.float32)}
    save_file(weights, first)
    base = fingerprint("{}", [first])
    assert base == fingerprint("{}", [first])
    seen = {base, fingerprint("{ }", [first]), fingerprint("{}")}
    for index in (0, slice(3 << 18, (3 << 18) + (1 << 13)), -1):
        weights["w"][index] = 1
        save_file(weights, first)
        seen.add(fingerprint("{}", [first]))
        weights["w"][index] = 0
    renamed = first.rename(tmp_path / "other.safetensors")
    seen.add(fingerprint("{}", [renamed]))
    assert len(seen) == 7


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-model", r"MODEL 'no-such-model' does not exist\ngive a folder"),
        ("dir/x.gguf", r"MODEL 'dir/x.gguf' does not exist"),
        ("no-such-org/no-such-model", r"hub cannot be reached .*\ngive a local folder"),
    ],
)
def test_a_model_that_is_not_there(
    source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=message):
        open_model(source)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RepositoryNotFoundError", "neither a local folder nor a model on the hub"),
        ("GatedRepoError", "is gated on the hub"),
        ("ConnectError", r"the hub cannot be reached \(ConnectError\)"),
    ],
)
def test_answers_of_the_hub_become_plain_errors(
    kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise type(kind, (Exception,), {})

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(RequestError, match=message):
        locate("org/name")


def test_a_hub_model_opens_from_its_snapshot(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot(source: str, **options: Any) -> str:
        asked.update(options, source=source)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    opened = open_model("org/name", revision="v2")
    assert (asked["source"], asked["revision"]) == ("org/name", "v2")
    assert "*.safetensors" in asked["allow_patterns"]
    assert (opened.name, opened.details["source"]) == ("name", "org/name")
    assert opened.details["revision"] == saved.name
    describe("org/name")
    assert "*.safetensors" not in asked["allow_patterns"]


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is not a checkpoint: it has no config\.json"):
        open_model(str(tmp_path))
    (tmp_path / "weights.gguf").touch()
    with pytest.raises(RequestError, match=r"it contains weights\.gguf: give that file"):
        open_model(str(tmp_path))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(RequestError, match=r"is a file, but not a \.gguf"):
        open_model(str(tmp_path / "notes.txt"))


def test_no_weights(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="has no weights"):
        open_model(str(llama))


def test_pickle_weights_are_refused_unless_allowed(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    torch.save(state, llama / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"only pickle weights \(pytorch_mod.*\n.*allow-pickle"):
        open_model(str(llama))
    opened = open_model(str(llama), allow_pickle=True)
    assert torch.equal(opened.model.state_dict()["lm_head.weight"], state["lm_head.weight"])
    (llama / "pytorch_model.bin").rename(llama / "consolidated.pt")
    with pytest.raises(RequestError, match="under names that transformers does not read"):
        open_model(str(llama), allow_pickle=True)


def test_quantization_may_be_declared_by_the_text_part(saved: Path, llama: Path) -> None:
    assert not locate(str(saved)).is_quantized
    edit_config(llama, text_config={"quantization_config": {"quant_method": "gptq"}})
    assert locate(str(llama)).is_quantized


def test_a_tokenizer_is_recognized_by_its_files(llama: Path) -> None:
    assert has_tokenizer(locate(str(llama)))
    for file in llama.glob("tokenizer*"):
        file.unlink()
    assert not has_tokenizer(locate(str(llama)))
    (llama / "vocab.json").touch()
    assert has_tokenizer(locate(str(llama)))


def test_only_names_and_paths_are_accepted() -> None:
    refuse_opened("demo", "run")
    refuse_opened(Path("demo"), "run")
    with pytest.raises(RequestError, match=r"distviz\.run loads .* given a Linear\n.*watch"):
        refuse_opened(torch.nn.Linear(1, 1), "run")


@pytest.mark.parametrize(("source", "name"), [("demo", "embedded demo"), (".", "a local folder")])
def test_a_revision_of_a_local_model_is_refused(source: str, name: str, tmp_path: Path) -> None:
    given = source if source == "demo" else str(tmp_path)
    with pytest.raises(
        RequestError, match=rf"--revision 'main' has no effect on .*{name}"
    ) as caught:
        locate(given, revision="main")
    assert "hub id" in caught.value.hint


def test_a_revision_of_a_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(RequestError, match=r"has no effect on .*, a local file"):
        locate(str(tmp_path / "x.gguf"), revision="main")
