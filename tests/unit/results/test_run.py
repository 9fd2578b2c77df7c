"""A run on disk: nothing changes on the way there and back, and it is whole or absent."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import on_grid, raw
from support.counted_runs import key_of, make_run
from support.texts import TEXTS
from transformers import LlamaConfig, LlamaForCausalLM

import distviz
from distviz.errors import MeasurementError, RequestError
from distviz.results.output_folder import check_output
from distviz.results.run import Run
from distviz.results.storage import staging
from distviz.sites import SiteKey
from distviz.stats.sketch import Sketch


def test_a_measured_run_there_and_back(demo_run: Run, tmp_path: Path) -> None:
    again = Run.load(demo_run.save(tmp_path / "run"))
    assert again.manifest == json.loads(json.dumps(demo_run.manifest))
    assert again.sketches == demo_run.sketches
    assert again.texts == demo_run.texts
    for name, table in demo_run.tables().items():
        pd.testing.assert_frame_equal(again.tables()[name], table, check_exact=True)
    assert again.summary() == demo_run.summary()


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1e", "\r\n", "\ud7ff"])
def test_texts_survive_whatever_they_hold(mark: str, tmp_path: Path) -> None:
    run = distviz.run(text=[f"one{mark}two", "three"], layers="0", device="cpu")
    again = Run.load(run.save(tmp_path / "run"))
    assert again.texts == run.texts
    assert [text["text"] for text in again.texts or []] == [f"one{mark}two", "three"]


# Whole or absent ----------------------------------------------------------------------------


class TornError(Exception):
    pass


@pytest.mark.parametrize("error", [TornError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("force", [False, True])
def test_an_error_leaves_nothing_behind(
    error: type[BaseException], force: bool, demo_run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "run"
    if force:
        demo_run.save(out)
    before = {p.name: p.read_bytes() for p in out.iterdir()} if force else None

    def tear() -> None:
        with staging(out, force=force) as place:
            (place / "half").write_text("x")
            assert place.parent.parent == out.parent
            raise error("torn")

    with pytest.raises(error, match="torn"):
        tear()
    left = [path.name for path in tmp_path.glob("*/*")]
    assert left == (["run"] if force else [])
    assert out.parent.exists() is force
    if force:
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_failure_while_writing_leaves_nothing(
    demo_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(MeasurementError, match=r"run cannot be written: No space left.*\n.*--out"):
        demo_run.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_exchange_leaves_the_old_folder(
    demo_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = demo_run.save(tmp_path / "run")
    rename = Path.rename

    def fail(self: Path, target: Any) -> Path:
        if Path(target) == out and self.name == "new":
            raise KeyboardInterrupt("torn")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt, match="torn"):
        demo_run.save(out, force=True)
    monkeypatch.undo()
    assert Run.load(out).sketches == demo_run.sketches
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_output_that_exists(demo_run: Run, tmp_path: Path) -> None:
    out = demo_run.save(tmp_path / "run")
    (out / "note.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"run exists\n.*--force"):
        demo_run.save(out)
    assert (out / "note.txt").exists()
    with pytest.raises(RequestError, match=r"note\.txt was not written by distviz"):
        demo_run.save(out, force=True)
    (out / "note.txt").unlink()
    (out / "stats.csv").write_text("old")
    demo_run.save(out, force=True)
    assert (out / "stats.csv").read_text() != "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_force_replaces_only_what_distviz_wrote(demo_run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_bytes(b"cat")
    with pytest.raises(RequestError, match="did not write"):
        demo_run.save(photos, force=True)
    assert [path.name for path in photos.iterdir()] == ["cat.png"]
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RequestError, match="is a file"):
        demo_run.save(file, force=True)
    with pytest.raises(RequestError, match=r"is a file"):
        check_output(file / "below" / "run", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]


def test_a_relative_folder(demo_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demo_run.save("a/b/run")
    assert Run.load("a/b/run").keys == demo_run.keys
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["run"]
    assert (tmp_path / "a" / "b" / "run").stat().st_mode & 0o055 == 0o055


# What cannot be read ------------------------------------------------------------------------


@pytest.fixture
def saved(demo_run: Run, tmp_path: Path) -> Path:
    return demo_run.save(tmp_path / "run")


NEEDED = ["run.json", "counts.parquet", "plans.csv", "documents.parquet", "channels.parquet"]


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_is_named(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(RequestError, match=name.replace(".", r"\.")):
        Run.load(saved)


@pytest.mark.parametrize("name", [*NEEDED, "documents.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_file_is_named(name: str, damage: str, saved: Path) -> None:
    path = saved / name
    if name == "plans.csv":
        damage = "noise"  # half a table is a table
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b'\xff\xfe,\x00\n"' * 9)
    with pytest.raises(RequestError, match=name.replace(".", r"\.")) as caught:
        Run.load(saved)
    assert len(str(caught.value).splitlines()) <= 2


def edit_manifest(folder: Path, **fields: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("version", [0, 1, 2, "3", None])
def test_another_schema_version_is_refused_by_name(version: Any, saved: Path) -> None:
    edit_manifest(saved, schema_version=version)
    with pytest.raises(
        RequestError,
        match=rf"schema version {version}; this version of distviz reads 3\nmeasure again",
    ):
        Run.load(saved)


@pytest.mark.parametrize("content", ["[]", "{}", "nope", "3"])
def test_a_manifest_that_is_none(content: str, saved: Path) -> None:
    (saved / "run.json").write_text(content)
    with pytest.raises(RequestError, match=r"run\.json is damaged"):
        Run.load(saved)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        Run.load(tmp_path / "none")
    with pytest.raises(RequestError, match=r"has no run\.json"):
        Run.load(tmp_path)
    comparison = tmp_path / "comparison"
    comparison.mkdir()
    (comparison / "comparison.json").write_text("{}")
    with pytest.raises(RequestError, match=r"not a run"):
        Run.load(comparison)


def test_reading_imports_no_torch(saved: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from distviz import Run; r = Run.load(sys.argv[1]); r.tables(); r.summary();"
        "print({'torch', 'numba', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# Histograms ---------------------------------------------------------------------------------


def assert_histograms(run: Run, raw_values: dict[SiteKey, np.ndarray]) -> None:
    """Values are finite and on the grid."""
    table = run.histograms()
    for place_key, phases in run.places().items():
        edges = run.edges(place_key)
        assert np.all(np.diff(edges) > 0)
        for phase_key in phases:
            same = (table["layer"] == phase_key.layer) & (table["phase"] == phase_key.phase)
            rows = table[same & (table["site"] == phase_key.site)]
            np.testing.assert_array_equal(rows["bin_left"], edges[:-1])
            np.testing.assert_array_equal(rows["bin_right"], edges[1:])
            x = raw_values[phase_key]
            assert rows["count"].sum() == x.size
            np.testing.assert_array_equal(rows["count"], np.histogram(x, edges)[0])
            density = np.where(x.size, rows["count"] / max(x.size, 1) / np.diff(edges), 0)
            np.testing.assert_allclose(rows["density"], density, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["silu", "tail", "constant", "zero", "tiny", "odd"])
def test_every_value_is_in_a_bin(dtype: torch.dtype, kind: str) -> None:
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(2))
    made = {
        "silu": torch.nn.functional.silu(noise * 2),
        "tail": torch.cat([noise * 0.01, torch.tensor([4e4, -3e3])]),
        "constant": torch.full((10,), 0.3),
        "zero": torch.zeros(5),
        "tiny": noise * 1e-39,
        "odd": torch.tensor([1.0, math.nan, -math.inf, -0.0]),
    }[kind].to(dtype)
    other = (made * 0.5)[: max(1, made.numel() // 2)]
    values = {
        key_of(0, "before"): made,
        key_of(0, "after"): other,
        key_of(0, "moved_before"): made[:0],
    }
    run = make_run({k: {"all": Sketch().add(v)} for k, v in values.items()})
    grid = "fp16" if dtype == torch.float16 else "bf16"
    exact = {k: on_grid(raw([v]), grid) for k, v in values.items()}
    assert_histograms(run, exact)


def test_histograms_of_a_measured_run(demo_folder: Path) -> None:
    run = distviz.run(text=TEXTS[:2], device="cpu", arm_layers="0,1", layers="0-1")
    values = {}
    for one in run.keys:
        pairs = run.merged[one].pairs()
        values[one] = np.repeat(*pairs)
    assert_histograms(run, values)


def test_finding_a_distribution(demo_run: Run) -> None:
    assert demo_run.sketch(2, phase="arm_input").count == demo_run.sketch(2).count
    with pytest.raises(RequestError, match=r"no layer 9, site act, phase before\n.*layers 0 to 5"):
        demo_run.find(9)
    with pytest.raises(RequestError, match="phase arm_input"):
        demo_run.find(0, phase="arm_input")


def test_the_summary_is_one_json_object_with_the_numbers_of_the_table(demo_run: Run) -> None:
    summary = json.loads(json.dumps(demo_run.summary(), allow_nan=False))
    assert summary["schema_version"] == 3
    for row, wanted in zip(summary["stats"], demo_run.stats().to_dict("records"), strict=True):
        for name, value in wanted.items():
            if isinstance(value, float) and math.isnan(value):
                assert row[name] is None
            elif isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-12, abs=0), name
            else:
                assert row[name] == value


def test_small_numbers_keep_their_digits_in_the_summary() -> None:
    values = torch.randn(999, generator=torch.Generator().manual_seed(1)) * 1e-9
    run = make_run({key_of(): {"all": Sketch().add(values)}})
    (row,) = run.summary()["stats"]
    (wanted,) = run.stats().to_dict("records")
    assert row["std"] == pytest.approx(wanted["std"], rel=1e-12, abs=0)
    assert row["eps"] == pytest.approx(wanted["eps"], rel=1e-12, abs=0)


def test_nothing_that_is_handed_out_changes_the_run(demo_run: Run) -> None:
    stats = demo_run.stats()
    stats["mean"] = 0.0
    assert demo_run.stats()["mean"].abs().sum() > 0


def test_a_model_without_weights_of_its_own(tmp_path: Path) -> None:
    """A random model, fp16: the fp16 grid goes through the folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=40,
    )  # fmt: skip
    model = LlamaForCausalLM(config).half().eval()
    with torch.no_grad(), distviz.watch(model, sites="act,down") as seen:
        model(input_ids=torch.arange(20)[None])
    again = Run.load(seen.save(tmp_path / "seen"))
    assert {sketch.grid for sketch in again.merged.values()} == {"fp16"}
    pd.testing.assert_frame_equal(again.stats(), seen.stats(), check_exact=True)
    shutil.rmtree(tmp_path / "seen")
