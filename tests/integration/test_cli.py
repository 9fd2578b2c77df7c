"""The command line: standard output and error, exit codes, and no files after an error."""

from __future__ import annotations

import importlib
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.brute_force import assert_stats, eps_of, keeping, raw
from support.commands import HEAVY, process
from support.texts import TEXTS
from support.tiny_models import save_tiny_llama
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from typer.testing import CliRunner

import distviz
from distviz.cli import app as cli
from distviz.data.corpus import random_corpus
from distviz.results.run import Run

ESCAPE = re.compile(r"\x1b\[")
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "short.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_run: Run) -> Path:
    """A run folder without figures; not to be changed."""
    return demo_run.save(tmp_path_factory.mktemp("runs") / "demo")


def nothing_here() -> list[str]:
    return sorted(str(path) for path in Path.cwd().rglob("*"))


# run ----------------------------------------------------------------------------------------


def test_run_writes_a_complete_folder(call: Any, text_file: Path) -> None:
    done = call(
        "run", "--text", text_file, "--out", "a/run", "--max-length", "32", "--layers", "0-1"
    )
    assert done.code == 0
    run = Run.load("a/run")
    expected = distviz.run(text=[text_file], max_length=32, layers="0-1")
    assert run.sketches == expected.sketches
    assert {path.name for path in Path("a/run").iterdir()} == {
        "run.json", "stats.csv", "histograms.csv", "plans.csv", "classes.csv", "figures",
        "documents.parquet", "channels.parquet", "counts.parquet", "documents.jsonl",
        "extremes.csv", "token_groups.parquet",
    }  # fmt: skip
    figures = {path.name for path in Path("a/run/figures").iterdir()}
    assert figures == {
        "layer_000_act.png", "layer_001_act.png", "overview.png", "token_classes.png",
        "token_roles.png", "token_positions.png", "channels.png",
    }  # fmt: skip
    for figure in Path("a/run/figures").iterdir():
        assert figure.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in Path("a").iterdir()] == ["run"]
    # one table by layer, a histogram in blocks, the effect, and where the files are
    assert done.out.rstrip().endswith("a/run")
    assert "near-0" in done.out
    assert "█" in done.out
    assert "KL" in done.out
    assert "measuring" in done.err


def test_the_default_folder(call: Any, text_file: Path, tiny_llama: Path) -> None:
    for model, name in ((None, "demo"), (tiny_llama, "tiny-llama")):
        args = [] if model is None else [model]
        done = call("run", *args, "--text", text_file, "--no-figures", "--quiet")
        assert done.code == 0
        place = Path(done.out.strip())
        assert place.parent == Path("runs")
        assert re.fullmatch(rf"{name}-\d{{8}}-\d{{6}}", place.name)
        assert Run.load(place).manifest["model"]["name"] == name
        assert not (place / "figures").exists()


def test_flags_reach_the_measurement(call: Any, text_file: Path) -> None:
    flags = {
        "--layers": "0,2-3", "--sites": "down,act", "--arm-layers": "1,2", "--c": "0.3",
        "--p1": "90", "--p-min": "0.1", "--p-max": "0.4", "--arm-mode": "add",
        "--percentile-of": "magnitude",
        "--passes": "2", "--max-length": "24", "--max-tokens": "60", "--batch-size": "2",
        "--dtype": "fp32", "--device": "cpu", "--seed": "5", "--classes": "all", "--threads": "1",
    }  # fmt: skip
    before = torch.get_num_threads()
    flat = [part for pair in flags.items() for part in pair]
    done = call(
        "run", "--text", text_file, "-o", "r", "--no-figures", "--quiet", "--skip-special",
        "--no-keep-text", *flat,
    )  # fmt: skip
    torch.set_num_threads(before)
    assert (done.code, done.out, done.complaint()[1:]) == (0, "r\n", [])
    run = Run.load("r")
    settings = run.manifest["settings"]
    for name, value in flags.items():
        assert str(settings[name[2:].replace("-", "_")]) in (value, f"{value}.0", f"{value}")
    assert (settings["skip_special"], settings["keep_text"]) == (True, False)
    assert run.texts is None
    stats = run.stats()
    assert list(dict.fromkeys(stats["layer"])) == [0, 2, 3]
    assert list(dict.fromkeys(stats["site"])) == ["act", "down"]
    assert run.manifest["arm"]["layers"] == [1, 2]
    assert set(run.plans["pass"]) == {0, 1}
    assert run.manifest["text"]["tokens"] == 60


