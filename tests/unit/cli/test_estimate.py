"""`--dry-run`: counts as the run itself would have them, costs by hand, the same refusals."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.tiny_models import save_tiny_llama
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
)

from distviz.cli import estimate as estimates
from distviz.cli.calibration import Speeds, measure_speeds
from distviz.cli.costs import rough_cost, trace
from distviz.cli.dry_run import Estimate, plan_compare, plan_filler, plan_run
from distviz.cli.opening import open_empty
from distviz.cli.views import dry_run as estimate_tables
from distviz.errors import RequestError
from distviz.measure import world as processes
from distviz.models.architectures.mlp import find_mlps, find_points
from distviz.models.safetensors_files import read_tensors
from distviz.settings import build_settings
from distviz.sites import join_layers, parse_layers

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}


def empty(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).eval()


# What a pass costs --------------------------------------------------------------------------


def test_operations_by_hand() -> None:
    model = empty(LlamaConfig(**SIZES, **HEADS))
    points = find_points(find_mlps(model), model, ["act", "down"])
    cost = trace(model, points, 2, 10)
    assert cost is not None
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    positions = 20
    attention = 4 * 2 * 4 * 10 * 10 * 8  # two products, a multiplication and an addition each
    rope = cost.operations - 3 * (2 * positions * layer + attention)
    assert 0 <= rope <= 2 * positions * 8 * 2
    assert cost.attention == {(2, 4, 10, 10, 8): 3}
    assert {point.site: count for point, count in cost.values.items()} == {
        "act": positions * 48,
        "down": positions * 32,
    }
    assert cost.peak > 4 * positions * (48 * 2 + 32)
    assert not cost.is_rough
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_pass_that_ends_early_costs_what_it_goes_through() -> None:
    model = empty(LlamaConfig(**SIZES, **HEADS))
    points = find_points(find_mlps(model), model, ["act"], [0])
    whole, part = trace(model, points, 2, 10), trace(model, points, 2, 10, ["model.layers.0"])
    assert whole is not None
    assert part is not None
    assert 0.9 < 3 * part.operations / whole.operations < 1.1
    assert part.values == whole.values
    assert sum(part.attention.values()) == 1


def test_an_expert_costs_the_tokens_that_it_gets() -> None:
    sizes = SIZES | {"num_hidden_layers": 1, "num_local_experts": 8, "num_experts_per_tok": 2}
    model = empty(MixtralConfig(**sizes, **HEADS))
    cost = trace(model, [], 2, 64)
    assert cost is not None
    experts = 2 * 128 * 2 * 3 * 32 * 48  # tokens by experts a token, three projections
    others = 2 * 128 * (2 * 32 * 32 + 2 * 32 * 16 + 32 * 8) + 4 * 2 * 4 * 64 * 64 * 8
    assert cost.operations == pytest.approx(experts + others, rel=0.02)


class Stubborn(LlamaForCausalLM):
    """Looks at values before it does anything."""

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        if int(input_ids.sum()) > 0:
            kwargs = {}
        return super().forward(input_ids, **kwargs)


def test_a_path_that_depends_on_values_is_estimated_from_the_matrices(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with torch.device("meta"):
        model = Stubborn(LlamaConfig(**SIZES, **HEADS)).eval()
    model.base_model_prefix = ""  # so that the whole is called
    points = find_points(find_mlps(model), model, ["act"])
    assert trace(model, points, 2, 10) is None
    assert capfd.readouterr() == ("", "")
    rough = rough_cost(empty(LlamaConfig(**SIZES, **HEADS)), points, 2, 10)
    exact = trace(empty(LlamaConfig(**SIZES, **HEADS)), points, 2, 10)
    assert exact is not None
    assert rough.is_rough
    assert rough.operations == pytest.approx(exact.operations, rel=0.2)


def test_other_architectures() -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32)
    cost = trace(empty(config), [], 1, 16)
    assert cost is not None
    assert cost.operations == pytest.approx(2 * 16 * 2 * 12 * 32 * 32, rel=0.1)


def test_speeds_are_those_of_the_shapes() -> None:
    products = {(512, 64, 128): 3, (512, 128, 64): 3, (512, 1, 1): 1}
    cpu = torch.device("cpu")
    speeds = measure_speeds(products, {(1, 2, 64, 64, 16): 2}, 64, torch.float32, cpu)
    assert set(speeds.products) == {(64, 128), (128, 64)}
    assert all(1e6 < rate < 1e15 for rate in speeds.products.values())
    assert speeds.product(7, 7) == min(speeds.products.values())
    assert 1e-12 < speeds.count < 1e-5
    assert 1e-12 < speeds.arm < 1e-4
    assert 1e6 < speeds.moving < 1e14


@given(st.sets(st.integers(0, 40)))
def test_layers_are_written_as_they_are_read(layers: set[int]) -> None:
    text = join_layers(layers)
    assert parse_layers(text, 41) == sorted(layers)
    assert len(text) <= len(",".join(map(str, sorted(layers)))) or text == "none"


# The plan of a command ----------------------------------------------------------------------


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    lines = ["Anna had 12 apples. " * 9, "If it rains, then we stay at home.", "9 * 3 = 27"]
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return path


def planned(call: Any, *args: Any) -> dict[str, Any]:
    """Call a command with --dry-run; it may read no weights and write nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("loading._load", "lazy_layers.LayersOnDisk._read"):
            patch.setattr(f"distviz.models.{name}", lambda *_: pytest.fail("weights"))
        done = call(*args, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert list(Path.cwd().iterdir()) == []
    return json.loads(done.out)


@pytest.mark.parametrize(
    ("flags", "passes"),
    [
        ([], 2),
        (["--arm-layers", "none"], 1),
        (["--no-ripple"], 1),
        (["--sites", "act,product,q", "--layers", "1", "--max-length", "16"], 2),
        (["--batch-size", "2", "--skip-special", "--classes", "all"], 2),
    ],
)
def test_counts_are_those_of_the_run(
    flags: list[str], passes: int, call: Any, tiny_llama: Path, text_file: Path
) -> None:
    args = ["run", tiny_llama, "--text", text_file, "-o", "out", "--no-figures", *flags]
    plan = planned(call, *args)
    (one,) = plan["measurements"]
    assert (plan["kind"], plan["command"], plan["folder"]) == ("plan", "run", "out")
    assert one["passes"] == passes
    assert one["bytes_read"] == sum(file["bytes"] for file in one["files"])
    assert 0 < plan["seconds"]["low"] < plan["seconds"]["high"]
    assert plan["memory_bytes"] == sum(
        size for name, size in one["memory_bytes"].items() if name != "total"
    )


def test_a_run_after_its_plan(call: Any, tiny_llama: Path, text_file: Path) -> None:
    args = ["run", tiny_llama, "--text", text_file, "-o", "out", "--max-length", "16", "--json"]
    args += ["--sites", "act,product,q", "--arm-layers", "0,1"]
    plan = json.loads(call(*args, "--dry-run").out)
    done = json.loads(call(*args).out)
    (one,) = plan["measurements"]
    for name in ("documents", "windows", "tokens", "truncated"):
        assert one["text"][name] == done["text"][name], name
    for name in ("architecture", "parameters", "dtype", "layers", "fingerprint", "device"):
        assert one["model"][name] == done["model"][name], name
    assert one["arm_layers"] == done["arm"]["layers"]
    assert one["points"] == len({(row["layer"], row["site"]) for row in done["stats"]})
    assert one["bytes_read"] == (tiny_llama / "model.safetensors").stat().st_size
    written = sum(path.stat().st_size for path in Path("out").rglob("*") if path.is_file())
    assert 0.5 < plan["disk_bytes"] / written < 2


def test_only_what_is_needed_is_read(call: Any, tiny_llama: Path, text_file: Path) -> None:
    args = ["run", tiny_llama, "--text", text_file, "--layers", "0", "--no-ripple", "-o", "out"]
    (one,) = planned(call, *args)["measurements"]
    tensors = read_tensors(tiny_llama)
    assert tensors is not None
    left = sum(tensor.bytes for name, tensor in tensors.items() if ".layers.1." in name)
    assert one["bytes_read"] == sum(tensor.bytes for tensor in tensors.values()) - left
    assert not one["reads_all"]
    (whole,) = planned(call, "run", tiny_llama, "--text", text_file)["measurements"]
    assert one["memory_bytes"]["weights"] < whole["memory_bytes"]["weights"]
    assert one["operations"] == pytest.approx(whole["operations"] / 2 / 2, rel=0.1)


def test_a_streamed_run_says_so(call: Any, tiny_llama: Path, text_file: Path) -> None:
    (one,) = planned(call, "run", tiny_llama, "--text", text_file, "--stream")["measurements"]
    assert one["streamed"]
    assert one["memory_bytes"]["waiting"] > 0
    done = call("run", tiny_llama, "--text", text_file, "--stream", "--dry-run")
    assert "layer by layer" in done.out


def test_built_layers_read_nothing(call: Any, tmp_path: Path) -> None:
    toml = tmp_path / "layer.toml"
    toml.write_text("[layer]\nhidden_size = 36\nintermediate_size = 64\ntokens = 32\n")
    plan = planned(call, "run", toml)
    (one,) = plan["measurements"]
    assert (one["bytes_read"], one["text"]["documents"], one["text"]["tokens"]) == (0, 8, 256)
    assert "nothing: random weights" in call("run", toml, "--dry-run").out


def test_compare_filler_and_sweep(call: Any, tiny_llama: Path, text_file: Path) -> None:
    plan = planned(call, "compare", tiny_llama, "demo", "--text", text_file)
    assert [one["side"] for one in plan["measurements"]] == ["A", "B"]
    assert [one["passes"] for one in plan["measurements"]] == [1, 1]
    assert plan["memory_bytes"] == max(one["memory_bytes"]["total"] for one in plan["measurements"])
    plan = planned(call, "filler", tiny_llama, "--counts", "0,3,7", "--text", text_file)
    (one,) = plan["measurements"]
    assert one["passes"] == 3
    tokens = planned(call, "run", tiny_llama, "--text", text_file)["measurements"][0]["text"]
    assert one["text"]["tokens"] == 3 * tokens["tokens"] + 3 * (3 + 7)
    flags = ["--c", "0.1,0.2", "--arm-layers", "0;1", "--seeds", "3", "--text", text_file]
    plan = planned(call, "sweep", tiny_llama, *flags)
    # Two settings in layer 0 (whole passes) and two in layer 1 (half of one), three seeds each.
    assert plan["measurements"][0]["passes"] == 1 + 3 * (2 * 1 + 2 * 0.5)


def test_a_side_that_is_measured_already(call: Any, tiny_llama: Path, text_file: Path) -> None:
    call("run", tiny_llama, "--text", text_file, "-o", "mine", "--no-figures", "--quiet")
    plan = json.loads(call("compare", "mine", "demo", "--dry-run", "--json").out)
    assert plan["ready"] == ["mine"]
    assert [one["side"] for one in plan["measurements"]] == ["B"]
    assert "mine is measured already" in call("compare", "mine", "demo", "--dry-run").out


SPEEDS = Speeds({(1, 1): 1e9}, 1e9, 1e9, 0.0, 1e-9, 1e-9)


def test_processes_share_the_passes(
    tiny_llama: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "measure_speeds", lambda *_: SPEEDS)
    options = {"text": [str(text_file)] * 3, "out": "x", "batch_size": 1, "ripple": False}
    found = {}
    for size in (1, 2, 3):
        monkeypatch.setattr(processes, "_world", processes.World(rank=0, size=size))
        found[size] = plan_run(options | {"max_length": 16}, None, str(tiny_llama))
    (whole,) = found[1].measurements.values()
    assert [plan.processes for plan in found.values()] == [1, 2, 3]
    batches = whole.text["batches"]
    assert batches >= 6
    for size, plan in found.items():
        (one,) = plan.measurements.values()
        assert one.text == whole.text
        # No share is longer than the mean by more than a batch; the last of a text is shorter.
        most = (math.floor(batches / size) + 1) / batches
        ratio = one.seconds["forward"] / whole.seconds["forward"]
        assert 0.9 / size <= ratio <= 1.1 * most
        assert f"each of {size} processes" in table(plan) or size == 1


def table(plan: Estimate) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(estimate_tables.plan(plan, console))
    return out.getvalue()


# What it looks like -------------------------------------------------------------------------


def test_the_table_fits_into_80_columns(call: Any, tiny_llama: Path, text_file: Path) -> None:
    done = call("run", tiny_llama, "--text", text_file, "--dry-run", "--out", "some/where")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    words = [line[:10].strip() for line in lines if line[:10].strip()]
    assert words[2:] == [
        *("reads", "observes", "ARM", "text", "passes", "time", "memory", "in all")
    ]
    text = done.out
    assert "no weights were read" in text
    assert re.search(r"reads +\d+ KB of model\.safetensors", text)
    assert "act in layers 0-1" in text
    assert "in layer 0\n" in text
    assert re.search(r"about \d.* s to \d.* on this machine", text)
    assert re.search(r"KB in some/where", text)
    assert not Path("some").exists()


def test_it_is_ascii_where_the_terminal_is(tiny_llama: Path, text_file: Path) -> None:
    plan = plan_run({"text": [str(text_file)], "out": "x"}, None, str(tiny_llama))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=out, width=80)
    console.print(estimate_tables.plan(plan, console))
    out.flush()


