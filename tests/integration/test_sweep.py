"""`distviz sweep` as a whole: equal to runs, setting by setting; what it recommends; bad input."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import forked
from support.texts import TEXTS
from support.tiny_models import save_tiny_llama
from transformers import AutoModelForCausalLM

import distviz
from distviz.measure.resume import read_state
from distviz.results.sweep import Sweep
from distviz.stats import statistics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.commands import Done


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": words}) + "\n" for words in TEXTS))
    return path


def _by_run(row: pd.Series[Any], text: Path, model: Any = None, **options: Any) -> dict[str, float]:
    """The columns of a row, from a run with that setting."""
    fraction = None if math.isnan(row["fraction"]) else row["fraction"]
    run = distviz.run(
        model, text=[text], arm_layers=str(row["layers"]), c=row["c"], p1=row["p1"],
        fraction=fraction, arm_mode=row["mode"], redistribution=row["redistribution"],
        seed=int(row["seed"]), max_length=32, device="cpu", **options,
    )  # fmt: skip
    moved = [key for key in run.keys if key.phase == "moved_after"]
    rows = []
    for key in moved:
        before, after = (run.merged[key._replace(phase=phase)] for phase in ("before", "after"))
        eps = run.bands[key]
        rows.append(
            [statistics.near_zero(before, eps), statistics.near_zero(after, eps),
             after.std() / before.std(), statistics.gini(after),
             statistics.wasserstein(before, after) / before.std(), after.count]
        )  # fmt: skip
    last = max(key.layer for key in run.keys)
    ends = [run.sketch(last, phase=phase) for phase in ("before", "after")]
    near, left, ratio, gini, distance, _ = np.mean(rows, axis=0)
    effect = run.manifest["effect"]
    values = sum(row[-1] for row in rows)
    return {
        "std_ratio": ratio, "gini_after": gini,
        "wasserstein_normalized": distance, "own_near_zero_removed": near - left,
        "fraction_moved": sum(run.merged[key].count for key in moved) / values,
        "last_wasserstein_normalized": statistics.wasserstein(*ends) / ends[0].std(),
        "loss_before": effect["loss_before"], "loss_after": effect["loss_after"],
        "kl": effect["kl"], "top1_agreement": effect["top1_agreement"],
    }  # fmt: skip


def test_every_row_equals_a_run(call: Callable[..., Done], text: Path) -> None:
    done = call(
        "sweep", "--text", text, "--max-length", 32, "--c", "0.13,1", "--fraction", "0.3",
        "--p1", "90", "--arm-layers", "0;2,4", "--redistribution", "arm,noise", "--seeds", 2,
        "--out", "swept", "--device", "cpu", "--no-figures",
    )  # fmt: skip
    assert done.code == 0, done.err
    table = pd.read_csv("swept/sweep_seeds.csv", dtype={"layers": str})
    assert len(table) == 2 * 3 * 2 * 2
    for index in (0, 3, 5, 10, 13, 19, 23):
        row = table.iloc[index]
        for name, expected in _by_run(row, text).items():
            assert row[name] == pytest.approx(expected, rel=1e-9, abs=1e-12), (index, name)


@pytest.mark.parametrize(
    "options",
    [
        [
            "--dtype",
            "fp32",
            "--max-tokens",
            150,
            "--batch-size",
            3,
            "--seed",
            5,
            "--c",
            "0.3333333",
        ],
        ["--dtype", "bf16", "--by-layer", "--c", "0.7", "--p1", "81.23456", "--max-length", 24],
        ["--fraction", "0.1234567", "--percentile-of", "magnitude", "--skip-special", "--seeds", 2],
        ["--preset", "gemma-3-4b-it", "--p-min", 0.02, "--arm-mode", "add", "--passes", 2],
        ["--preset", "llama-3.1-8b-instruct:gpqa", "--p-min", 0.02, "--arm-layers", "1;0,2"],
        ["--redistribution", "noise,scale:1.5", "--filler", "-- x", "--filler-count", 3],
        ["--config", "own.toml", "--arm-layers", "1", "--fraction", "0.2", "--threads", 1],
    ],
)
def test_the_printed_command_repeats_the_row_bit_for_bit(
    call: Callable[..., Done], text: Path, options: list[Any]
) -> None:
    _path("own.toml").write_text("c = 0.21\np_max = 0.5\nmax-length = 40\nchat_template = true\n")
    options = [*options, "--text", text.rename(text.with_name("a 'text'.jsonl"))]
    if "--max-tokens" not in options:
        options += ["--max-tokens", 200]
    done = call("sweep", *options, "--no-figures", "--out", "swept", "--budget-kl", 1e9)
    assert done.code == 0, done.err
    swept = Sweep.load("swept")
    assert swept.recommendation.command in done.out.replace("\n", "")
    rows = swept.seeds[swept.seeds["seed"] == swept.manifest["seeds"][0]]
    _path("own.toml").unlink()
    for index in {0, len(rows) - 1}:
        row = rows.iloc[index]
        command = shlex.split(swept._command(row))
        done = call(*command[1:], "--out", "run", "--no-figures", "--force", "--quiet")
        assert done.code == 0, done.err
        run = distviz.Run.load("run")
        effect = run.manifest["effect"]
        names = ["loss_before", "loss_after", "kl", "top1_agreement"]
        assert [row[name] for name in names] == [effect[name] for name in names]
        moved = [key for key in run.keys if key.phase == "moved_after"]
        places = [key._replace(phase="after") for key in moved]
        values = sum(run.merged[key].count for key in places)
        if options[:2] != ["--redistribution", "noise,scale:1.5"]:  # these may not change a value
            count = sum(run.merged[key].count for key in moved)
            assert row["fraction_moved"] == count / values
        removed = []
        for key in places:
            shares = [
                statistics.near_zero(run.merged[key._replace(phase=phase)], run.bands[key])
                for phase in ("before", "after")
            ]
            removed.append(shares[0] - shares[1])
        assert row["own_near_zero_removed"] == math.fsum(removed) / len(removed)


def test_one_band_makes_rows_comparable(call: Callable[..., Done], text: Path) -> None:
    options = ("--text", text, "--max-tokens", 150, "--no-figures", "--dtype", "fp32")
    done = call("sweep", *options, "--c", "0.1,0.6", "--p1", "80", "--out", "swept")
    assert done.code == 0, done.err
    assert "ε of c = 0.6 in every row" in " ".join(done.out.split())
    swept = Sweep.load("swept")
    assert swept.manifest["near_zero_c"] == 0.6
    assert len(set(swept.table["near_zero_before"])) == 1
    wide = call(
        *shlex.split(swept._command(swept.table.iloc[1]))[1:], "--out", "wide", "--no-figures"
    )
    assert wide.code == 0, wide.err
    eps = distviz.Run.load("wide").bands[distviz.Run.load("wide").keys[0]]
    for _, row in swept.table.iterrows():
        repeat = [*shlex.split(swept._command(row))[1:], "--no-figures"]
        assert call(*repeat, "--out", "run", "--force").code == 0
        run = distviz.Run.load("run")
        before, after = (run.sketch(0, phase=phase) for phase in ("before", "after"))
        counts = []
        for one in (before, after):
            values, numbers = one.pairs()
            counts.append(numbers[np.abs(values) < eps].sum() / numbers.sum())
        assert row["near_zero_removed"] == pytest.approx(counts[0] - counts[1], rel=1e-12)


def test_layer_after_layer_starts_behind_what_was_kept(
    call: Callable[..., Done], text: Path, tmp_path: Path, demo_folder: Path
) -> None:
    model = save_tiny_llama(tmp_path / "deep", demo_folder, num_hidden_layers=4)
    done = call(
        "sweep", model, "--by-layer", "--c", "0.5", "--text", text, "--max-length", 32,
        "--out", "swept", "--figures", "svg",
    )  # fmt: skip
    assert done.code == 0, done.err
    table = pd.read_csv("swept/sweep_seeds.csv", dtype={"layers": str})
    assert table["layers"].tolist() == ["0", "1", "2", "3", "0-3"]
    for _, row in table.iterrows():
        for name, expected in _by_run(row, text, model).items():
            assert row[name] == pytest.approx(expected, rel=1e-9, abs=1e-12), name
    assert "<svg" in (tmp_path / "here" / "swept" / "figures" / "sweep.svg").read_text()[:500]


def test_layers_below_the_change_are_not_computed_again(
    text: Path, tmp_path: Path, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    from distviz import measure
    from distviz.cli.commands import GRID, sweep_study
    from distviz.cli.execute import execute
    from distviz.progress import Progress

    calls: dict[int, int] = {}
    plain = LlamaMLP.forward

    def counting(self: Any, x: torch.Tensor) -> torch.Tensor:
        calls[id(self)] = calls.get(id(self), 0) + 1
        return plain(self, x)

    model = save_tiny_llama(tmp_path / "deep", demo_folder, num_hidden_layers=4)
    opened = []
    open_from = measure.open_from
    monkeypatch.setattr(
        measure, "open_from", lambda *args: opened.append(open_from(*args)) or opened[-1]
    )
    monkeypatch.setattr(LlamaMLP, "forward", counting)
    flags = {"text": [str(text)], "max_length": 32, "batch_size": 64, "out": str(tmp_path / "out")}
    lists = dict.fromkeys(GRID) | {"arm_layers": ["3"], "c": "0.1,0.2,0.3,0.4,0.5"}
    study = sweep_study(str(model), lists, 1, 0.05, False, flags | {"figures": []}, None)
    execute(study, Progress())
    layers = opened[0].model.model.layers
    # One plain pass; behind layer 2 then, once to see that it is the same, and five settings.
    assert [calls[id(layer.mlp)] for layer in layers] == [1, 1, 1, 7]
    assert all("forward" not in layer.__dict__ for layer in layers)


def test_ruinous_and_harmless(call: Callable[..., Done], text: Path) -> None:
    options = ("--text", text, "--max-length", 32, "--no-figures")
    ruin = call(
        "sweep", *options, "--c", "1,2", "--p1", "100", "--arm-layers", "0", "--out", "ruin"
    )
    assert ruin.code == 0, ruin.err
    assert "no recommendation: no setting fits the budget of 0.05 nats" in " ".join(
        ruin.out.split()
    )
    mild = call("sweep", *options, "--c", "0.05,0.13", "--p1", "80", "--out", "mild", "--json")
    said = json.loads(mild.out)
    assert said["recommended"]["c"] == 0.13
    assert said["command"] == (
        f"distviz run --arm-layers 0 --c 0.13 --p1 80 --text {text} --max-length 32"
    )
    assert max(row["kl"] for row in said["settings"]) < 0.05
    again = call(*said["command"].split()[1:], "--json", "--no-figures")
    assert json.loads(again.out)["effect"]["kl"] == said["recommended"]["kl"]


SMALL = ("--max-length", 32, "--device", "cpu", "--no-figures")


def _equals_a_run(
    call: Callable[..., Done], command: str, row: pd.Series[Any], *flags: Any
) -> None:
    """Whether a row tells what the recommended command measures."""
    done = call(*shlex.split(command)[1:], *flags, *SMALL, "--json", "--out", "run", "--force")
    assert done.code == 0, done.err
    run = json.loads(done.out)
    assert row["kl"] == pytest.approx(run["effect"]["kl"], rel=1e-9)
    assert row["loss_after"] == pytest.approx(run["effect"]["loss_after"], rel=1e-12)
    by_phase = {one["phase"]: one for one in run["stats"] if one["layer"] == int(row["layers"])}
    assert row["gini_after"] == pytest.approx(by_phase["after"]["gini"], rel=1e-9)
    moved = by_phase["moved_after"]["count"] / by_phase["after"]["count"]
    assert row["fraction_moved"] == pytest.approx(moved, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        (
            "Gemma-3-4b-it",
            ["gemma-3-4b-it:gpqa", "gemma-3-4b-it:math-500,aime25",
             "gemma-3-4b-it:aime24,humaneval", "gemma-3-4b-it:livecodebench"],
        ),
        (
            "my-llama-3.1-8b-instruct-copy",
            ["llama-3.1-8b-instruct:gpqa", "llama-3.1-8b-instruct:math-500,aime24",
             "llama-3.1-8b-instruct:humaneval,livecodebench"],
        ),
    ],
)  # fmt: skip
def test_published_settings_are_tried_for_all_benchmarks(
    call: Callable[..., Done], text: Path, tmp_path: Path, tiny_saved: Path, name: str,
    labels: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / name).symlink_to(tiny_saved)
    model = tmp_path / name
    done = call("sweep", model, "--preset", "auto", "--text", text, *SMALL, "--out", "swept")
    assert done.code == 0, done.err
    # A path is not broken, however long it is.
    assert all(len(line) <= 80 for line in done.out.splitlines() if str(tmp_path) not in line)
    swept = Sweep.load("swept")
    assert swept.table["preset"].tolist() == labels
    for _, row in swept.table.iterrows():
        one = f"distviz run {model} --arm-layers 0 --preset {row['preset'].split(',')[0]}"
        assert swept._command(row).startswith(f"{one} --text ")
        _equals_a_run(call, swept._command(row), row)
    beside = call(
        "sweep", model, "--preset", labels[0], "--c", "0.13", "--p-min", 0.1, "--text", text,
        *SMALL, "--out", "beside",
    )  # fmt: skip
    assert beside.code == 0, beside.err
    swept = Sweep.load("beside")
    assert swept.table["preset"].tolist() == ["", labels[0]]
    for _, row in swept.table.iterrows():
        command = swept._command(row)
        assert " --p-min 0.1 " in command
        _equals_a_run(call, command, row)


def test_settings_are_proposed_where_none_are_published(
    call: Callable[..., Done], text: Path, tiny_saved: Path
) -> None:
    for extra in ([], ["--arm-layers", "1"], ["--by-layer"]):
        done = call(
            "sweep", tiny_saved, "--preset", "auto", *extra, "--text", text, *SMALL,
            "--out", "swept", "--force", "--budget-kl", 100,
        )  # fmt: skip
        assert done.code == 0, done.err
        swept = Sweep.load("swept")
        assert set(swept.table["preset"]) == {"proposed"}
        row = swept.table.iloc[0]
        _equals_a_run(call, swept._command(row), row)
        asked = ["--preset", "auto", "--arm-layers", row["layers"]]
        _equals_a_run(call, f"distviz run {tiny_saved}", row, *asked, "--text", text)
        said = " ".join(done.out.split())
        assert f"proposed: layer {row['layers']}: " in said
    assert json.loads(call("sweep", tiny_saved, "--preset", "auto", "--text", text, *SMALL,
                           "--json").out)["evidence"].startswith("layer 0: ")  # fmt: skip


@pytest.mark.parametrize("kind", ["repeat", "random", "words"])
def test_filler_goes_into_the_swept_text(call: Callable[..., Done], text: Path, kind: str) -> None:
    flags = ("--filler", "/ ", "--filler-count", 7, "--filler-position", "start")
    flags = (*flags, "--filler-kind", kind, "--text", text)
    done = call("sweep", *flags, *SMALL, "--c", 0.5, "--p1", 90, "--out", "swept")
    assert done.code == 0, done.err
    row = Sweep.load("swept").table.iloc[0]
    _equals_a_run(call, "distviz run --c 0.5 --p1 90", row, *flags)
    plain = call("sweep", "--text", text, *SMALL, "--c", 0.5, "--p1", 90, "--json")
    assert json.loads(plain.out)["settings"][0]["kl"] != pytest.approx(row["kl"], rel=1e-3)


def _rescaled(model: Path, folder: Path, factors: dict[str, float]) -> Path:
    """Save a model with some of its weights multiplied."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    for name, factor in factors.items():
        weights[name] = weights[name] * factor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_model_that_the_usual_settings_wreck(
    call: Callable[..., Done], text: Path, tmp_path: Path, tiny_saved: Path
) -> None:
    # The first MLP is all that is heard, and logits are so large that any change decides.
    loud = {"lm_head.weight": 1000.0, "model.layers.0.mlp.down_proj.weight": 1000.0}
    model = _rescaled(tiny_saved, tmp_path / "sharp", loud)
    done = call("sweep", model, "--text", text, *SMALL, "--out", "swept")
    assert done.code == 0, done.err
    table = pd.read_csv("swept/sweep.csv")
    assert len(table) == 12
    assert table["kl"].min() > 0.05
    mildest = table.loc[table["kl"].idxmin()]
    said = " ".join(done.out.split())
    assert "no recommendation: no setting fits the budget of 0.05 nats: the mildest, " in said
    assert f"c = {mildest['c']:g}, p1 = {mildest['p1']:g} in layer 0, costs KL" in said
    assert "distviz run" not in said
    told = json.loads((tmp_path / "here" / "swept" / "sweep.json").read_text())
    assert (told["command"], told["budget_kl"]) == ("", 0.05)