def test_config_and_flags(call: Any, text_file: Path) -> None:
    Path("c.toml").write_text(
        f'text = "{text_file}"\nmax-length = 16\nlayers = "0"\nc = 0.3\nout = "from-config"\n'
        'figures = ["svg"]\n'
    )
    assert call("run", "--config", "c.toml", "--quiet").out == "from-config\n"
    assert Run.load("from-config").manifest["settings"]["c"] == 0.3
    assert {path.suffix for path in Path("from-config/figures").iterdir()} == {".svg"}
    done = call("run", "--config", "c.toml", "--c", "0.4", "-o", "mine", "--quiet", "--no-figures")
    assert (done.code, done.out) == (0, "mine\n")
    settings = Run.load("mine").manifest["settings"]
    assert (settings["c"], settings["max_length"]) == (0.4, 16)


def test_json_is_one_object(call: Any, text_file: Path) -> None:
    done = call("run", "--text", text_file, "-o", "r", "--json", "--no-figures", "--layers", "0")
    assert done.code == 0
    found = json.loads(done.out, parse_constant=pytest.fail)
    assert done.out.count("\n") == 1
    assert (found["schema_version"], found["folder"]) == (3, "r")
    assert found["effect"]["loss_before"] == Run.load("r").manifest["effect"]["loss_before"]
    assert len(found["stats"]) == len(pd.read_csv("r/stats.csv"))
    shown = json.loads(call("show", "r", "--json").out)
    assert {k: v for k, v in shown.items() if k != "folder"} == {
        k: v for k, v in found.items() if k != "folder"
    }


def test_quiet_prints_only_the_path(call: Any, text_file: Path) -> None:
    done = call("run", "--text", text_file, "-o", "r", "--quiet", "--no-figures", "--layers", "0")
    assert (done.code, done.out, done.err) == (0, "r\n", "")


