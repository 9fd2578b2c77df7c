"""Opening models: what is right comes back whole, what is wrong is one plain error beforehand."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

from distviz.errors import RequestError
from distviz.models import checkpoint as checkpoints
from distviz.models.checkpoint import fingerprint, locate
from distviz.models.loading import parse_device
from distviz.models.open import describe, open_model
from distviz.settings import LayerSettings

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 32,
}


def write_tokenizer(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny Llama with a tokenizer; bfloat16 by its own configuration."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(1)
    config = LlamaConfig(**SIZES, num_key_value_heads=1, pad_token_id=0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture
def llama(saved: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


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
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
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


def test_a_missing_pooler_is_noted(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    opened = open_model(str(tmp_path), needs_tokenizer=False)
    (note,) = opened.details["warnings"]
    assert note.startswith("weights missing, random instead (not measured): pooler.dense.bias")


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert open_model(str(tmp_path), needs_tokenizer=False).has_head


def test_describe_reads_no_weights(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    model, details = describe(str(llama))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (details["architecture"], details["layers"]) == ("LlamaForCausalLM", 3)
    assert (details["device"], details["fingerprint"]) == ("meta", None)


def test_transformers_logging_is_left_as_it_was(saved: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    open_model(str(saved), needs_tokenizer=False)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.skipif(
    not (Path(checkpoints.__file__).parents[1] / "demo" / "model.safetensors").is_file(),
    reason="the demo model is not trained yet",
)
def test_nothing_means_the_embedded_demo() -> None:
    opened = open_model(None)
    assert (opened.name, opened.details["source"]) == ("demo", "demo")
    assert opened.tokenizer is not None
    assert describe(None)[1]["architecture"] == opened.details["architecture"]


# The fingerprint ----------------------------------------------------------------------------


def test_fingerprint_follows_configuration_name_and_both_ends(tmp_path: Path) -> None:
    first = tmp_path / "model.safetensors"
    weights = {"w": torch.zeros(3 << 19, dtype=torch.float32)}
    save_file(weights, first)
    base = fingerprint("{}", [first])
    assert base == fingerprint("{}", [first])
    seen = {base, fingerprint("{ }", [first]), fingerprint("{}")}
    for index in (0, -1):
        weights["w"][index] = 1
        save_file(weights, first)
        seen.add(fingerprint("{}", [first]))
        weights["w"][index] = 0
    renamed = first.rename(tmp_path / "other.safetensors")
    seen.add(fingerprint("{}", [renamed]))
    assert len(seen) == 6


# What is refused ----------------------------------------------------------------------------


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
        ("RepositoryNotFoundError", "neither a folder here nor a model on the hub"),
        ("GatedRepoError", "is gated on the hub"),
        ("ConnectError", r"the hub cannot be reached \(ConnectError\)"),
    ],
)
def test_what_the_hub_answers_is_said_plainly(
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
    with pytest.raises(RequestError, match=r"it holds weights\.gguf: give that file"):
        open_model(str(tmp_path))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(RequestError, match=r"is a file, but not a \.gguf"):
        open_model(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", "not a JSON object"),
        ("{}", r"is not a transformers checkpoint\nits config\.json has no model_type"),
        ('{"model_type": "lama"}', r"unknown to transformers \(did you mean '.*lama'\?\)"),
        (
            '{"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}}',
            r"needs code that comes with the checkpoint\n.*--trust-remote-code",
        ),
        (
            '{"model_type": "llama", "hidden_size": "wide"}',
            "the configuration of .* cannot be read",
        ),
    ],
)
def test_a_configuration_that_is_wrong(llama: Path, text: str, message: str) -> None:
    (llama / "config.json").write_text(text)
    with pytest.raises(RequestError, match=message):
        open_model(str(llama))


def test_no_tokenizer(llama: Path) -> None:
    for file in llama.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(RequestError, match=r"has no tokenizer\ncopy the tokenizer's files"):
        open_model(str(llama))
    assert open_model(str(llama), needs_tokenizer=False).tokenizer is None


def test_a_damaged_tokenizer(llama: Path) -> None:
    (llama / "tokenizer.json").write_text("{")
    with pytest.raises(RequestError, match=r"the tokenizer of .* cannot be read"):
        open_model(str(llama))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], r"model\.safetensors is damaged: truncated: [\d,]+ bytes where"),
        (lambda data: data + b"\0", "is damaged: longer than its header says"),
        (lambda data: data[:4], "its header does not fit into its 4 bytes"),
        (lambda data: struct.pack("<Q", 1 << 60) + data[8:], "its header does not fit"),
        (lambda data: data[:8] + b"\xff" + data[9:], "its header is not the JSON of a safetensors"),
        (lambda _: b"", "its header does not fit into its 0 bytes"),
    ],
)
def test_damaged_safetensors(llama: Path, damage: Any, message: str) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RequestError, match=message):
        open_model(str(llama))


def test_a_missing_shard(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match=r"1 of 2 weights files .* first: model-2\.safetensors"):
        open_model(str(llama))
    (llama / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(RequestError, match="is damaged: it has no weight_map"):
        open_model(str(llama))


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


def test_missing_weights_are_never_filled_with_random_numbers(llama: Path) -> None:
    path = llama / "model.safetensors"
    state = load_file(path)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"weights missing: .*layers\.1\.mlp\.up_proj\.weight"):
        open_model(str(llama))


def test_weights_of_other_sizes(llama: Path) -> None:
    edit_config(llama, intermediate_size=28)
    with pytest.raises(RequestError, match=r"down_proj\.weight is 16×24 .*, 16×28 expected"):
        open_model(str(llama))


def test_an_architecture_without_mlps(tmp_path: Path) -> None:
    config = MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, vocab_size=32)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="no MLP activation found in MambaForCausalLM"):
        open_model(str(tmp_path), needs_tokenizer=False)


def test_unknown_dtype_and_device(saved: Path) -> None:
    with pytest.raises(RequestError, match=r"unknown dtype 'float23' \(did you mean 'float32'"):
        open_model(str(saved), dtype="float23")
    for device in ("cuda:77", "gpu", "meta"):
        with pytest.raises(
            RequestError, match=f"device '{device}' is not available\nhere are: cpu"
        ):
            open_model(str(saved), device=device)
    assert parse_device("cpu") == torch.device("cpu")


def test_unknown_attention_implementation(saved: Path) -> None:
    with pytest.raises(RequestError, match="cannot"):
        open_model(str(saved), attn_implementation="fast", needs_tokenizer=False)


# GGUF ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a one-layer Llama as a GGUF, with tensors of several types and a word list."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>", "\u2581a", "\u2581b", "a", "b", "\u2581"]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 8)
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1])
    shapes = {
        "token_embd": (8, 32), "output_norm": (32,), "output": (8, 32),
        "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator).numpy()
        if "ffn" in name and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_opens_as_float32(gguf_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened = open_model(str(gguf_file))
    assert (opened.name, opened.has_head) == ("tiny.Q8_0", True)
    assert opened.details["dtype"] == "float32"
    assert opened.details["intermediate_size"] == 64
    assert len(opened.tokenizer("a b")["input_ids"]) >= 2
    assert capfd.readouterr() == ("", "")
    half = open_model(str(gguf_file), dtype="bf16", needs_tokenizer=False)
    assert half.details["dtype"] == "bfloat16"
    _, details = describe(str(gguf_file))
    assert (details["layers"], details["device"]) == (1, "meta")


def test_layers_can_be_taken_from_a_gguf(gguf_file: Path) -> None:
    whole = open_model(str(gguf_file), needs_tokenizer=False).model
    opened = open_model(None, layer=LayerSettings(weights=str(gguf_file)))
    taken = opened.model.layers[0].mlp.up_proj.weight
    assert torch.equal(taken, whole.model.layers[0].mlp.up_proj.weight)
    assert opened.name == "tiny.Q8_0-layer0"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-100], "is damaged: truncated: .* bytes where .* are expected"),
        (lambda data: data[:60], "its header cannot be read as GGUF"),
        (lambda _: b"GGUF" + b"\xff" * 64, "its header cannot be read as GGUF"),
        (lambda _: b"", "its header cannot be read as GGUF"),
        (lambda _: b"not a model" * 9, "its header cannot be read as GGUF"),
    ],
)
def test_a_damaged_gguf(gguf_file: Path, tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(damage(gguf_file.read_bytes()))
    with pytest.raises(RequestError, match=message):
        open_model(str(path))


def test_a_gguf_without_the_package(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"needs the package gguf.*\npip install gguf"):
        open_model(str(gguf_file))


# Built layers -------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "heads": 4, "kv_heads": 2}


@pytest.mark.parametrize(
    ("architecture", "activation", "named"),
    [("llama", "silu", "SiLU"), ("gemma2", "relu", "ReLU"), ("gpt2", "gelu", "GELU"),
     ("phi3", "silu", "SiLU"), ("bert", "relu", "ReLU"), ("opt", "relu", "ReLU")],
)  # fmt: skip
def test_layers_are_built_as_described(architecture: str, activation: str, named: str) -> None:
    config = {"word_embed_proj_dim": 16} if architecture == "opt" else {}
    settings = LayerSettings(
        architecture=architecture, activation=activation, layers=2, config=config, **SMALL
    )
    opened = open_model(None, layer=settings)
    assert opened.name == f"{architecture}-2x16"
    assert opened.layer_settings is settings
    assert (opened.has_head, opened.tokenizer) == (False, None)
    assert [mlp.activation for mlp in opened.mlps] == [named, named]
    kept = [opened.details[key] for key in ("layers", "hidden_size", "intermediate_size", "dtype")]
    assert kept == [2, 16, 24, "float32"]
    with torch.no_grad():
        out = opened.model(inputs_embeds=torch.randn(2, 5, 16)).last_hidden_state
    assert out.shape == (2, 5, 16)
    assert out.isfinite().all()


def test_the_seed_decides_the_weights_and_disturbs_nothing() -> None:
    def weights(seed: int, dtype: str = "auto") -> torch.Tensor:
        opened = open_model(None, layer=LayerSettings(seed=seed, **SMALL), dtype=dtype)
        return opened.model.layers[0].mlp.up_proj.weight

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = weights(0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))
    assert torch.equal(first.bfloat16(), weights(0, "bf16"))
    assert 0.01 < first.std() < 0.03


def test_layers_can_be_taken_from_a_checkpoint(saved: Path) -> None:
    settings = LayerSettings(weights=str(saved), weights_layers=[2, 0], input="tokens")
    opened = open_model(None, layer=settings)
    state = load_file(saved / "model.safetensors")
    for index, source in enumerate((2, 0)):
        layer = opened.model.layers[index]
        expected = state[f"model.layers.{source}.mlp.down_proj.weight"]
        assert torch.equal(layer.mlp.down_proj.weight, expected)
        assert layer.self_attn.layer_idx == index
    assert (opened.name, opened.details["layers"]) == ("tiny-llama-layer2+0", 2)
    assert (opened.details["hidden_size"], opened.has_head) == (16, False)
    with torch.no_grad():
        opened.model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True)
    _, details = describe(None, layer=settings)
    assert (details["layers"], details["architecture"]) == (2, "LlamaModel")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "lama"}, r"unknown architecture 'lama' \(did you mean 'llama'"),
        ({"architecture": "t5"}, "layers of 't5' cannot be built alone"),
        (
            {"activation": "gelo"},
            r"unknown activation 'gelo' \(did you mean 'gelu'\?\)\nallowed: g",
        ),
        ({"config": {"rope_thta": 1}}, "'llama' has no configuration field 'rope_thta'"),
        ({"weights": "no-such-file"}, "MODEL 'no-such-file' does not exist"),
        ({"architecture": "mamba"}, "architecture 'mamba' has no setting for"),
    ],
)
def test_settings_that_cannot_be_built(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_model(None, layer=LayerSettings(**(SMALL | fields)))


def test_a_layer_that_the_checkpoint_lacks(saved: Path) -> None:
    with pytest.raises(RequestError, match=r"layer 3 does not exist\n.* has 3 layers, 0 to 2"):
        open_model(None, layer=LayerSettings(weights=str(saved), weights_layers=[3]))


def test_describe_builds_layers_on_the_meta_device() -> None:
    model, details = describe(None, layer=LayerSettings())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (details["hidden_size"], details["device"]) == (576, "meta")


def test_rope_is_known_from_the_configuration() -> None:
    from transformers import BertConfig, GPT2Config, LlamaConfig

    from distviz.models.open import describe, has_rope

    assert describe(None)[1]["rope"] is True  # the demo, a Llama
    assert has_rope(LlamaConfig())
    assert not has_rope(GPT2Config())
    assert not has_rope(BertConfig())
