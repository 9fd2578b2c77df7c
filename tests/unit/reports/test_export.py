"""Run folders with figures, and exports: what is written, refused, and equal byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.synthetic_comparisons import Made
from support.synthetic_runs import place, run_of, silu_run

from distviz.errors import RequestError

if TYPE_CHECKING:
    from distviz.results.comparison import Comparison

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from support.synthetic_runs import with_tables

from distviz.errors import MeasurementError
from distviz.reports import export as exports
from distviz.results.run import Run
from distviz.settings import FIGURE_FORMATS

if TYPE_CHECKING:
    from typing import Any

TABLES = ["stats", "histograms", "plans", "classes", "documents", "channels"]


@pytest.fixture(scope="module")
def run() -> Run:
    return with_tables(silu_run().run)


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports.write_folder(run, tmp_path_factory.mktemp("runs") / "mine")


def _names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_run_folder_holds_its_figures(folder: Path, run: Run) -> None:
    assert _names(folder / "figures") == [
        "layer_000_act.png",
        "layer_001_act.png",
        "layer_002_act.png",
        "overview.png",
    ]
    assert (folder / "figures" / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert Run.load(folder).merged == run.merged
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_no_figures(run: Run, tmp_path: Path) -> None:
    out = exports.write_folder(run, tmp_path / "run", figures=())
    assert not (out / "figures").exists()
    assert (out / "run.json").exists()


def test_a_folder_that_is_there_is_kept_unless_forced(run: Run, tmp_path: Path) -> None:
    out = exports.write_folder(run, tmp_path / "run", figures=())
    (out / "figures").mkdir()
    mark = out / "figures" / "mark.png"
    mark.touch()
    with pytest.raises(RequestError, match="exists"):
        exports.write_folder(run, out, figures=())
    assert mark.exists()
    exports.write_folder(run, out, figures=(), force=True)
    assert not mark.exists()


def test_a_failing_figure_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "save_figure", fail)
    with pytest.raises(MeasurementError, match="run cannot be written: No space left"):
        exports.write_folder(run, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    with pytest.raises(MeasurementError, match="out cannot be written: No space left"):
        exports.export(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_equal_runs_give_equal_figures(run: Run, tmp_path: Path) -> None:
    for name in ("first", "second"):
        exports.export(run, tmp_path / name, figures=FIGURE_FORMATS, tables=[], layers=[0])
    names = _names(tmp_path / "first")
    assert names == sorted(
        f"{name}.{kind}" for name in ("layer_000_act", "overview") for kind in FIGURE_FORMATS
    )
    for name in names:
        first = (tmp_path / "first" / name).read_bytes()
        assert first == (tmp_path / "second" / name).read_bytes()
        assert b"CreationDate" not in first
        assert b"<dc:date>" not in first


def test_export_folder_writes_every_format(folder: Path, run: Run, tmp_path: Path) -> None:
    written = exports.export_folder(
        folder, tmp_path / "out", figures="svg,pdf", tables="csv, parquet,json", layers="0,2"
    )
    assert sorted(path.name for path in written) == _names(tmp_path / "out")
    figures = [path.name for path in written if path.suffix in {".svg", ".pdf"}]
    assert sorted(figures) == sorted(
        f"{name}.{kind}"
        for name in ("layer_000_act", "layer_002_act", "overview")
        for kind in ("svg", "pdf")
    )
    expected = run.stats()
    expected = expected[expected["layer"].isin([0, 2])].reset_index(drop=True)
    read = pd.read_csv(tmp_path / "out" / "stats.csv")
    pd.testing.assert_frame_equal(read, expected, check_dtype=False, rtol=1e-12)
    parquet = pd.read_parquet(tmp_path / "out" / "stats.parquet")
    pd.testing.assert_frame_equal(parquet, expected, check_dtype=False)
    rows = json.loads((tmp_path / "out" / "stats.json").read_text(encoding="utf-8"))
    assert [row["std"] for row in rows] == pytest.approx(list(expected["std"]), rel=1e-12)
    assert list(pd.read_csv(tmp_path / "out" / "documents.csv")["layer"]) == [0]
    assert list(pd.read_csv(tmp_path / "out" / "plans.csv")["k"]) == [5]


def test_export_by_default_writes_beside_the_run(folder: Path) -> None:
    written = exports.export_folder(folder)
    assert {path.parent for path in written} == {folder.parent / "mine-export"}
    assert {path.suffix for path in written} == {".png", ".csv"}
    assert {path.stem for path in written if path.suffix == ".csv"} == set(TABLES)
    with pytest.raises(RequestError, match="exists"):
        exports.export_folder(folder)
    assert exports.export_folder(folder, figures="none", force=True)


def test_export_replaces_regular_files_alone(run: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"figures": [], "tables": ["csv"]}
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    exports.export(run, tmp_path / "linked", **options)
    with pytest.raises(RequestError, match="linked is a link, its files are not replaced"):
        exports.export(run, tmp_path / "linked", **options, force=True)
    (tmp_path / "kept.txt").write_text("kept")
    (tmp_path / "real" / "stats.csv").unlink()
    (tmp_path / "real" / "stats.csv").symlink_to(tmp_path / "kept.txt")
    with pytest.raises(RequestError, match=r"stats\.csv is a link and is not replaced"):
        exports.export(run, tmp_path / "real", **options, force=True)
    assert (tmp_path / "kept.txt").read_text() == "kept"


def test_export_keeps_other_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "paper.tex").touch()
    exports.export(run, tmp_path, figures=[], tables=["csv"])
    assert _names(tmp_path) == sorted(["paper.tex", *(f"{name}.csv" for name in TABLES)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"figures": "pgn"}, r"--figures pgn: unknown format \(did you mean 'png'\?\)"),
        ({"tables": "xlsx"}, "--tables xlsx: unknown format"),
        ({"figures": "none", "tables": "none"}, "nothing to write"),
        ({"layers": "7"}, "--layers 7: layer 7 does not exist"),
        ({"sites": "gate"}, "the run holds none of these layers and sites"),
        ({"sites": "gates"}, "unknown site 'gates'"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        exports.export_folder(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RequestError, match="is a file"):
        exports.export(run, tmp_path / "out")


def test_several_sites_get_an_overview_each(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    run = run_of({place(0, "before", site=site): values for site in ("gate", "act")})
    written = exports.export(run, tmp_path, tables=[])
    assert sorted(path.stem for path in written) == [
        "layer_000_act",
        "layer_000_gate",
        "overview",
        "overview_gate",
    ]


def test_exporting_imports_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from distviz.reports import export as exports; "
        f"exports.export_folder(Path({str(folder)!r}), Path({str(tmp_path / 'out')!r})); "
        "print([name for name in ('torch', 'numba', 'transformers', 'matplotlib.pyplot') "
        "if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    assert done.stderr == ""
    assert done.stdout == "[]\n"


def test_a_comparison_folder_holds_its_figures(comparison: Comparison, tmp_path: Path) -> None:
    out = exports.write_folder(comparison, tmp_path / "out")
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        "layer_000_act.png",
        "layer_001_act.png",
        "layer_002_act.png",
        "overview.png",
        "token_classes.png",
    ]
    with pytest.raises(RequestError, match="exists"):
        exports.write_folder(comparison, out, figures=())
    exports.write_folder(comparison, out, figures=(), force=True)
    assert not (out / "figures").exists()


def test_export_of_a_comparison_folder(comparison: Comparison, tmp_path: Path) -> None:
    folder = exports.write_folder(comparison, tmp_path / "in", figures=())
    written = exports.export_folder(
        folder, tmp_path / "out", figures="svg", tables="csv,json", layers="1"
    )
    assert sorted(path.name for path in written) == sorted(
        ["layer_001_act.svg", "overview.svg", "token_classes.svg"]
        + [f"{n}.{k}" for n in comparison.tables() for k in ("csv", "json")]
    )
    for name in comparison.tables():
        rows = json.loads((tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8"))
        assert {row["layer_a"] for row in rows} == {1}
    with pytest.raises(RequestError, match="the comparison holds none of these layers and sites"):
        exports.export_folder(folder, tmp_path / "other", sites="gate")


def test_equal_comparisons_give_equal_figures(comparison: Comparison, tmp_path: Path) -> None:
    for name in ("one", "two"):
        exports.export(comparison, tmp_path / name, figures=FIGURE_FORMATS, tables=[], layers=[0])
    paths = [*(tmp_path / "one").iterdir()]
    assert {path.suffix[1:] for path in paths} == {*FIGURE_FORMATS}
    for path in paths:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_run_folder_with_classes_holds_their_figure(first: Made, tmp_path: Path) -> None:
    out = exports.write_folder(first.run, tmp_path / "run")
    assert (out / "figures" / "token_classes.png").exists()
