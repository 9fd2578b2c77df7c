"""`distviz compare` as a whole: runs and models, phases, what it refuses, what it imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from synthetic_comparisons import make

import distviz
from distviz.comparisons import Comparison
from distviz.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from commands import Done

DOCUMENTS = [
    f"If {n} of {3 * n} birds sing because it rains, then {2 * n} are silent and the {word} is dry."
    for n, word in enumerate(
        ("barn", "mill", "tower", "bridge", "chapel", "harbour", "market", "garden", "school"), 2
    )
]
FIGURES = [f"layer_{layer:03d}_act.png" for layer in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with ARM in layers 0 and 2, as a run folder."""
    run = distviz.run(
        text=DOCUMENTS, arm_layers="0,2", c=0.2, max_length=24, classes="all", device="cpu"
    )
    return run.save(tmp_path_factory.mktemp("runs") / "demo-run")


def test_a_run_and_itself(folder: Path, call: Callable[..., Done]) -> None:
    done = call("compare", folder, folder, "--out", "same")
    assert done.code == 0
    assert "no layer differs: both sides are equal in every document" in done.out
    assert done.out.rstrip().endswith("same")
    table = pd.read_csv("same/compare.csv")
    distances = ["ks", "wasserstein", "wasserstein_normalized", "js_divergence"]
    assert (table[distances] == 0).all(axis=None)
    assert (np.log(table["std_ratio"]) == 0).all()
    rows = pd.read_csv("same/inference.csv")
    assert (rows[["estimate", "effect_size"]] == 0).all(axis=None)
    assert sorted(p.name for p in Path("same/figures").iterdir()) == [
        *FIGURES, "overview.png", "token_classes.png",
    ]  # fmt: skip
    assert sorted(p.name for p in Path("same").iterdir()) == [
        "a", "b", "channels.csv", "classes.csv", "compare.csv", "comparison.json", "figures",
        "inference.csv",
    ]  # fmt: skip


def test_before_against_after_of_one_run(folder: Path, call: Callable[..., Done]) -> None:
    done = call("compare", folder, folder, "--phase-b", "after", "--out", "arm", "--no-figures")
    assert done.code == 0
    assert "demo without ARM" in done.out
    assert not Path("arm/figures").exists()
    table = pd.read_csv("arm/compare.csv").set_index("layer_a")
    assert table.loc[0, "near_zero_b"] < 0.5 * table.loc[0, "near_zero_a"]
    run = Run.load(folder)
    for layer in range(6):
        sides = (run.sketch(layer, "act", phase) for phase in ("before", "after"))
        a, b = (sketch.std() for sketch in sides)
        assert table.loc[layer, "std_ratio"] == pytest.approx(b / a, rel=1e-12)


def test_a_model_is_measured_on_the_text_and_settings_of_the_run(
    folder: Path, call: Callable[..., Done]
) -> None:
    done = call(
        "compare", folder, "demo", "--out", "c", "--no-figures", "--device", "cpu", "--quiet"
    )
    assert (done.code, done.out) == (0, "c\n")
    found = Comparison.load("c")
    assert found.manifest["paired"]
    assert found.manifest["same_tokenizer"]
    assert found.b.manifest["settings"]["max_length"] == 24
    assert found.b.manifest["arm"] is None
    assert found.b.texts == found.a.texts
    # The same model on the same text: only what ARM's c says of near zero by document is left out.
    assert (found.table["ks"] == 0).all()
    assert set(found.inference["quantity"]) == {"log_variance_ratio"}
    assert (found.inference["estimate"] == 0).all()
    assert any("c = 0.2 in A and 0.13 in B" in line for line in found.manifest["warnings"])


def test_a_model_asked_for_after_is_measured_with_the_arm_of_the_run(
    folder: Path, call: Callable[..., Done]
) -> None:
    flags = ("--phase-a", "after", "--phase-b", "after", "--no-figures", "--device", "cpu")
    done = call("compare", folder, "demo", *flags, "--out", "c", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["folder"] == "c"
    assert {row["ks"] for row in found["compare"]} == {0}
    assert {row["quantity"] for row in found["inference"]} == {
        "log_variance_ratio", "near_zero_difference",
    }  # fmt: skip
    b = Run.load("c/b")
    assert (b.c, b.manifest["arm"]["layers"]) == (0.2, [0, 2])


def test_two_models_and_chosen_layers(
    tiny_saved: Path, call: Callable[..., Done], tmp_path: Path
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in DOCUMENTS))
    flags = ("--text", text, "--layers", "1,5", "--device", "cpu", "--max-length", "24")
    done = call("compare", "demo", tiny_saved, *flags, "--out", "c", "--no-figures")
    assert done.code == 0
    assert "layers paired by relative depth (6 in A, 2 in B)" in done.out
    table = pd.read_csv("c/compare.csv")
    assert list(zip(table["layer_a"], table["layer_b"], strict=True)) == [(1, 0), (5, 1)]
    assert call("show", "c").out.count("/ ") >= 2
    assert pd.read_csv("c/inference.csv")["paired"].all()


