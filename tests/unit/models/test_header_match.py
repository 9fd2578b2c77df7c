"""A checkpoint is matched with its model before a weight is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quantized_checkpoints import change_tensors, encode_blocks, write_plain
from transformers import LlamaConfig

from distviz.errors import RequestError
from distviz.models.checkpoint import locate
from distviz.models.header_match import match_headers, read_pickled
from distviz.models.loading import LoadOptions, choose_class
from distviz.models.open import open_model


def test_matching_reads_no_weights_and_has_the_dtypes_of_the_loaded_model(saved: Path) -> None:
    checkpoint = locate(str(saved))
    options = LoadOptions(None, torch.device("cpu"), None, None, False)
    config = LlamaConfig.from_pretrained(saved)
    auto, _ = choose_class(config, checkpoint)
    model, notes = match_headers(auto, checkpoint, config, options)
    loaded = open_model(str(saved), needs_tokenizer=False).model
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert notes == []
    expected = {name: (value.shape, value.dtype) for name, value in loaded.named_parameters()}
    found = {name: (value.shape, value.dtype) for name, value in model.named_parameters()}
    assert found == expected


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_codes_without_a_quantization_are_refused_also_where_they_are_merged(
    kind: str, tmp_path: Path, demo_folder: Path
) -> None:
    folder = write_plain(tmp_path / "tiny", demo_folder, kind)
    change_tensors(folder, encode_blocks)
    change_tensors(folder, lambda t: [t.pop(name) for name in list(t) if name.endswith("_inv")])
    with pytest.raises(RequestError, match=r"is of type F8_E4M3, and config\.json declares no"):
        open_model(str(folder), device="cpu", needs_tokenizer=False)


def test_tensors_of_a_pickle_are_known_without_values(tmp_path: Path) -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float8_e4m3fn)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    found = read_pickled([tmp_path / "pytorch_model.bin"])
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F8_E4M3", (4,)),
    }


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


PICKLES: dict[str, Callable[[Path], Any]] = {
    "code": lambda path: torch.save({"a": Hostile()}, path),
    "a list": lambda path: torch.save([torch.zeros(2)], path),
    "numbers for names": lambda path: torch.save({1: torch.zeros(2)}, path),
    "text": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
    "nothing": lambda path: path.touch(),
    "half": lambda path: (
        torch.save({"a": torch.zeros(2000)}, path),
        path.write_bytes(path.read_bytes()[:-3000]),
    ),
}


@pytest.mark.parametrize("write", PICKLES)
def test_a_pickle_that_is_no_dict_of_tensors(
    write: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (llama / "model.safetensors").unlink()
    PICKLES[write](llama / "pytorch_model.bin")
    with pytest.raises(
        RequestError, match=r"pytorch_model\.bin (cannot be read|holds a)"
    ) as caught:
        open_model(str(llama), allow_pickle=True)
    assert len(str(caught.value).splitlines()) == 2
    assert not Path("ran").exists()