def test_standard_input(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Größe, 3 + 4.".encode())))
    done = call("run", "--text", "-", "-o", "r", "--quiet", "--no-figures", "--layers", "0")
    assert done.code == 0
    assert [text["text"] for text in Run.load("r").texts or []] == ["Größe, 3 + 4."]


@pytest.mark.parametrize(("activation", "wall"), [("silu", -0.2785), ("gelu", -0.17)])
def test_a_toml_builds_layers(activation: str, wall: float, call: Any) -> None:
    Path("layer.toml").write_text(
        f'sites = "gate,act,up,product,down,q,k,v,attention,residual"\nseed = 3\n'
        f'figures = []\n[layer]\narchitecture = "llama"\nactivation = "{activation}"\nlayers = 2\n'
        "hidden_size = 32\nintermediate_size = 64\nheads = 4\nkv_heads = 2\ndocuments = 3\n"
        "tokens = 20\nscale = 3.0\nseed = 8\n"
    )
    for name in ("a", "b"):
        done = call("run", "layer.toml", "-o", name, "--quiet")
        assert (done.code, done.out) == (0, f"{name}\n")
    assert Path("a/counts.parquet").read_bytes() == Path("b/counts.parquet").read_bytes()
    run = Run.load("a")
    assert run.manifest["model"]["activation"].lower() == activation
    stats = run.stats()
    assert stats["site"].nunique() == 10
    assert set(stats.loc[stats["phase"] == "before", "count"]) == {
        3 * 20 * width for width in (64, 32, 16)
    }
    lowest = stats[(stats["site"] == "act") & (stats["phase"] == "before")]["min"].min()
    assert wall - 5e-4 < lowest < 0
    effect = run.manifest["effect"]
    assert effect is None or set(effect.values()) == {None}
    assert run.manifest["text"]["documents"] == 3
    shown = call("show", "a")
    assert shown.code == 0


def test_layers_with_the_weights_of_a_checkpoint(call: Any, tiny_llama: Path) -> None:
    Path("layer.toml").write_text(
        f'figures = []\narm-layers = "none"\n[layer]\nweights = "{tiny_llama}"\n'
        'weights-layers = [1]\ninput = "hidden"\ndocuments = 2\ntokens = 7\n'
    )
    assert call("run", "layer.toml", "-o", "r", "--quiet").code == 0
    model = AutoModel.from_pretrained(tiny_llama).eval()
    model.layers = torch.nn.ModuleList([model.layers[1]])
    model.config.num_hidden_layers = 1
    corpus = random_corpus(2, 7, seed=0, vocabulary=2048, width=32, scale=1.0)
    hidden = torch.from_numpy(np.stack([window.hidden for window in corpus.windows]))
    place = {"act": ("layers.0.mlp.act_fn", "output")}
    with torch.inference_mode(), keeping(model, place) as kept:
        mask = torch.ones(2, 7, dtype=torch.int64)
        model(inputs_embeds=hidden, attention_mask=mask, use_cache=False)
    (row,) = Run.load("r").stats().to_dict("records")
    values = raw(kept["act"])
    assert_stats(row, values, eps_of(values))
    assert row["layer"] == 0


# Bad input ----------------------------------------------------------------------------------


def refuse(call: Any, args: list[Any], match: str, *, code: int = 2) -> None:
    before = nothing_here()
    done = call(*args)
    assert done.code == code, (done.out, done.err)
    assert done.out == ""
    complaint = done.complaint()
    assert 1 <= len(complaint) <= 2, done.err
    assert re.search(match, "\n".join(complaint)), complaint
    assert "Traceback" not in done.err
    assert nothing_here() == before


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["nowhere"], "MODEL 'nowhere' does not exist"),
        (["org/nowhere"], "'org/nowhere'.*hub"),
        (["nowhere.gguf"], r"nowhere\.gguf"),
        (["nowhere.toml"], r"nowhere\.toml"),
        (["--layers", "6"], "layer 6 does not exist\n.*6 layers"),
        (["--layers", "x"], "--layers 'x'"),
        (["--layers", "3-1"], "backwards"),
        (["--arm-layers", "0,9"], "--arm-layers.*layer 9 does not exist"),
        (["--sites", "akt"], r"unknown site 'akt' \(did you mean 'act'\?\)"),
        (["--sites", "module:zz*"], "matches no module"),
        (["--c", "0"], r"c is 0\.0, it must be above 0"),
        (["--c", "-0.1"], r"c is -0\.1"),
        (["--c", "nan"], "c is nan"),
        (["--c", "much"], "--c"),
        (["--p1", "101"], "p1 is 101"),
        (["--p1", "-1"], "p1 is -1"),
        (["--p-min", "0.5", "--p-max", "0.2"], r"p_min 0\.5 is larger than p_max 0\.2"),
        (["--fraction", "2"], "fraction 2 may be 2%"),
        (["--arm-mode", "swap"], "'swap'"),
        (["--passes", "0"], "passes is 0"),
        (["--preset", "gpt-9"], "unknown preset 'gpt-9'"),
        (["--dtype", "int8"], "'int8'"),
        (["--device", "abacus"], "'abacus'"),
        (["--figures", "jpg"], "'jpg'"),
        (["--max-length", "1"], "--max-length"),
        (["--batch-size", "0"], "--batch-size"),
        (["--filler", "/", "--filler-position", "top"], "--filler-position"),
        (["--text", "nowhere.txt"], r"nowhere\.txt"),
        (["--text", "."], "--text"),
        (["--config", "nowhere.toml"], r"nowhere\.toml does not exist"),
        (["--no-such-flag"], "--no-such-flag"),
        (["one", "two"], "two"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_requests(args: list[str], match: str, call: Any) -> None:
    refuse(call, ["run", *args, "--out", "out"], match)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b"\n \n", r"a\.txt is empty"),
        ("a.txt", b"\x7fELF\x02\x01\x00\x00", "binary"),
        ("a.txt", b"\xff\xd8\xff\xe0", "not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', r"a\.jsonl, line 2"),
        ("a.jsonl", b'{"text": "a"}\n{"words": "b"}\n', r"a\.jsonl, line 2"),
    ],
)
def test_bad_texts(name: str, data: bytes, match: str, call: Any) -> None:
    Path(name).write_bytes(data)
    refuse(call, ["run", "--text", name, "--out", "out"], match)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("arm_layer = '0'", r"unknown key 'arm_layer' \(did you mean 'arm_layers'\?\)"),
        ("c = 'wide'", r"'c' is 'wide', expected a number"),
        ("[layer]\nactivaton = 'gelu'", r"'layer\.activaton' \(did you mean 'activation'\?\)"),
        ("[layer]\nactivation = 'gelo'", r"unknown activation 'gelo' \(did you mean 'gelu"),
        ("[layer]\narchitecture = 'lama'", r"unknown architecture 'lama' \(did you mean"),
        ("[layer]\n[layer.config]\nrope = 3", "no configuration field 'rope'"),
        ("not toml", "cannot be read as TOML"),
    ],
)
def test_bad_toml(data: str, match: str, call: Any) -> None:
    Path("c.toml").write_text(data)
    for args in (["run", "c.toml"], ["run", "--config", "c.toml"]):
        refuse(call, [*args, "--out", "out"], match)