def test_a_model_that_no_setting_harms(
    call: Callable[..., Done], text: Path, tmp_path: Path, tiny_saved: Path
) -> None:
    # What the first MLP computes goes nowhere.
    silent = {"model.layers.0.mlp.down_proj.weight": 0.0}
    model = _rescaled(tiny_saved, tmp_path / "deaf", silent)
    said = json.loads(call("sweep", model, "--text", text, *SMALL, "--json").out)
    table = pd.DataFrame(said["settings"])
    assert len(table) == 12
    assert (table["kl"].max(), table["top1_agreement"].min()) == (0.0, 1.0)
    best = table.loc[table["near_zero_removed"].idxmax()]
    recommended = said["recommended"]
    assert (recommended["c"], recommended["p1"]) == (best["c"], best["p1"])
    assert said["reason"].endswith("no setting tried removes more")
    assert said["command"] == (
        f"distviz run {model} --arm-layers 0 --c {best['c']:g} --p1 {best['p1']:g}"
        f" --text {text} --max-length 32 --device cpu"
    )
    _equals_a_run(call, said["command"], pd.Series(recommended))


def test_same_seed_same_numbers(call: Callable[..., Done], text: Path) -> None:
    for name in ("one", "two"):
        done = call("sweep", "--text", text, "--c", "0.5", "--seed", 7, "--out", name, "--quiet")
        assert (done.code, done.out.strip()) == (0, name)
    one, two = (Sweep.load(_path(name)).seeds for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)
    assert one["seed"].tolist() == [7]


