"""Quantized checkpoints: made by the packages themselves, measured, compared with plain weights."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quantized_checkpoints import unpacked, write_compressed
from support.tiny_models import save_tiny_llama
from transformers import LlamaForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

import distviz
from distviz.errors import RequestError
from distviz.models.open import describe, open_model

TEXT = ["Anna had 12 apples and 3 pears, so she gave 12 - 3 = 9 of them away."]
SITES = "gate,act,up,product,down,q,k,v,attention,residual"


def finish(model: Any, folder: Path, demo: Path) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "tiny"
    return save_tiny_llama(folder, demo_folder, hidden_size=128, intermediate_size=256)


@pytest.fixture(scope="module", params=[8, 4])
def compressed(
    request: pytest.FixtureRequest,
    plain: Path,
    demo_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tiny Llama compressed to 8 bits a channel, or packed to 4 bits in groups of 32."""
    bits = request.param
    folder = tmp_path_factory.mktemp("compressed") / f"int{bits}"
    return write_compressed(plain, folder, demo_folder, bits)


def test_a_compressed_checkpoint_is_measured_as_its_weights_say(
    compressed: Path, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = distviz.run(str(compressed), text=TEXT, sites=SITES, arm_layers="none", device="cpu")
    assert capfd.readouterr() == ("", "")
    model: Any = LlamaForCausalLM.from_pretrained(plain).eval()
    model.load_state_dict(unpacked(compressed, plain))
    opened = open_model(str(compressed), device="cpu")
    ids = torch.tensor([opened.tokenizer(TEXT[0])["input_ids"]])
    with torch.no_grad(), distviz.watch(model, sites=SITES) as watched:
        model(ids)
    expected = watched.run().sketches
    assert run.sketches.keys() == expected.keys()
    assert len(run.sketches) == 2 * len(SITES.split(","))
    for key, by_class in expected.items():
        total, wanted = (sum(s.values(), distviz.Sketch()) for s in (run.sketches[key], by_class))
        assert total.count == wanted.count
        assert total.std() == pytest.approx(wanted.std(), rel=1e-5)
        assert total.quantile(0.9) == pytest.approx(wanted.quantile(0.9), rel=0.01)
    model_of_run = run.manifest["model"]
    assert model_of_run["quantization"] == "compressed-tensors"
    assert model_of_run["parameters"] == sum(p.numel() for p in model.parameters())
    assert model_of_run["intermediate_size"] == 256


def test_arm_on_a_compressed_checkpoint(compressed: Path, call: Any) -> None:
    done = call("run", compressed, "-o", "r", "--quiet", "--no-figures", "--max-tokens", "100")
    assert (done.code, done.out) == (0, "r\n")
    assert done.err.splitlines() == done.complaint()[:1]  # that the text was cut, no bar
    run = distviz.Run.load("r")
    assert run.manifest["effect"]["kl"] > 0
    assert set(run.stats()["phase"]) == {"before", "after", "moved_before", "moved_after"}


def test_a_dtype_that_the_quantizer_overrides_is_reported(compressed: Path) -> None:
    opened = open_model(str(compressed), dtype="bf16", device="cpu")
    notes = [note for note in opened.details["warnings"] if "was requested" in note]
    assert (opened.details["dtype"] == "bfloat16") == (not notes)


@pytest.mark.parametrize(
    "method",
    [
        "bitsandbytes_4bit",
        "bitsandbytes_8bit",
        pytest.param("torchao", marks=pytest.mark.oracle),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_packages_where_they_are_installed(
    method: str, plain: Path, demo_folder: Path, tmp_path: Path
) -> None:
    if method == "torchao":
        pytest.importorskip("torchao")
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        how: Any = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        pytest.importorskip("bitsandbytes")
        from transformers import BitsAndBytesConfig

        four = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
        how = BitsAndBytesConfig(**(four if method.endswith("4bit") else {"load_in_8bit": True}))
    quantized = LlamaForCausalLM.from_pretrained(
        plain, quantization_config=how, device_map={"": "cpu"}, dtype=torch.float32
    )
    folder = finish(quantized, tmp_path / "quantized", demo_folder)
    run = distviz.run(str(folder), text=TEXT, sites=SITES, device="cpu")
    reference = distviz.run(str(plain), text=TEXT, sites=SITES, device="cpu")
    assert run.sketches.keys() == reference.sketches.keys()
    ratio = run.stats()["std"] / reference.stats()["std"]
    assert ratio.between(0.8, 1.25).all()
    assert run.manifest["model"]["quantization"] == method.partition("_")[0]
    assert run.manifest["model"]["parameters"] == reference.manifest["model"]["parameters"]


# What is not installed ----------------------------------------------------------------------


def quantize_in_name(folder: Path, told: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": told}))


@pytest.mark.parametrize(
    ("told", "absent", "command"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "optimum", "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel", "gptqmodel"),
        ({"quant_method": "torchao", "quant_type": "int8"}, "torchao", "torchao"),
        ({"quant_method": "quanto", "weights": "int8"}, "optimum", "optimum-quanto"),
        ({"quant_method": "aqlm"}, "aqlm", "aqlm"),
        ({"quant_method": "auto-round", "bits": 4}, "auto_round", "auto-round"),
    ],
)
def test_a_package_that_is_absent_is_named_with_its_command(
    told: dict[str, Any], absent: str, command: str, tiny_llama: Path, call: Any
) -> None:
    if importlib.util.find_spec(absent) is not None:
        pytest.skip(f"{absent} is installed")
    quantize_in_name(tiny_llama, told)
    done = call("run", tiny_llama, "-o", "out")
    message, hint = done.complaint()
    assert done.code == 2
    assert "is quantized by" in message
    assert "pip install" in hint
    assert command in hint
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("method", sorted(AUTO_QUANTIZATION_CONFIG_MAPPING))
def test_no_method_of_transformers_ends_in_anything_but_a_plain_error(
    method: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {"quant_method": method}
    if method.startswith("bitsandbytes"):
        told = {f"load_in_{method[-4:]}": True, "quant_method": "bitsandbytes"}
    quantize_in_name(tiny_llama, told)

    def stop(*_: Any, **__: Any) -> None:
        raise RequestError("quantized by a method for which the environment is fit")

    monkeypatch.setattr("distviz.models.open.read_model", stop)
    with pytest.raises(RequestError, match="quantized by") as caught:
        open_model(str(tiny_llama), device="cpu")
    assert len(str(caught.value).splitlines()) <= 2


def test_an_unknown_method(tiny_llama: Path) -> None:
    quantize_in_name(tiny_llama, {"quant_method": "gptk"})
    with pytest.raises(RequestError, match=r"'gptk', unknown .*did you mean 'gptq'.*\nknown are"):
        open_model(str(tiny_llama))
    quantize_in_name(tiny_llama, {"bits": 4})
    with pytest.raises(RequestError, match="is quantized by '', unknown"):
        open_model(str(tiny_llama))


def test_inspect_needs_no_package(tiny_llama: Path) -> None:
    quantize_in_name(tiny_llama, {"quant_method": "aqlm"})
    assert describe(str(tiny_llama))[1]["quantization"] == "aqlm"
