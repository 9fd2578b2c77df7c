"""`distviz compare` as a whole: runs and models, phases, what it refuses, what it imports."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from support.synthetic_comparisons import make

import distviz
from distviz.plots import figure_specs
from distviz.results.comparison import Comparison
from distviz.results.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.commands import Done

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
        *FIGURES, "overview.png", "token_classes.png", "token_positions.png", "token_roles.png",
    ]  # fmt: skip
    assert sorted(p.name for p in Path("same").iterdir()) == [
        "a", "b", "channels.csv", "classes.csv", "compare.csv", "comparison.json", "figures",
        "inference.csv",
    ]  # fmt: skip


def test_the_table_of_several_sites_fits_80_columns(
    call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = distviz.run(
        text=DOCUMENTS[:3],
        sites="act,product,attention",
        layers="0-1",
        arm_layers="0",
        device="cpu",
    )
    run.save("three")
    done = call("compare", "three", "three", "--phase-b", "after", "--out", "c", "--no-figures")
    assert done.code == 0
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "not shown: JS bits (" in done.out
    rows = [line.split() for line in lines if line.startswith((" 0  ", " 1  "))]
    assert len(rows) == 6
    table = pd.read_csv("c/compare.csv")
    for row, (_, expected) in zip(rows, table.iterrows(), strict=True):
        assert (int(row[0]), row[1]) == (expected["layer_a"], expected["site"])
        cells = [float(cell.lstrip("<").rstrip("%")) for cell in row[2:7]]
        assert cells[:2] == pytest.approx(
            100 * expected[["near_zero_a", "near_zero_b"]].to_numpy(float), abs=0.06
        )
        names = ["std_ratio", "ks", "wasserstein_normalized"]
        assert cells[2:] == pytest.approx(expected[names].to_numpy(float), abs=1.1e-3)


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
        "overview.svg", "token_classes.svg", "token_positions.svg", "token_roles.svg",
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


def _layers(name: str, *lines: str, **fields: Any) -> str:
    """Write a TOML of a small layer; ``lines`` stand before the table."""
    sizes = {"hidden_size": 48, "intermediate_size": 96, "heads": 4, "kv_heads": 2}
    table = sizes | {"documents": 9, "tokens": 16, "activation": "silu"} | fields
    text = [*lines, "[layer]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    Path(name).write_text("\n".join(text))
    return name


def _captured(name: str, seed: int) -> np.ndarray:
    """Activations of a described layer, from its own forward pass on the documented input."""
    from distviz import measure as collect
    from distviz.progress import Progress
    from distviz.settings import build_settings

    settings = build_settings({"device": "cpu"}, None, name)
    opened = collect.open_from(settings, Progress())
    kept: list[np.ndarray] = []
    act = opened.model.layers[0].mlp.act_fn
    handle = act.register_forward_hook(lambda _m, _a, out: kept.append(out.numpy().copy()))
    states = []
    for document in range(9):
        rng = np.random.default_rng([seed, document])
        rng.integers(256, size=16)
        states.append(rng.standard_normal((16, 48)).astype(np.float32))
    with torch.inference_mode():
        for start in range(0, 9, 4):
            opened.model(inputs_embeds=torch.from_numpy(np.stack(states[start : start + 4])))
    handle.remove()
    return np.concatenate([batch.reshape(-1, 96) for batch in kept])


def test_two_descriptions_of_layers_are_fed_the_same(call: Callable[..., Done]) -> None:
    a = _layers("silu.toml", "seed = 7")
    b = _layers("gelu.toml", "seed = 3", activation="gelu")
    done = call("compare", a, b, "--out", "out", "--no-figures", "--device", "cpu")
    assert done.code == 0
    found = Comparison.load("out")
    assert found.manifest["paired"]
    sides = [Run.load(f"out/{name}") for name in "ab"]
    texts = [side.manifest["text"]["sha256"] for side in sides]
    assert texts[0] == texts[1]
    assert [side.manifest["model"]["activation"] for side in sides] == ["SiLU", "GELU"]
    row = pd.read_csv("out/compare.csv").iloc[0]
    x, y = (_captured(name, 7).ravel().astype(np.float64) for name in (a, b))
    assert row["std_ratio"] == pytest.approx(y.std() / x.std(), rel=1e-4)
    # Told by the counts, whose cells are those of bf16.
    assert row["wasserstein"] == pytest.approx(stats.wasserstein_distance(x, y), rel=5e-3)
    inference = pd.read_csv("out/inference.csv")
    assert set(inference["documents"]) == {9}
    assert inference["paired"].all()
    again = call("compare", "out/a", b, "--out", "again", "--no-figures", "--device", "cpu")
    assert again.code == 0
    pd.testing.assert_frame_equal(pd.read_csv("again/compare.csv"), pd.read_csv("out/compare.csv"))


def test_layers_with_weights_are_fed_like_those_without(call: Callable[..., Done]) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 384}
    a, b = _layers("a.toml", **sizes), _layers("b.toml", weights="demo")
    done = call("compare", a, b, "--out", "out", "--no-figures", "--sites", "gate,act")
    assert done.code == 0
    found = Comparison.load("out")
    assert found.manifest["paired"]
    assert {pair.a.site for pair in found.pairs} == {"gate", "act"}


def test_flags_beat_a_description(call: Callable[..., Done]) -> None:
    a = _layers("a.toml", 'sites = "gate,down"', "seed = 4", "c = 0.3")
    flags = ("--sites", "down", "--seed", "9", "--out", "out", "--no-figures")
    assert call("compare", a, a, *flags).code == 0
    settings = Run.load("out/b").manifest["settings"]
    assert [settings[name] for name in ("sites", "seed", "c")] == ["down", 9, 0.3]
    table = pd.read_csv("out/compare.csv")
    assert set(table["site"]) == {"down"}
    assert (table["ks"] == 0).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"documents": 10}, "10 × 16 hidden states of width 48, scale 1, seed 0"),
        ({"tokens": 17}, "9 × 17 hidden states"),
        ({"scale": 2.0}, "scale 2"),
        ({"hidden_size": 64}, "of width 64"),
        ({"input": "tokens"}, "9 × 16 token ids, seed 0"),
    ],
)
def test_layers_with_other_input_are_compared_unpaired(
    call: Callable[..., Done], fields: dict[str, Any], words: str
) -> None:
    layers, other = _layers("layers.toml"), _layers("other.toml", **fields)
    done = call("compare", layers, other, "--out", "out", "--no-figures", "--device", "cpu")
    assert done.code == 0
    assert "A: 9 × 16 hidden states of width 48, scale 1, seed 0; B: " in done.err
    assert words in done.err
    found = Comparison.load("out")
    assert not found.manifest["paired"]
    rows = [pd.read_csv(f"out/{side}/stats.csv").iloc[0] for side in "ab"]
    assert found.table["std_ratio"].iloc[0] == pytest.approx(rows[1]["std"] / rows[0]["std"])


def test_layers_and_text_are_compared_unpaired(folder: Path, call: Callable[..., Done]) -> None:
    layers = _layers("layers.toml", "seed = 3")
    text = Path("short.txt")
    text.write_text(DOCUMENTS[0])
    Path("model.toml").write_text('model = "demo"\ntext = "short.txt"\nlayers = "0,1"')
    assert call("run", layers, "--out", "built", "--no-figures").code == 0
    for number, sides in enumerate(
        [(layers, folder), (folder, layers), (layers, "model.toml"), ("built", "model.toml")]
    ):
        done = call("compare", *sides, "--out", f"{number}", "--no-figures", "--sites", "act")
        assert done.code == 0
        assert "hidden states of width 48" in done.err
        found = Comparison.load(f"{number}")
        assert not found.manifest["paired"]
        assert {found.a.manifest["settings"]["seed"], found.b.manifest["settings"]["seed"]} <= {
            0,
            3,
        }
    assert found.b.texts is not None
    assert [one["text"] for one in found.b.texts] == DOCUMENTS[:1]


def test_what_one_file_states_about_the_text_applies_to_both(call: Callable[..., Done]) -> None:
    Path("short.txt").write_text(DOCUMENTS[0])
    Path("a.toml").write_text('text = "short.txt"\nmax_tokens = 9\ndtype = "fp32"\nseed = 2')
    Path("b.toml").write_text('model = "demo"\nmax_length = 5\nsites = "act,gate"\npreset="auto"')
    for sides in (("a.toml", "b.toml"), ("b.toml", "a.toml"), ("a.toml", "demo")):
        done = call("compare", *sides, "--out", "out", "--no-figures", "--force")
        assert done.code == 0
        found = Comparison.load("out")
        assert found.manifest["paired"]
        assert {pair.a.site for pair in found.pairs} == {"act"}
        settings = [run.manifest["settings"] for run in (found.a, found.b)]
        for name, value in {"text": ["short.txt"], "max_tokens": 9}.items():
            assert [one[name] for one in settings] == [value] * 2
        assert {run.manifest["dtype"] for run in (found.a, found.b)} == {"float32", "bfloat16"}
    assert settings[0]["max_length"] == 512
    assert (
        call("compare", "a.toml", "b.toml", "--seed", "5", "--out", "c", "--no-figures").code == 0
    )
    assert Run.load("c/a").manifest["settings"]["seed"] == 5


def _samples() -> list[str]:
    """Copy the shipped samples; the hub's model is replaced by the demo."""
    names = []
    for path in sorted((Path(__file__).parents[2] / "sample_configs").glob("*.toml")):
        text = path.read_text("utf-8")
        Path(path.name).write_text(text.replace("HuggingFaceTB/SmolLM2-135M-Instruct", "demo"))
        names.append(path.name)
    return names