def _path(name: str) -> Path:
    from pathlib import Path

    return Path(name)


def test_nothing_of_the_model_is_changed(tmp_path: Path, text: Path, tiny_saved: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained(tiny_saved).state_dict()
    from distviz import measure
    from distviz.data.documents import read_documents
    from distviz.progress import Progress
    from distviz.settings import RunSettings
    from distviz.studies import sweep as sweeps
    from distviz.studies.sweep_grid import SweepGrid, combine

    settings = RunSettings(model=str(tiny_saved), max_length=32)
    opened = measure.open_from(settings, Progress())
    corpus = measure.corpus_of(read_documents([text]), opened, settings)
    grid = combine(SweepGrid(c="0.1", arm_layers="1"), settings, 2)
    sweeps.sweep_model(opened, corpus, settings, grid, [0], 0.05, Progress())
    for name, value in opened.model.state_dict().items():
        assert torch.equal(value, before[name])
    for module in opened.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--c", "a,b"], "--c 'a' is not a number"),
        (["--arm-layers", "0;77"], "layer 77 does not exist"),
        (["--preset", "auto,nobody"], "unknown preset 'nobody'"),
        (["--preset", ""], "unknown preset ''"),
        (["--preset", "gemma-3-4b-it", "--filler", ""], "--filler is empty"),
        (["--seeds", "0"], "--seeds is 0, it must be at least 1"),
        (["--budget-kl", "-1"], "--budget-kl is -1.0, it must be above 0"),
        (["sample.toml"], "needs a checkpoint, not layers built from a TOML"),
    ],
)
def test_bad_input(
    call: Callable[..., Done], args: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "here" / "sample.toml").write_text("[layer]\nlayers = 1\n")
    done = call("sweep", *args, "--out", "nothing")
    assert done.code == 2
    assert message in done.err
    assert len(done.complaint()) <= 2
    assert not (tmp_path / "here" / "nothing").exists()