def break_weights(path: Path, how: str) -> None:
    weights = path / "model.safetensors"
    data = weights.read_bytes()
    if how == "truncated":
        weights.write_bytes(data[:-100])
    elif how == "header":
        weights.write_bytes(data[:8] + b"\x00" * 40 + data[48:])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "noise":
        weights.write_bytes(os.urandom(1000))
    elif how == "missing":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, {"format": "pt"})
    elif how == "none":
        weights.unlink()
    elif how == "pickle":
        torch.save(load_file(weights), path / "pytorch_model.bin")
        weights.unlink()
    elif how == "shape":
        tensors = load_file(weights)
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
        save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("truncated", r"model\.safetensors is damaged: truncated"),
        ("header", r"model\.safetensors is damaged"),
        ("empty", r"model\.safetensors is damaged"),
        ("noise", r"model\.safetensors is damaged"),
        ("missing", r"weights missing.*model\.layers\.1\.mlp\.up_proj"),
        ("none", "has no weights"),
        ("pickle", "pickle.*\n.*--allow-pickle"),
        ("shape", r"up_proj\.weight is 3×3 in model\.safetensors, 48×32 expected"),
    ],
)
def test_broken_weights(how: str, match: str, call: Any, tiny_llama: Path) -> None:
    break_weights(tiny_llama, how)
    refuse(call, ["run", tiny_llama, "--out", "out"], match)


def test_pickle_weights_on_request(call: Any, tiny_llama: Path, text_file: Path) -> None:
    break_weights(tiny_llama, "pickle")
    args = ["run", tiny_llama, "--text", text_file, "-o", "r", "--quiet", "--no-figures"]
    assert call(*args, "--allow-pickle").code == 0