def _in_either_order(names: list[str]) -> Iterator[tuple[str, str]]:
    """Each pair once; each file is A of some pairs and B of others."""
    for (i, first), (j, second) in itertools.combinations(enumerate(names), 2):
        yield (first, second) if (i + j) % 2 else (second, first)


@pytest.mark.parametrize(
    "pairs",
    [
        [("gelu_layer.toml", "silu_layer.toml"), ("real_checkpoint.toml", "gelu_layer.toml")],
        pytest.param(None, marks=pytest.mark.extended),
    ],
)
def test_shipped_samples_are_compared(
    call: Callable[..., Done], pairs: list[tuple[str, str]] | None
) -> None:
    names = _samples()
    for sides in pairs or _in_either_order(names):
        flags = ["--out", "out", "--no-figures", "--force"]
        if not all("_layer" in side for side in sides):
            flags += ["--max-tokens", "64"]
        done = call("compare", *sides, *flags)
        assert done.code == 0, (sides, done.err)
        assert Comparison.load("out").pairs


def test_layers_that_cannot_be_compared(call: Callable[..., Done]) -> None:
    layers = _layers("layers.toml")
    out = ("--out", "x.out")
    _refused(call("compare", "absent.toml", layers, *out), "absent.toml does not exist")
    absent = _layers("weights.toml", weights="no/such/model")
    _refused(call("compare", layers, absent, *out), "no/such/model")
    Path("model.toml").write_text('model = "no/such/model"')
    _refused(call("compare", layers, "model.toml", *out), "no/such/model")
    gate = _layers("gate.toml", 'sites = "gate,up"')
    words = ("no site in common", "A has act; B has gate, up", "--sites")
    _refused(call("compare", layers, gate, *out), *words)
    words = ("--max-tokens has no effect on layers", "random")
    _refused(call("compare", layers, layers, "--max-tokens", "9", *out), *words)
    Path("x.txt").write_text("x")
    _refused(call("compare", layers, layers, "--text", "x.txt", *out), "--text has no effect")


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
    _refused(call("compare", bare, "demo", "--out", "x.out"), "contains no text", "--text")


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


@pytest.mark.extended
@pytest.mark.real_model
@pytest.mark.usefixtures("quick_bfloat16")
def test_smollm2_in_fp32_and_bf16(smollm2: Path, call: Callable[..., Done], tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in DOCUMENTS[:8]))
    common: tuple[Any, ...] = ("--text", text, "--max-tokens", "128", "--max-length", "16")
    common += ("--batch-size", "1", "--device", "cpu", "--no-figures", "--arm-layers", "none")
    common += ("--classes", "all")
    assert call("run", smollm2, *common, "--dtype", "fp32", "--out", "fp32").code == 0
    bf16 = ("--dtype", "bf16", "--device", "cpu", "--no-figures", "--out", "c")
    done = call("compare", "fp32", smollm2, *bf16)
    assert done.code == 0
    assert "Instruct.Q4_1 fp32" in done.out
    assert "Instruct.Q4_1 bf16" in done.out
    found = Comparison.load("c")
    assert len(found.table) == 30
    assert (found.table["ks"] < 0.05).all()
    assert found.table["std_ratio"].between(0.97, 1.03).all()
    assert len(figure_specs(found)) == 33
    assert (found.table["ks"] > 0).all()