def test_show_and_export_from_the_folder_alone(folder: Path, call: Callable[..., Done]) -> None:
    call("compare", folder, folder, "--phase-b", "after", "--out", "c", "--no-figures")
    shown = call("show", "c")
    assert shown.code == 0
    assert "layers paired by index" in shown.out
    assert json.loads(call("show", "c", "--json").out)["kind"] == "comparison"
    done = call("export", "c", "--figures", "svg", "--tables", "json", "--layers", "0")
    assert done.code == 0
    assert sorted(path.name for path in Path("c-export").iterdir()) == [
        "channels.json", "classes.json", "compare.json", "inference.json", "layer_000_act.svg",
        "overview.svg", "token_classes.svg",
    ]  # fmt: skip


# What is refused ----------------------------------------------------------------------------


def _refused(done: Done, *words: str) -> None:
    assert done.code == 2
    assert done.out == ""
    assert 1 <= len(done.complaint()) <= 2
    assert len(done.complaint()) == len(done.err.splitlines()), "something ran before the refusal"
    for word in words:
        assert word in done.err
    assert not list(Path.cwd().glob("*.out*")), "nothing is written"


def test_bad_sides(folder: Path, call: Callable[..., Done]) -> None:
    Path("empty").mkdir()
    call("compare", folder, folder, "--out", "c", "--no-figures")
    _refused(call("compare", "empty", folder, "--out", "x.out"), "neither a run nor a checkpoint")
    _refused(call("compare", folder, "empty", "--out", "x.out"), "neither a run nor a checkpoint")
    _refused(call("compare", "c", folder, "--out", "x.out"), "is a comparison, not a run")
    _refused(call("compare", folder, "no/such/model", "--out", "x.out"), "does not exist")
    _refused(call("compare", folder, folder, "--phase-a", "during", "--out", "x.out"), "--phase-a")
    _refused(call("compare", folder, folder, "--sites", "gates", "--out", "x.out"), "gates")
    _refused(call("compare", folder, "demo", "--sites", "gate", "--out", "x.out"), "at site gate")
    _refused(call("compare", folder, folder, "--layers", "9", "--out", "x.out"), "layer 9")
    _refused(call("compare", folder, folder, "--out", "c"), "exists")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", '{"schema_version": 99}', ("schema version 99",)),
        ("run.json", "{", ("run.json is damaged",)),
        ("counts.parquet", "PAR1", ("counts.parquet is damaged",)),
        ("channels.parquet", None, ("channels.parquet is missing",)),
    ],
)
def test_a_damaged_run_is_named(
    folder: Path, call: Callable[..., Done], name: str, content: str | None, words: tuple[str, ...]
) -> None:
    broken = Path(shutil.copytree(folder, "broken"))
    if content is None:
        (broken / name).unlink()
    else:
        (broken / name).write_text(content)
    _refused(call("compare", folder, broken, "--out", "x.out"), *words)
    _refused(call("compare", broken, "demo", "--out", "x.out"), *words)


def test_runs_without_a_common_site(folder: Path, call: Callable[..., Done]) -> None:
    make(1, layers=6, site="gate").run.save("gates")
    _refused(
        call("compare", folder, "gates", "--out", "x.out"), "no site and phase in common", "B: gate"
    )


def test_a_run_that_keeps_no_text(folder: Path, call: Callable[..., Done]) -> None:
    bare = Path(shutil.copytree(folder, "bare"))
    (bare / "documents.jsonl").unlink()
    _refused(call("compare", bare, "demo", "--out", "x.out"), "keeps no text", "--text")


def test_two_saved_runs_need_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from distviz import cli\n"
        f"folder = {str(folder)!r}\n"
        "sys.argv = ['distviz', 'compare', folder, folder, '--out', 'c', '--quiet']\n"
        "try:\n    cli.main()\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        "print([n for n in ('torch', 'numba', 'transformers', 'matplotlib.pyplot') "
        "if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "c\n[]\n", done.stderr


# Real models --------------------------------------------------------------------------------


@pytest.mark.real_model
def test_smollm2_in_fp32_and_bf16(smollm2: Path, call: Callable[..., Done], tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in DOCUMENTS[:8]))
    common: tuple[Any, ...] = ("--text", text, "--max-tokens", "128", "--max-length", "16")
    common += ("--batch-size", "1", "--device", "cpu", "--no-figures", "--arm-layers", "none")
    common += ("--classes", "all")
    assert call("run", smollm2, *common, "--dtype", "fp32", "--out", "fp32").code == 0
    done = call("compare", "fp32", smollm2, "--dtype", "bf16", "--device", "cpu", "--out", "c")
    assert done.code == 0
    assert "Instruct.Q4_1 fp32" in done.out
    assert "Instruct.Q4_1 bf16" in done.out
    found = Comparison.load("c")
    assert len(found.table) == 30
    assert (found.table["ks"] < 0.05).all()
    assert found.table["std_ratio"].between(0.97, 1.03).all()
    assert len(list(Path("c/figures").iterdir())) == 32
    assert (found.table["ks"] > 0).all()
