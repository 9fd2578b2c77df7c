"""PEFT adapters: a folder on its base, and a wrapped model given from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.packages import need
from transformers import AutoModelForCausalLM

import distviz
from distviz.errors import RequestError
from distviz.models.open import describe, open_model

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXT = ["Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away."]
SITES = "gate,act,up,product,down,q,k,v"
IDS = torch.arange(24).view(2, 12)


def adapted(base: Path, **settings: Any) -> Any:
    """Put a LoRA with random weights on a base; it changes what the model computes."""
    peft = need("peft")
    torch.manual_seed(9)
    targets = ["q_proj", "up_proj", "down_proj"]
    lora = {"r": 4, "target_modules": targets, "init_lora_weights": False, "lora_alpha": 16}
    config = peft.LoraConfig(task_type="CAUSAL_LM", **(lora | settings))
    return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()


@pytest.fixture(scope="module")
def saved_adapter(tiny_saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    adapted(tiny_saved).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(saved_adapter: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(saved_adapter, tmp_path / "lora"))


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_adapter_is_measured_on_its_base(adapter: Path, tiny_saved: Path) -> None:
    opened = open_model(str(adapter), device="cpu")
    own = adapted(tiny_saved)
    with torch.no_grad():
        assert torch.equal(opened.model(IDS).logits, own(IDS).logits)
        plain = AutoModelForCausalLM.from_pretrained(tiny_saved)(IDS).logits
    assert not torch.allclose(plain, own(IDS).logits)
    assert opened.name == "lora"
    details = opened.details
    assert details["adapter"] == {"kind": "LORA", "base": str(tiny_saved)}
    assert details["architecture"] == "LlamaForCausalLM"
    assert details["parameters"] == sum(p.numel() for p in own.parameters())
    base = open_model(str(tiny_saved), device="cpu").details
    assert details["fingerprint"] != base["fingerprint"]
    assert (details["source"], base["adapter"]) == (str(adapter), None)
    assert not any(p.requires_grad for p in opened.model.parameters())


def test_names_are_those_of_the_base_and_numbers_those_of_the_merged_model(
    adapter: Path, tiny_saved: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    adapted(tiny_saved).merge_and_unload().save_pretrained(merged)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_saved / name, merged / name)
    settings: dict[str, Any] = {"text": TEXT, "sites": SITES, "device": "cpu", "arm_layers": "0"}
    runs = [distviz.run(str(folder), **settings) for folder in (adapter, merged, tiny_saved)]
    assert runs[0].sketches.keys() == runs[1].sketches.keys() == runs[2].sketches.keys()
    stats = [run.stats().set_index(["layer", "site", "phase"]) for run in runs]
    columns = ["mean", "std", "min", "max", "gini"]
    pd.testing.assert_frame_equal(stats[0][columns], stats[1][columns], rtol=1e-3, atol=1e-4)
    down = (0, "down", "before")
    assert abs(stats[0].loc[down, "std"] / stats[2].loc[down, "std"] - 1) > 0.1


def test_compare_the_base_with_its_adapter(adapter: Path, tiny_saved: Path, call: Any) -> None:
    sides = (tiny_saved, adapter)
    done = call("compare", *sides, "--sites", "act,down", "-o", "c", "--no-figures", "--json")
    assert done.code == 0, done.err
    table = pd.read_csv("c/compare.csv")
    assert (table["layer_a"] == table["layer_b"]).all()
    assert set(table["site"]) == {"act", "down"}
    assert (table.loc[table["site"] == "down", "wasserstein"] > 0).all()


def test_a_base_beside_its_adapter(adapter: Path, tiny_saved: Path) -> None:
    shutil.copytree(tiny_saved, adapter / "base")
    edit_config(adapter, base_model_name_or_path="base")
    assert open_model(str(adapter), device="cpu").details["adapter"]["base"].endswith("/lora/base")
    edit_config(adapter, base_model_name_or_path="../elsewhere")
    shutil.move(adapter / "base", adapter.parent / "elsewhere")
    assert open_model(str(adapter), device="cpu").name == "lora"


def test_a_tokenizer_of_its_own(adapter: Path, tiny_saved: Path) -> None:
    shutil.copy(tiny_saved / "tokenizer.json", adapter)
    own = json.loads((tiny_saved / "tokenizer_config.json").read_text()) | {"model_max_length": 77}
    (adapter / "tokenizer_config.json").write_text(json.dumps(own))
    assert open_model(str(adapter), device="cpu").tokenizer.model_max_length == 77


def test_inspect_an_adapter(adapter: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert describe(str(adapter))[1]["adapter"]["kind"] == "LORA"
    monkeypatch.undo()
    done = call("inspect", adapter)
    assert (done.code, done.err) == (0, "")
    assert "model.layers.0.mlp.up_proj" in done.out


# What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: edit_config(f, base_model_name_or_path=None),
            "does not name its base model\nset base_model_name_or_path",
        ),
        (
            lambda f: edit_config(f, base_model_name_or_path="/no/such/model"),
            r"base of the adapter .* MODEL '/no/such/model' does not exist\ncorrect base_model",
        ),
        (
            lambda f: edit_config(f, base_model_name_or_path="no-such-org/no-such-model"),
            "base of the adapter .* hub cannot be reached",
        ),
        (
            lambda f: edit_config(f, base_model_name_or_path="."),
            "base of the adapter .* is itself an adapter",
        ),
        (
            lambda f: (f / "adapter_model.safetensors").unlink(),
            r"has no weights: adapter_model\.safetensors is missing",
        ),
        (
            lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 50),
            r"adapter_model\.safetensors is damaged",
        ),
        (
            lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
            r"only pickle weights .*\n.*--allow-pickle",
        ),
        (lambda f: (f / "adapter_config.json").write_text("{"), "is not readable JSON"),
        (lambda f: edit_config(f, peft_type="LARO"), "cannot be applied to"),
        (
            lambda f: edit_config(f, target_modules=["no_such_projection"]),
            "cannot be applied to .*no_such_projection|does not fit",
        ),
        (
            lambda f: edit_config(f, r=8),
            r"does not fit .*_proj\.lora_\S+ has another shape in the base \(and \d+ more\)",
        ),
        (
            lambda f: edit_config(f, target_modules=["q_proj"]),
            r"does not fit .*(down|up)_proj\.lora_A\S* is unknown to the base \(and \d+ more\)",
        ),
        (
            lambda f: edit_config(f, target_modules=["q_proj", "k_proj", "up_proj", "down_proj"]),
            r"does not fit .*k_proj\.lora_A\S* is missing from its file \(and \d+ more\)",
        ),
    ],
)
def test_an_adapter_that_is_wrong(adapter: Path, change: Any, message: str, call: Any) -> None:
    change(adapter)
    with pytest.raises(RequestError, match=message):
        open_model(str(adapter), device="cpu")
    done = call("run", adapter, "-o", "out")
    assert (done.code, done.out) == (2, "")
    assert 1 <= len(done.complaint()) <= 2
    assert list(Path.cwd().iterdir()) == []


def test_without_the_package(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"needs the package peft.*\npip install peft"):
        open_model(str(adapter))


def test_prompt_learning_is_refused_in_one_line(tiny_saved: Path, tmp_path: Path) -> None:
    peft = need("peft")
    base = AutoModelForCausalLM.from_pretrained(tiny_saved)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(RequestError, match=r"\(PROMPT_TUNING\) cannot be applied to"):
        open_model(str(tmp_path / "prompt"), device="cpu")


# From Python --------------------------------------------------------------------------------


def test_a_wrapped_model_can_be_watched_under_the_names_of_its_base(tiny_saved: Path) -> None:
    model = adapted(tiny_saved)
    taken: list[torch.Tensor] = []
    act = model.get_submodule("base_model.model.model.layers.1.mlp.act_fn")
    handle = act.register_forward_hook(lambda *args: taken.append(args[2].detach()))
    mask = torch.ones_like(IDS)
    mask[0, 8:] = 0
    with torch.no_grad(), distviz.watch(model, sites="act,q,up") as watched:
        model(input_ids=IDS, attention_mask=mask)
    handle.remove()
    stats = watched.stats().set_index(["layer", "site"])
    assert set(stats["module"]) == {
        f"model.layers.{layer}.{name}"
        for layer in (0, 1)
        for name in ("mlp.act_fn", "mlp.up_proj", "self_attn.q_proj")
    }
    expected = distviz.Sketch().add(taken[0][mask.bool()])
    assert stats.loc[(1, "act"), "count"] == expected.count == 20 * 48
    assert stats.loc[(1, "act"), "std"] == pytest.approx(expected.std(), rel=1e-12)


@pytest.mark.parametrize("how", ["wrapper", "inner", "generate"])
def test_arm_on_a_wrapped_model(how: str, tiny_saved: Path) -> None:
    model = adapted(tiny_saved)
    merged = adapted(tiny_saved).get_base_model()
    arm = distviz.ARM(seed=3)
    with torch.no_grad():
        with distviz.redistribute(merged, arm, layers="all"), distviz.watch(merged) as by_base:
            expected = merged(IDS).logits
        with distviz.redistribute(model, arm, layers="all"), distviz.watch(model) as watched:
            if how == "wrapper":
                assert torch.equal(model(input_ids=IDS).logits, expected)
            elif how == "inner":
                assert torch.equal(model.get_base_model()(IDS).logits, expected)
            else:
                one = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 2}
                model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), **one)
    pd.testing.assert_frame_equal(watched.stats(), by_base.stats())
    assert set(watched.stats()["phase"]) == {"after"}


BASES: list[Any] = [
    "x" * 300, "a/" + "x" * 300, "a\0b", "\x1b[31m", "a\nb", "../nothing", "/nothing/here", ".",
    "~nobody-here/x", " ", "a/b/c", 7, None, "", ["a"], {}, True,
]  # fmt: skip


@pytest.mark.parametrize("base", BASES, ids=lambda base: repr(base)[:20])
def test_a_base_that_cannot_be_opened(
    base: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distviz.models.open.read_model", lambda *_, **__: pytest.fail("read"))
    edit_config(adapter, base_model_name_or_path=base)
    with pytest.raises(RequestError, match=r"adapter|base_model_name_or_path") as caught:
        open_model(str(adapter), device="cpu")
    assert caught.value.hint
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("kind", ["gguf", "file", "empty"])
def test_a_base_of_another_kind(kind: str, adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.mkdir() if kind == "empty" else base.write_bytes(b"GGUF" if kind == "gguf" else b"")
    edit_config(adapter, base_model_name_or_path=str(base))
    with pytest.raises(RequestError, match=r"the base of the adapter .* cannot be opened: "):
        open_model(str(adapter), device="cpu")


def test_the_revision_of_the_base_is_that_of_the_adapter(
    adapter: Path, tiny_saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def snapshot(source: str, **options: Any) -> str:
        asked.append((source, options["revision"]))
        return str(tiny_saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for revision in ("abc", None, 7, ""):
        edit_config(adapter, base_model_name_or_path="org/base", revision=revision)
        open_model(str(adapter), device="cpu")
    assert asked == [("org/base", "abc"), *[("org/base", None)] * 3]


def test_the_hint_for_a_base_is_that_of_its_own_error(adapter: Path, tiny_saved: Path) -> None:
    base = adapter.parent / "pickled"
    base.mkdir()
    shutil.copy(tiny_saved / "config.json", base)
    (base / "pytorch_model.bin").touch()
    edit_config(adapter, base_model_name_or_path=str(base))
    with pytest.raises(RequestError, match="only pickle weights") as caught:
        open_model(str(adapter), device="cpu")
    assert "--allow-pickle" in caught.value.hint


FIELDS: list[tuple[str, Any]] = [
    ("peft_type", "NOTHING"), ("peft_type", None), ("peft_type", ["LORA"]), ("r", "x"), ("r", 0),
    ("r", -1), ("r", 8), ("r", 1e9), ("lora_alpha", "x"), ("lora_alpha", None),
    ("target_modules", 7), ("target_modules", ["nothing"]), ("target_modules", []),
    ("target_modules", "("), ("layers_to_transform", "x"), ("layers_to_transform", [99]),
    ("modules_to_save", ["lm_head"]), ("rank_pattern", {"q_proj": 9}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=repr)
def test_an_adapter_that_contradicts_its_tensors(field: str, value: Any, adapter: Path) -> None:
    edit_config(adapter, **{field: value})
    with pytest.raises(RequestError, match=r"the adapter '") as caught:
        open_model(str(adapter), device="cpu")
    assert "Error:" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.uint8])
def test_a_quantized_adapter(dtype: torch.dtype, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = {name: value.to(dtype) for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(RequestError, match=r"is of type .*, which would be read as plain weights"):
        open_model(str(adapter), device="cpu")


def test_no_code_of_a_pickled_adapter_runs(adapter: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"a": Hostile()}, adapter / "adapter_model.bin")
    for allowed in (False, True):
        with pytest.raises(RequestError, match=r"the adapter '|adapter_model\.bin"):
            open_model(str(adapter), device="cpu", allow_pickle=allowed)
    assert not (tmp_path / "ran").exists()
