"""Every architecture: a tiny random instance is found, seen and changed as the table says.

What is wrong with a type is listed by `battery.examine`; the expectations are computed by
`architectures.capture` from the operations that reach torch's dispatcher.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from support.architectures import battery, tiny

from distviz.models.architectures import load_architectures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TABLE = load_architectures()
STORED = {one["type"]: one for one in TABLE.as_dict()["types"]}
EXCEPTIONS = {
    "dory": "untested",
    "falcon_mamba": "no MLP", "mamba": "no MLP", "mamba2": "no MLP",
    "gemma4_assistant": "untested", "gemma4_unified_assistant": "untested",
}  # fmt: skip
# One of each form beside the causal models, all of which are examined.
OTHERS = (
    "albert", "bros", "canine", "clip", "clvp", "d_fine", "deberta-v2", "distilbert", "dpr",
    "ernie4_5_vl_moe", "esm", "esmc", "flaubert", "fsmt", "gemma4_audio", "glm4v_vision",
    "glpn", "hubert", "idefics2", "levit", "lfm2_vl", "llava", "longt5", "lxmert", "m2m_100",
    "mgp-str", "minimax_m3_vl", "modernbert", "mt5", "nllb-moe", "openai_privacy_filter",
    "pvt_v2", "qwen3_vl_moe", "resnet", "siglip2_vision_model", "siglip_vision_model",
    "step3p7", "swin", "switch_transformers", "t5", "t5gemma2", "umt5", "vit", "wav2vec2",
)  # fmt: skip
TIME_MAJOR = {"fsmt", "xlnet"}
"""Types whose layers return (tokens, batch, channels): padded batches are refused by name."""
same_version = pytest.mark.skipif(
    transformers.__version__ != TABLE.transformers,
    reason=f"the table was made with transformers {TABLE.transformers}",
)


def check(kind: str) -> None:
    needs = STORED.get(kind, {}).get("needs")
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"recorded; needs {needs}, which is not installed")
    examined = battery.examine(kind)
    refused = [line for line in examined.wrong if "return (tokens, batch, channels)" in line]
    assert examined.wrong == refused
    assert bool(refused) is (kind in TIME_MAJOR)
    if transformers.__version__ != TABLE.transformers:
        return
    stored = STORED[kind]
    if examined.row["status"] == "untested":  # what is missing here may say it in other words
        assert stored["status"] == "untested", examined.row["reason"]
        return
    found = json.loads(json.dumps(examined.row))
    assert found == {
        key: list(v) if isinstance(v, tuple) else v for key, v in stored.items() if key in found
    }
    assert not [key for key, value in stored.items() if value and key not in found]


SAMPLE = ("bloom", "deepseek_v3", "gemma3_text", "gpt2", "gpt_oss", "llama", "mamba", "mixtral",
          "openai-gpt", "phi", "qwen3", "qwen3_next")  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.extended] * (kind not in SAMPLE))
        for kind in tiny.CAUSAL
    ],
)
def test_causal_language_models(kind: str) -> None:
    check(kind)


@pytest.mark.extended
@pytest.mark.parametrize("kind", OTHERS)
def test_encoders_encoder_decoders_and_towers(kind: str) -> None:
    check(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in battery.types() if k not in (*tiny.CAUSAL, *OTHERS)])
def test_all_others(kind: str) -> None:
    check(kind)


@same_version
def test_the_table_has_every_type_and_names_its_exceptions() -> None:
    assert list(STORED) == battery.types()
    causal = TABLE.group(causal=True)
    assert [one.type for one in causal] == list(tiny.CAUSAL)
    exceptions = {one.type: one.status for one in causal if one.status != "supported"}
    assert exceptions == EXCEPTIONS
    assert all(one.explanation for one in TABLE.types if one.status != "supported")
    assert not any(one.explanation for one in TABLE.types if one.status == "supported")
    assert {way for one in causal for way in one.found} == {"class", "name", "function", "gate"}


def test_an_examination_finds_wrong_hooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hook that looks at another place, or an ARM that is not written, does not go through."""
    from distviz.hooks import redistribution as hooks
    from distviz.models.architectures import projections

    right = projections.mlp_sites

    def beside(path: str, shape: Any) -> Any:
        for site in right(path, shape):
            yield site._replace(module=shape.up) if site.site == "act" else site

    monkeypatch.setattr("distviz.models.architectures.activations.mlp_sites", beside)
    found = battery.examine("llama").wrong
    assert any("an activation that the model did not compute" in one for one in found), found
    monkeypatch.undo()
    assert battery.examine("llama").wrong == []
    monkeypatch.setattr(hooks.Redistribution, "_written", lambda _self, output, *_: output)
    found = battery.examine("llama").wrong
    for problem in (
        "does not change the activation",
        "does not change the output",
        "differs from ARM by hand",
    ):
        assert any(problem in one for one in found), found