def edit_json(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("case", ["no tokenizer", "no config", "json", "type", "kind", "remote"])
def test_folders_without_a_checkpoint(case: str, call: Any, tiny_llama: Path) -> None:
    config = tiny_llama / "config.json"
    match = {
        "no tokenizer": "has no tokenizer",
        "no config": r"config\.json|not a checkpoint",
        "json": r"config\.json is not readable JSON",
        "type": "unknown to transformers",
        "kind": "not a transformers checkpoint",
        "remote": "--trust-remote-code",
    }[case]
    if case == "no tokenizer":
        (tiny_llama / "tokenizer.json").unlink()
    elif case == "no config":
        config.unlink()
    elif case == "json":
        config.write_text("{")
    elif case == "type":
        edit_json(config, model_type="lama")
    elif case == "kind":
        edit_json(config, model_type=None)
    else:
        edit_json(config, model_type="own", auto_map={"AutoConfig": "own.Config"})
        (tiny_llama / "own.py").write_text("raise SystemExit('this code ran')\n")
    refuse(call, ["run", tiny_llama, "--out", "out"], match)


def test_a_file_without_a_model(call: Any, text_file: Path) -> None:
    refuse(call, ["run", text_file, "--out", "out"], r"not a \.gguf")
    Path("x.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 40)
    refuse(call, ["run", "x.gguf", "--out", "out"], r"x\.gguf is damaged")


def test_an_architecture_without_an_mlp_activation(call: Any, tiny_llama: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 2048, "state_size": 4}
    config = AutoConfig.for_model("mamba", **sizes)
    for path in tiny_llama.glob("*.safetensors"):
        path.unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(tiny_llama)
    refuse(call, ["run", tiny_llama, "--out", "out"], "no MLP activation found")


def test_a_failure_while_running_is_one_line(
    call: Any, demo_folder: Path, tmp_path: Path, text_file: Path
) -> None:
    """The tokenizer knows more tokens than the embedding."""
    small = save_tiny_llama(tmp_path / "small", demo_folder, vocab_size=40)
    done = call("run", small, "--text", text_file, "--out", "out", "--no-figures")
    assert done.code in (1, 2)
    assert 1 <= len(done.complaint()) <= 2, done.err
    assert "Traceback" not in done.err
    assert nothing_here() == []


def test_an_encoder_decoder_is_measured_in_both_stacks(
    call: Any, demo_folder: Path, tmp_path: Path, text_file: Path
) -> None:
    t5 = tmp_path / "t5"
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    config = AutoConfig.for_model("t5", **sizes, vocab_size=2048, decoder_start_token_id=0)
    AutoModel.from_config(config).save_pretrained(t5)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo_folder / name, t5 / name)
    done = call("run", t5, "--text", text_file, "--out", "out", "--no-figures")
    assert done.code == 0, done.err
    found = {(key.stack, key.layer) for key in Run.load("out").keys}
    assert found == {(stack, layer) for stack in ("encoder", "decoder") for layer in (0, 1)}


def test_a_layer_that_skips_its_activation_is_named(
    call: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    def fused(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))

    monkeypatch.setattr(LlamaMLP, "forward", fused)
    args = ["run", tiny_llama, "--text", text_file, "--out", "out"]
    refuse(call, args, r"never reached.*model\.layers\.0\.mlp\.act_fn", code=1)


def test_an_existing_output(call: Any, text_file: Path) -> None:
    base = ["run", "--text", text_file, "--layers", "0", "--no-figures", "--quiet", "--out"]
    assert call(*base, "r").code == 0
    Path("r/mine.txt").write_text("x")
    refuse(call, [*base, "r"], "r exists\n.*--force")
    refuse(call, [*base, "r", "--force"], "r/mine.txt was not written by distviz")
    Path("r/mine.txt").unlink()
    Path("r/report.html").write_text("old")
    assert call(*base, "r", "--force").code == 0
    assert not Path("r/report.html").exists()
    Path("photos").mkdir()
    Path("photos/cat.png").write_bytes(b"cat")
    refuse(call, [*base, "photos"], "photos exists")
    refuse(call, [*base, "photos", "--force"], "did not write")
    Path("file").write_text("x")
    refuse(call, [*base, "file", "--force"], "is a file")
    assert Path("photos/cat.png").read_bytes() == b"cat"


def test_the_output_is_checked_before_the_model_is_read(call: Any) -> None:
    Path("out").mkdir()
    Path("out/x").write_text("x")
    refuse(call, ["run", "nowhere", "--out", "out"], "out exists")


def test_debug_prints_the_traceback(call: Any, capsys: Any) -> None:
    monkey = pytest.MonkeyPatch()
    monkey.setattr(sys, "argv", ["distviz", "run", "nowhere", "--debug"])
    with pytest.raises(distviz.DistvizError, match="does not exist"):
        cli.main()
    monkey.undo()


@pytest.mark.parametrize("figures", [[], ["--no-figures"]])
def test_weights_of_nan_give_a_run(
    figures: list[str], call: Any, tiny_llama: Path, text_file: Path
) -> None:
    weights = tiny_llama / "model.safetensors"
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if "mlp" in name or "norm" in name:
            tensor.fill_(float("nan"))
    save_file(tensors, weights, {"format": "pt"})
    done = call("run", tiny_llama, "--text", text_file, "-o", "r", "--json", *figures)
    assert done.code == 0, done.err
    assert re.search(r"warning: [\d,]+ NaN", done.err)
    found = json.loads(done.out, parse_constant=pytest.fail)
    assert any("NaN" in warning for warning in found["warnings"])
    assert found["effect"]["loss_before"] is None
    run = Run.load("r")
    stats = run.stats()
    before = stats[stats["phase"] == "before"]
    assert (before["count"] == 0).all()
    assert (before["nan"] == run.manifest["text"]["tokens"] * 48).all()
    assert before["mean"].isna().all()
    for args in (["show", "r"], ["export", "r", "-o", "e"]):
        again = call(*args)
        assert again.code == 0, again.err
    assert "NaN" in call("show", "r").err


def test_nan_of_one_row_do_not_spread(call: Any, tiny_llama: Path, text_file: Path) -> None:
    weights = tiny_llama / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.gate_proj.weight"][5] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    done = call("run", tiny_llama, "--text", text_file, "-o", "r", "--no-figures")
    assert done.code == 0
    assert "NaN" in done.err
    stats = Run.load("r").stats()
    row = stats[(stats["layer"] == 1) & (stats["phase"] == "before")].iloc[0]
    tokens = Run.load("r").manifest["text"]["tokens"]
    assert (row["nan"], row["count"]) == (tokens, tokens * 47)
    assert np.isfinite([row["mean"], row["std"], row["gini"], row["near_zero"]]).all()


# inspect, show, export ----------------------------------------------------------------------


def test_inspect(call: Any, tiny_llama: Path) -> None:
    for path in tiny_llama.glob("*.safetensors"):
        path.unlink()  # no weights are needed
    done = call("inspect", tiny_llama)
    assert done.code == 0
    for word in ("gate", "act", "up", "product", "down", "SiLU", "ARM", "RoPE", "residual"):
        assert word in done.out, word
    found = json.loads(call("inspect", tiny_llama, "--json").out)
    sites = {point["site"] for point in found["points"] if point["layer"] == 1}
    assert sites == {
        "mlp_in", "gate", "act", "up", "product", "down", "attn_in", "q", "k", "v", "attention",
        "residual",
    }  # fmt: skip
    assert found["model"]["architecture"] == "LlamaForCausalLM"
    assert call("inspect").code == 0
    refuse(call, ["inspect", tiny_llama, "--layer", "2"], "--layer 2")
    refuse(call, ["inspect", "nowhere"], "nowhere")
    assert nothing_here() == []


def test_inspect_of_layers_to_build(call: Any) -> None:
    Path("layer.toml").write_text(
        '[layer]\nactivation = "gelu"\nhidden_size = 32\nheads = 4\nkv_heads = 2\n'
    )
    done = call("inspect", "layer.toml")
    assert done.code == 0
    assert "GELU" in done.out


def test_show(call: Any, folder: Path) -> None:
    done = call("show", folder)
    assert done.code == 0
    for layer in range(6):
        assert re.search(rf"^\s*{layer}\b", done.out, re.MULTILINE)
    assert "█" in done.out
    assert not ESCAPE.search(done.out)
    close = call("show", folder, "--layers", "1,3").out
    assert "act by layer, 0 to 5" in close
    assert "layer 1 · act" in close
    assert "layer 3 · act" in close
    assert "layer 2 · act" not in close
    rows = json.loads(call("show", folder, "--layers", "1,3", "--json").out)["stats"]
    assert {row["layer"] for row in rows} == {1, 3}
    refuse(call, ["show", folder, "--layers", "9"], "9")
    refuse(call, ["show", "nowhere"], "nowhere")
    Path("empty").mkdir()
    refuse(call, ["show", "empty"], "empty")


def test_export(call: Any, folder: Path, demo_run: Run) -> None:
    done = call(
        "export", folder, "-o", "e", "--figures", "svg,pdf", "--tables", "csv,parquet,json",
        "--layers", "0,2",
    )  # fmt: skip
    assert done.code == 0
    written = {path.name for path in Path("e").iterdir()}
    assert {Path(line).name for line in done.out.splitlines()} == written
    tables = {"stats", "histograms", "plans", "classes", "documents", "channels", "extremes"}
    figures = {"layer_000_act", "layer_002_act", "overview", "channels"}
    figures |= {"token_classes", "token_roles", "token_positions"}
    assert written == {f"{n}.{k}" for n in tables for k in ("csv", "parquet", "json")} | {
        f"{n}.{k}" for n in figures for k in ("svg", "pdf")
    }
    assert Path("e/overview.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in Path("e/layer_000_act.svg").read_text()
    wanted = demo_run.stats().query("layer in (0, 2)").reset_index(drop=True)
    for table in (
        pd.read_csv("e/stats.csv"),
        pd.read_parquet("e/stats.parquet"),
        pd.DataFrame(json.loads(Path("e/stats.json").read_text())),
    ):
        pd.testing.assert_frame_equal(table, wanted, check_dtype=False, rtol=1e-12)
    refuse(
        call,
        ["export", folder, "-o", "e", "--tables", "csv", "--figures", "none"],
        "exists\n.*--force",
    )
    again = call(
        "export", folder, "-o", "e", "--tables", "csv", "--figures", "none", "--force", "--quiet"
    )
    assert (again.code, len(again.out.splitlines())) == (0, 1)
    found = json.loads(call("export", folder, "-o", "f", "--figures", "none", "--json").out)
    assert {Path(path).name for path in found["files"]} == {f"{name}.csv" for name in tables}


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--figures", "jpg"], "jpg"),
        (["--tables", "xls"], "xls"),
        (["--figures", "none", "--tables", "none"], "nothing to write"),
        (["--layers", "6"], "layer 6 does not exist"),
        (["--sites", "down"], "sites act"),
        (["--sites", "dwn"], "unknown site"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_exports(args: list[str], match: str, call: Any, folder: Path) -> None:
    refuse(call, ["export", folder, "-o", "e", *args], match)


def test_export_names_a_damaged_file(call: Any, folder: Path) -> None:
    shutil.copytree(folder, "copy")
    Path("copy/counts.parquet").write_bytes(b"PAR1")
    refuse(call, ["export", "copy", "-o", "e"], r"counts\.parquet is damaged")
    refuse(call, ["show", "copy"], r"counts\.parquet is damaged")
    refuse(call, ["export", "nowhere", "-o", "e"], "nowhere")


# Real processes -----------------------------------------------------------------------------


def imported(*args: str | Path) -> set[str]:
    code = (
        "import sys\nfrom distviz.cli.app import main\ntry:\n    main()\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"print('IMPORTED', *({set(HEAVY)} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "command", [[], ["run"], ["inspect"], ["export"], ["show"], ["whatif"], ["report"]]
)
def test_help_imports_no_torch(command: list[str]) -> None:
    assert imported(*command, "--help") == set()


def test_help_in_a_pipe_is_plain_text() -> None:
    done = process("--help")
    assert done.code == 0
    assert not ESCAPE.search(done.out)
    assert {"run", "inspect", "export", "show"} <= set(done.out.split())


def test_version(monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    assert imported("--version") == set()
    lines = [line.split(maxsplit=1) for line in process("--version").out.splitlines()]
    assert lines[0] == ["distviz", distviz.__version__]
    found = dict(lines)
    assert found["python"].startswith(f"{platform.python_version()} (")
    for name in ("torch", "transformers", "accelerate", "numba", "numpy", "matplotlib"):
        # A build says more about itself than the package's metadata: 2.13.0+cpu.
        assert importlib.import_module(name).__version__.split("+")[0] == found[name].split("+")[0]

    def only_distviz(name: str) -> str:
        if name == "distviz":
            return "1"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", only_distviz)
    lines = call("--version").out.splitlines()
    assert "torch not installed" in lines
    assert "peft not installed (optional)" in lines


def test_showing_commands_import_no_torch(folder: Path, tmp_path: Path) -> None:
    assert imported("show", folder) == set()
    assert imported("show", folder, "--json") == set()
    assert imported("export", folder, "-o", tmp_path / "e", "--layers", "0") == set()
    assert imported("report", folder, "-o", tmp_path / "r.html") == set()


@pytest.mark.extended
def test_a_real_process(tmp_path: Path) -> None:
    options = ["--out", tmp_path / "r", "--no-figures", "--layers", "0-1", "--max-length", "40"]
    done = process("run", "--text", "-", *options, input="Anna had 3 apples, so she is happy. " * 9)
    assert done.code == 0, done.err
    assert not ESCAPE.search(done.out + done.err)
    assert done.err.splitlines() == ["loading the model", "measuring"]
    assert done.out.splitlines()[-1] == str(tmp_path / "r")
    again = process(
        "run", "--text", tmp_path / "r" / "documents.jsonl", *options, "--force", "--json",
        env={"FORCE_COLOR": "1"},
    )  # fmt: skip
    assert again.code == 0, again.err
    assert json.loads(again.out)["folder"] == str(tmp_path / "r")


def test_usage_errors_of_a_process(tmp_path: Path) -> None:
    for args, match in (
        (["bogus"], "bogus"),
        (["run", "--bogus"], "--bogus"),
        (["show"], "RUN"),
        (["show", str(tmp_path)], str(tmp_path)),
    ):
        done = process(*args)
        assert done.code == 2
        assert done.out == ""
        assert 1 <= len(done.err.splitlines()) <= 2, done.err
        assert match in done.err


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_narrow_terminals(columns: int, folder: Path) -> None:
    done = process("show", folder, env={"COLUMNS": str(columns)})
    assert done.code == 0
    for line in done.out.splitlines():
        assert len(line) <= columns or line == str(folder), line


def test_a_terminal_without_unicode(folder: Path) -> None:
    done = process("show", folder, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.code == 0, done.err
    assert done.out.isascii()


def on_a_terminal(*args: str | Path, **env: str) -> str:
    """Run with standard output on a pseudo-terminal."""
    import pty

    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "distviz", *map(str, args)], stdin=slave, stdout=slave, stderr=slave,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"} | env, close_fds=True,
    ) as child:  # fmt: skip
        os.close(slave)
        data = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the terminal is gone with the child
                break
            if not part:
                break
            data += part
        assert child.wait() == 0, data
    os.close(master)
    return data.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_colour_on_a_terminal_unless_disabled(folder: Path) -> None:
    assert COLOUR.search(on_a_terminal("show", folder))
    assert not COLOUR.search(on_a_terminal("show", folder, NO_COLOR="1"))


@pytest.mark.extended
@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize(("moment", "existing"), [("loading", False), ("measuring", True)])
def test_ctrl_c_leaves_no_partial_folder(
    moment: str, existing: bool, tmp_path: Path, folder: Path
) -> None:
    text = tmp_path / "large.txt"
    text.write_text("Anna had 12 apples and 3 pears, so she gave 9 of them away. " * 20_000)
    place = tmp_path / "place"
    place.mkdir()
    if existing:
        shutil.copytree(folder, place / "out")
    command = [sys.executable, "-m", "distviz", "run", "--text", str(text), "--force"]
    with subprocess.Popen(
        [*command, "--out", str(place / "out"), "--no-figures"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        said = []
        while moment not in "".join(said[-1:]):
            line = child.stderr.readline() if child.stderr else ""
            assert line, "".join(said)
            said.append(line)
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=600)
    assert child.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted" in err
    assert [path.name for path in place.iterdir()] == (["out"] if existing else [])
    if existing:
        for path in folder.iterdir():
            assert (place / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no head")
def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    command = f'"{sys.executable}" -m distviz show "{folder}" --json | head -c 1'
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


# typer's own runner --------------------------------------------------------------------------


def test_typers_own_runner(folder: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    for args in (["--help"], ["run", "--help"], ["export", "--help"], ["inspect", "--help"]):
        done = runner.invoke(cli.app, args)
        assert done.exit_code == 0
        assert "--help" in done.output
    for option in (
        "--config",
        "--arm-layers",
        "--no-ripple",
        "--percentile-of",
        "--json",
        "--force",
    ):
        assert option in runner.invoke(cli.app, ["run", "--help"], env={"COLUMNS": "200"}).output
    shown = runner.invoke(cli.app, ["show", str(folder)])
    assert shown.exit_code == 0
    assert "near-0" in shown.stdout
    missing = runner.invoke(cli.app, ["show", str(tmp_path / "none")])
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert missing.stderr.startswith("distviz: ")
    assert runner.invoke(cli.app, ["show"]).exit_code == 2


def test_no_command_prints_help() -> None:
    done = process()
    said = done.out + done.err
    assert said.lower().startswith("usage: ")
    assert "Commands that measure:" in said
    assert "see distviz --help" not in said
