"""On a console of ASCII and in a pipe: every result is shown, as wide as asked, and whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import synthetic_fillers
from support.synthetic_allocations import allocation_of
from support.synthetic_comparisons import make
from support.synthetic_runs import silu_run
from support.synthetic_sweeps import sweep_of
from support.terminal import printed

from distviz.cli.views.console import (
    Column,
    FittedTable,
    encode,
    encode_lines,
    paragraph,
    shortened,
)
from distviz.reports import export as exports
from distviz.studies import comparison as comparing
from distviz.studies import whatif as questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

ROOT = Path(__file__).parents[4]
NAME = "modèle…"
NUMBER = r"(?<![\w.])[-+<]?\d[\d,.]*(?:e-?\d+)?%?(?![\w.])"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("plain")
    first, second = make(1).run, make(2, scale=1.3, model={"name": NAME, "layers": 3}).run
    results = {
        "run": silu_run().run,
        "comparison": comparing.compare_runs(first, second),
        "filler": synthetic_fillers.study(),
        "sweep": sweep_of(),
        "layers": sweep_of(by_layer=True),
        "allocation": allocation_of(),
        "whatif": questions.evaluate_whatif(second, questions.parse_whatif(phases="before"), "é"),
    }
    for name, result in results.items():
        exports.write_folder(result, home / name, figures=())
    return home


def _plainly(words: list[str], width: int, encoding: str = "ascii") -> Any:
    plain = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "COLUMNS": str(width)}
    return subprocess.run(
        [sys.executable, "-m", "distviz", *words], capture_output=True, check=False,
        env=os.environ | plain | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["run", "comparison", "filler", "sweep", "layers", "allocation", "whatif"]
)
def test_every_kind_is_shown_in_ascii(folders: Path, kind: str) -> None:
    done = _plainly(["show", str(folders / kind), "--layers", "0"], 60)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "?" not in text
    *shown, folder = text.splitlines()
    assert folder.endswith(kind)
    assert all(len(line) <= 60 or len(line.rstrip("\\").split()) == 1 for line in shown)
    assert len(shown) > 5


def test_another_encoding_than_utf(folders: Path) -> None:
    done = _plainly(["show", str(folders / "comparison")], 80, "latin-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("latin-1")


def test_json_is_escaped_rather_than_mangled(folders: Path) -> None:
    done = _plainly(["show", str(folders / "whatif"), "--json"], 80)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.decode("ascii"))
    assert found["model"]["name"] == NAME
    assert found["run"] == "é"


def test_errors_are_printed_in_ascii() -> None:
    done = _plainly(["show", "nicht/da/é"], 80)
    assert done.returncode == 2
    assert b"which is not UTF-8" in done.stderr
    assert done.stderr.isascii()
    assert b"Traceback" not in done.stderr


def test_inspect_draws_in_ascii(call: Callable[..., Done]) -> None:
    done = _plainly(["inspect"], 60)
    assert done.returncode == 0, done.stderr
    assert b"RoPE" in done.stdout
    assert b"?" not in done.stdout


def test_names_stay_on_one_line() -> None:
    assert encode("a\nb\x1b[31m\u202e") == r"a\nb\x1b[31m\u202e"
    assert encode_lines("mean\nbefore\x07") == "mean\nbefore\\x07"
    assert paragraph("a\nb").plain == r"a\nb"


WIDTHS = (40, 60, 80, 100, 120, 200)


def _table() -> FittedTable:
    """Long names, numbers of every size, columns in five ranks."""
    table = FittedTable(
        [
            Column("layer", kind="text"),
            Column("module", kind="name"),
            *(Column(f"x{n}", part, drop=n) for n in range(5) for part in ("before", "after")),
        ],
        "x.csv",
    )
    for n in range(3):
        names = [f"{n} ARM", f"{10 + n}.shared_expert.activation_function"]
        table.add_row([*names, *(f"{1.2345e-7 * 10 ** (2 * k + n):.3g}" for k in range(10))])
    return table


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_leaves_out_whole_columns(width: int) -> None:
    whole = printed(lambda table, _: table, _table(), 500)
    text = printed(lambda table, _: table, _table(), width)
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split() for line in text.splitlines() if " ARM " in line]
    assert len({row[2] for row in rows}) == 3  # shortened names still differ
    assert {cell for row in rows for cell in row[3:]} <= set(whole.split())
    missing = [f"x{n}" for n in range(5) if f"x{n}" not in text.split("not shown")[0]]
    assert ("not shown" in text) == bool(missing)
    assert all(name in text.split("not shown")[1] for name in missing)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["run", "comparison", "filler", "sweep", "layers", "whatif"])
def test_every_number_is_one_of_the_whole_tables(
    folders: Path, kind: str, width: int, call: Callable[..., Done], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    whole = set(re.findall(NUMBER, call("show", folders / kind).out))
    monkeypatch.setenv("COLUMNS", str(width))
    shown = call("show", folders / kind).out
    tables = shown.partition(" (first) ")[0]  # the axis of a drawing depends on the width
    lines = [line for line in tables.splitlines() if line.startswith(" ")]
    assert {cell for line in lines for cell in re.findall(NUMBER, line)} <= whole
    assert not re.search(r"\d…|…\d", shown.replace(NAME, ""))


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [("mlp.act_fn", 10, "mlp.act_fn"), ("experts.123456.act_fn", 12, "exper….act_fn")],
)
def test_a_shortened_name_keeps_its_numbers_whole(name: str, width: int, short: str) -> None:
    assert len(short) <= max(width, 13)
    assert not re.search(r"\d…|…\d", shortened(name, width))
    assert shortened(name, len(name)) == name
