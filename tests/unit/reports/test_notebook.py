"""Results in notebooks: they display themselves, escaped, and bear their figures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import html5lib
import nbformat
import pytest
from html5lib.html5parser import HTMLParser
from matplotlib.figure import Figure
from support.figure_results import result_of
from support.synthetic_comparisons import make
from support.synthetic_elementwise import comparison_of, values_of
from support.synthetic_runs import run_of, silu_run

import distviz
from distviz.errors import RequestError
from distviz.results.run import Run
from distviz.results.whatif import whatif_verdict
from distviz.studies import evaluate_whatif
from distviz.studies.whatif import parse_whatif

NOTEBOOK = Path(__file__).parents[3] / "docs" / "notebook.ipynb"
EVIL = "</p><script>alert(1)</script>"
NAMESPACE = "{http://www.w3.org/1999/xhtml}"


def parsed(text: str) -> Any:
    HTMLParser(strict=True).parseFragment(text)
    return html5lib.parse(text)


def texts(tree: Any, name: str) -> list[str]:
    return ["".join(one.itertext()) for one in tree.iter(f"{NAMESPACE}{name}")]


def test_a_run_displays_itself() -> None:
    run = silu_run().run
    assert distviz.Run is Run
    tree = parsed(run._repr_html_())  # type: ignore[operator]
    assert any("ARM" in text and "moved" in text for text in texts(tree, "p"))
    (image,) = tree.iter(f"{NAMESPACE}img")
    assert image.get("src").startswith("data:image/png;base64,")
    rows = texts(tree, "tr")
    assert len(rows) == 1 + 6
    assert rows[0].startswith("layersitephasenear_zero")


def test_foreign_text_is_escaped() -> None:
    run = silu_run().run
    key = run.keys[0]._replace(module=EVIL)
    made = run_of({key: [0.5, 1.5, -1.0]}, model={"name": f"x {EVIL}", "activation": EVIL})
    tree = parsed(made._repr_html_())  # type: ignore[operator]
    assert not list(tree.iter(f"{NAMESPACE}script"))
    assert EVIL in texts(tree, "td")


def test_figures_of_a_run() -> None:
    run = silu_run().run
    for figure in (run.plot.paired(), run.plot.paired(layer=1, log=True), run.plot.overview()):
        assert isinstance(figure, Figure)
    title = run.plot.paired(layer=2).texts[0].get_text()
    assert "layer 2 (last)" in title
    with pytest.raises(RequestError, match="no layer 9"):
        run.plot.paired(layer=9)


def test_a_comparison() -> None:
    compared = distviz.compare(make(0).run, make(1, scale=1.3).run)
    tree = parsed(compared._repr_html_())  # type: ignore[operator]
    assert str(compared.manifest["verdict"]) in texts(tree, "p")
    assert len(texts(tree, "tr")) == 1 + 3
    for figure in (compared.plot.compared(layer=1), compared.plot.overview()):
        assert isinstance(figure, Figure)
    with pytest.raises(RequestError, match="layer 7, site act was not compared"):
        compared.plot.compared(layer=7)


def test_a_comparison_value_by_value_begins_with_its_verdict() -> None:
    compared = comparison_of(values_of(3))
    lines = texts(parsed(compared._repr_html_()), "p")[1].split("\n")  # type: ignore[operator]
    assert lines[0] == f"Value by value: {compared.manifest['elementwise']['verdict']}"
    assert "\n".join(lines[1:]).startswith(str(compared.manifest["verdict"]))


VERDICTS: dict[str, Callable[[Any], str]] = {
    "whatif": whatif_verdict,
    "whatif deep": whatif_verdict,
    "whatif gaps": whatif_verdict,
    "sweep": lambda sweep: f"{sweep.recommendation.reason}.\n{sweep.recommendation.command}",
    "by layer": lambda sweep: f"{sweep.recommendation.reason}.\n{sweep.recommendation.command}",
    "filler": lambda study: study.verdict,
}


@pytest.mark.parametrize("name", VERDICTS)
def test_every_other_result_begins_with_its_verdict(name: str) -> None:
    result = result_of(name)
    tree = parsed(result._repr_html_())
    assert texts(tree, "p")[1] == VERDICTS[name](result)
    (image,) = tree.iter(f"{NAMESPACE}img")
    assert image.get("src").startswith("data:image/png;base64,")
    assert len(texts(tree, "tr")) > 1


def test_what_if_results_without_a_figure_show_the_worst_layers() -> None:
    results = evaluate_whatif(
        silu_run().run, parse_whatif(formats="none", sparsity="none", thresholds="0.1,1")
    )
    tree = parsed(results._repr_html_())
    assert not list(tree.iter(f"{NAMESPACE}img"))
    table = results.table[results.table["phase"] == "before"]
    worst = [rows.loc[rows["l2_kept"].idxmin(), "layer"] for _, rows in table.groupby("threshold")]
    assert [row[0] for row in texts(tree, "tr")[1:]] == [str(layer) for layer in worst]


@pytest.mark.parametrize(
    "imported",
    [
        "from distviz.results.run import Run; from distviz.results.comparison import Comparison",
        "from distviz.results import load, Comparison, Run",
        "from distviz import Run, Comparison",
        "import distviz; Run, Comparison = distviz.Run, distviz.Comparison",
    ],
)
def test_displays_are_there_whatever_way_the_class_is_imported(imported: str) -> None:
    code = (
        f"import sys; {imported}; print(all(hasattr(kind, name) "
        "for kind in (Run, Comparison) for name in ('plot', '_repr_html_')), "
        "[n for n in ('torch', 'numba', 'matplotlib', 'jinja2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_displays_cost_nothing_until_they_are_used() -> None:
    code = (
        "import sys, distviz; distviz.Run; "
        "print([n for n in ('torch', 'numba', 'matplotlib', 'jinja2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.extended
def test_the_notebook_runs(tmp_path: Path) -> None:
    """In a kernel of its own, as a reader would; every cell that ends in a value shows it."""
    out = tmp_path / "done.ipynb"
    code = (
        "import sys, nbformat, nbclient\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(book, timeout=300, kernel_name='python3').execute()\n"
        "nbformat.write(book, sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(NOTEBOOK), str(out)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    book = nbformat.read(out, as_version=4)
    shown = [
        set().union(*(output.get("data", {}) for output in cell.outputs))
        for cell in book.cells
        if cell.cell_type == "code"
    ]
    assert ["text/html" in kinds for kinds in shown] == [
        True,
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert ["image/png" in kinds for kinds in shown] == [
        False, False, True, True, False, False, True,
    ]  # fmt: skip
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs"), "the notebook is kept without its outputs"