def test_inspect_lists_the_architectures(call: Callable[..., Any]) -> None:
    done = call("inspect", "--architectures")
    assert done.code == 0
    assert "causal language models: 190 of 196 supported" in done.out
    assert "gemma4_assistant" in done.out
    assert "no activation between two linear layers; activations elsewhere: MambaMixer" in " ".join(
        done.out.split()
    )
    found = json.loads(call("inspect", "--architectures", "--json").out)
    assert found["kind"] == "architectures"
    by_type = {one["type"]: one for one in found["types"]}
    assert by_type["gpt_oss"]["found"] == ["gate"]
    assert by_type["lfm2"]["found"] == ["function"]
    assert by_type["bloom"]["found"] == ["name"]
    assert by_type["mixtral"]["routed"] is True
    refused = call("inspect", "llama", "--architectures")
    assert refused.code == 2
    assert "takes no MODEL ('llama')" in refused.err


def test_listing_needs_neither_torch_nor_transformers() -> None:
    import subprocess
    import sys

    code = (
        "import sys, distviz.cli.app as c; sys.argv = ['distviz', 'inspect', '--architectures']\n"
        "try: c.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_module_that_is_called_again_pools_its_calls() -> None:
    """ALBERT has one layer that is called for every layer: its values are counted together."""
    import distviz

    model = tiny.build("albert")
    ids = torch.arange(3, 17).reshape(2, 7)
    calls: list[int] = []
    (mlp,) = distviz.models.architectures.mlp.find_mlps(model)
    act = next(point for point in mlp.points if point.site == "act")
    module = model.get_submodule(act.module)
    handle = module.register_forward_hook(lambda _, __, out: calls.append(out.numel()))
    with torch.no_grad(), distviz.watch(model) as seen:
        model(input_ids=ids)
    handle.remove()
    assert len(calls) == model.config.num_hidden_layers == 2
    assert seen.stats()["count"].tolist() == [sum(calls)]


def test_an_encoder_decoder_is_measured_on_the_same_windows(
    tmp_path: Path, demo_folder: Path
) -> None:
    import distviz

    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = transformers.AutoConfig.for_model(
        "t5", **sizes, vocab_size=2048, decoder_start_token_id=0, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(tmp_path / "t5")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo_folder / name, tmp_path / "t5" / name)
    run = distviz.run(str(tmp_path / "t5"), text=["A dog has 12 apples."], arm_layers="none")
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "t5")("A dog has 12 apples.")
    tokens = torch.tensor(ids["input_ids"])[None]
    acts: list[torch.Tensor] = []
    for module in model.modules():
        if type(module).__name__ == "NewGELUActivation":
            module.register_forward_hook(lambda _, __, out: acts.append(out))
    with torch.no_grad():
        model.eval()(input_ids=tokens, decoder_input_ids=tokens)
    stats = run.stats().sort_values(["stack", "layer"], ascending=[False, True])
    assert stats["stack"].tolist() == ["encoder"] * 2 + ["decoder"] * 2
    assert stats["count"].tolist() == [act.numel() for act in acts]
    assert stats["max"].tolist() == [float(act.max()) for act in acts]
