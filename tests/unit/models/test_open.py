"""Opening models: what is right comes back whole, what is wrong is one plain error beforehand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_models import SMALLEST
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5Model,
)

from distviz.errors import RequestError
from distviz.models import checkpoint as checkpoints
from distviz.models.checkpoint import locate
from distviz.models.open import describe, open_model

# What opens ---------------------------------------------------------------------------------


def test_importing_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, distviz.models.open; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_folder_opens_ready_to_measure(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened = open_model(str(saved), device="cpu")
    assert opened.name == "tiny-llama"
    assert opened.has_head
    assert opened.layer_settings is None
    assert opened.tokenizer("a b a")["input_ids"] == [0, 1, 0]
    assert not opened.model.training
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())
    assert [mlp.path for mlp in opened.mlps] == [f"model.layers.{index}.mlp" for index in range(3)]
    known = {
        "source": str(saved), "architecture": "LlamaForCausalLM", "model_type": "llama",
        "activation": "SiLU", "layers": 3, "hidden_size": 16, "intermediate_size": 24,
        "dtype": "bfloat16", "device": "cpu", "revision": None, "warnings": [],
    }  # fmt: skip
    assert {key: opened.details[key] for key in known} == known
    assert opened.details["parameters"] == sum(
        tensor.numel() for tensor in load_file(saved / "model.safetensors").values()
    )
    assert opened.details["fingerprint"].startswith("sha256:")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("asked", "got"), [("fp32", "float32"), ("bf16", "bfloat16"), ("float16", "float16")]
)
def test_dtype_can_be_chosen(saved: Path, asked: str, got: str) -> None:
    opened = open_model(str(saved), dtype=asked, needs_tokenizer=False)
    assert opened.details["dtype"] == got
    assert opened.tokenizer is None


def test_weights_are_those_of_the_file(saved: Path) -> None:
    state = open_model(str(saved), needs_tokenizer=False).model.state_dict()
    for name, tensor in load_file(saved / "model.safetensors").items():
        assert torch.equal(state[name], tensor)


def test_a_sharded_checkpoint_opens(tmp_path: Path, saved: Path) -> None:
    LlamaForCausalLM.from_pretrained(saved).save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(locate(str(tmp_path)).weights) > 1
    assert open_model(str(tmp_path), needs_tokenizer=False).details["layers"] == 3


def test_an_encoder_opens_without_a_head(tmp_path: Path) -> None:
    BertModel(BertConfig(**SMALLEST)).save_pretrained(tmp_path)
    opened = open_model(str(tmp_path), needs_tokenizer=False)
    assert opened.details["architecture"] == "BertModel"
    assert not opened.has_head
    assert {mlp.stack for mlp in opened.mlps} == {"encoder"}


def test_an_encoder_decoder_opens(tmp_path: Path) -> None:
    config = T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=32)
    T5Model(config).save_pretrained(tmp_path)
    opened = open_model(str(tmp_path), needs_tokenizer=False)
    assert {mlp.stack for mlp in opened.mlps} == {"encoder", "decoder"}
    assert (opened.details["hidden_size"], opened.details["intermediate_size"]) == (16, 24)


def test_describe_reads_no_weights(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    model, details = describe(str(llama))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (details["architecture"], details["layers"]) == ("LlamaForCausalLM", 3)
    assert (details["device"], details["fingerprint"]) == ("meta", None)


@pytest.mark.skipif(
    not (Path(checkpoints.__file__).parents[1] / "demo" / "model.safetensors").is_file(),
    reason="the demo model is not trained yet",
)
def test_nothing_means_the_embedded_demo() -> None:
    opened = open_model(None)
    assert (opened.name, opened.details["source"]) == ("demo", "demo")
    assert opened.tokenizer is not None
    assert describe(None)[1]["architecture"] == opened.details["architecture"]


# What is refused ----------------------------------------------------------------------------


def test_no_tokenizer(llama: Path) -> None:
    for file in llama.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(RequestError, match=r"has no tokenizer\ncopy the tokenizer's files"):
        open_model(str(llama))
    assert open_model(str(llama), needs_tokenizer=False).tokenizer is None


def test_an_architecture_without_mlps(tmp_path: Path) -> None:
    config = MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, vocab_size=32)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="no MLP activation found in MambaForCausalLM"):
        open_model(str(tmp_path), needs_tokenizer=False)


def test_rope_is_known_from_the_configuration() -> None:
    from transformers import BertConfig

    from distviz.models.open import describe, has_rope

    assert describe(None)[1]["rope"] is True  # the demo, a Llama
    assert has_rope(LlamaConfig())
    assert not has_rope(GPT2Config())
    assert not has_rope(BertConfig())