@pytest.mark.extended
def test_a_killed_sweep_goes_on_to_the_same_numbers(
    call: Callable[..., Done], text: Path, tmp_path: Path
) -> None:
    options = [
        "sweep", "--text", text, "--max-length", 32, "--batch-size", 1, "--c", "0.1,0.5,1",
        "--arm-layers", "0;3", "--no-figures", "--threads", 1,
    ]  # fmt: skip
    assert call(*options, "--out", "whole").code == 0
    command = [*forked.COMMAND, *map(str, options), "--save-every", "0"]
    state = tmp_path / "here" / "cut.partial" / "rank-0.state"
    sizes = []
    for _ in range(2):
        process = forked.Popen(
            [*command, "--out", "cut", "--resume"], stderr=subprocess.DEVNULL, cwd=tmp_path / "here"
        )
        seen = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and not (state.exists() and state.stat().st_mtime_ns > seen):
            time.sleep(0.01)
        process.kill()
        process.wait()
        tree, _ = read_state(state)
        sizes.append(len(tree["batches"]))
    assert sizes[0] < sizes[1] < 7 * 8
    done = call(*options, "--out", "cut", "--resume", "--save-every", 0)
    assert done.code == 0, done.err
    for name in ("sweep.csv", "sweep_seeds.csv"):
        whole, cut = (tmp_path / "here" / folder / name for folder in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes()
    assert not state.parent.exists()
    again = call(*options, "--out", "cut", "--resume")
    assert "is complete" in again.err
    other = call(*options, "--p1", "50", "--out", "cut", "--resume")
    assert (other.code, "exists" in other.err) == (2, True)