def test_quiet_prints_the_folder(call: Any, tiny_llama: Path, text_file: Path) -> None:
    done = call("run", tiny_llama, "--text", text_file, "-o", "there", "--dry-run", "--quiet")
    assert (done.code, done.out, done.err) == (0, "there\n", "")


@pytest.mark.parametrize(
    ("function", "number", "text"),
    [
        (estimate_tables.duration, 0.44, "0.4 s"),
        (estimate_tables.duration, 9.96, "10 s"),
        (estimate_tables.duration, 130, "2 min"),
        (estimate_tables.duration, 9000, "2.5 h"),
        (estimate_tables.size, 0, "0 bytes"),
        (estimate_tables.size, 999_999, "1.0 MB"),
        (estimate_tables.size, 12_345_678, "12 MB"),
        (estimate_tables.size, 123e9, "123 GB"),
        (estimate_tables.count, 134_515_008, "135 M"),
        (estimate_tables.count, 1.71e9, "1.7 B"),
    ],
)
def test_numbers_in_words(function: Any, number: float, text: str) -> None:
    assert function(number) == text


def test_too_little_memory_is_said(
    call: Any, tiny_llama: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distviz.models.free_bytes", lambda _: 1_000_000)
    done = call("run", tiny_llama, "--text", text_file, "--dry-run", "--no-stream")
    assert re.search(r"warning: \d\.\d GB are needed, 0\.0 GB are free", done.err)


# What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "7"], "layer 7 does not exist"),
        (["--arm-layers", "0,9"], "--arm-layers.*layer 9 does not exist"),
        (["--sites", "actt"], "unknown site 'actt'"),
        (["--sites", "module:nothing*"], "matches no module"),
        (["--text", "nowhere.txt"], "there is no such file"),
        (["--c", "-1"], "c is -1"),
        (["--dtype", "fp33"], "fp33"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available"),
        (["--max-length", "1"], "--max-length"),
        (["--out", "taken"], "taken"),
    ],
)
def test_the_same_is_refused(
    flags: list[str], message: str, call: Any, tiny_llama: Path, text_file: Path
) -> None:
    Path("taken").mkdir()
    (Path("taken") / "file").touch()
    done = call("run", tiny_llama, "--text", text_file, *flags, "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert 1 <= len(done.complaint()) <= 2
    assert re.search(message, "\n".join(done.complaint())), done.complaint()


def test_damaged_weights_are_refused(tiny_llama: Path, text_file: Path) -> None:
    config = json.loads((tiny_llama / "config.json").read_text())
    (tiny_llama / "config.json").write_text(json.dumps(config | {"intermediate_size": 50}))
    flags = {"text": [str(text_file)]}
    with pytest.raises(RequestError, match="contradicts its config"):
        plan_run(dict(flags), None, str(tiny_llama))
    with pytest.raises(RequestError, match="contradicts its config"):
        plan_compare("demo", str(tiny_llama), "before", "before", dict(flags), None)
    with pytest.raises(RequestError, match="contradicts its config"):
        plan_filler(str(tiny_llama), None, dict(flags), None)
    (tiny_llama / "model.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(RequestError, match="is damaged"):
        plan_run(dict(flags), None, str(tiny_llama))


def test_types_are_those_that_would_be_loaded(tiny_llama: Path, demo_folder: Path) -> None:
    settings = build_settings({}, None, str(tiny_llama))
    assert open_empty(settings).dtype == torch.float32
    asked = open_empty(build_settings({"dtype": "bf16"}, None, str(tiny_llama)))
    assert asked.dtype == torch.bfloat16
    assert asked.weight_bytes() == pytest.approx(open_empty(settings).weight_bytes() / 2, rel=0.01)
    shutil.rmtree(tiny_llama)
    half = save_tiny_llama(tiny_llama, demo_folder, dtype="float16")
    LlamaForCausalLM.from_pretrained(half).half().save_pretrained(half)
    assert open_empty(build_settings({}, None, str(half))).dtype == torch.float16
