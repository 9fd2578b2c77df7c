"""The sections of a run: the layer, every statistic as a curve and a cell."""

from __future__ import annotations

import numpy as np
import pytest
from support.html_pages import (
    NAMESPACE,
    elements,
    strict,
    texts_of,
)
from support.synthetic_runs import Synthetic, run_of, silu_run

from distviz.reports.page import Drawing, Page
from distviz.reports.rendering import render
from distviz.reports.run import run_part
from distviz.results.run import Run


def test_every_statistic_has_a_curve_and_a_cell(html: str, synthetic: Synthetic) -> None:
    stats = synthetic.run.stats()
    tables = elements(html, "table")
    (table,) = [one for one in tables if texts_of(one).strip().startswith("stats")]
    head = [texts_of(one) for one in table.iter(f"{NAMESPACE}th")]
    rows = [list(one.iter(f"{NAMESPACE}td")) for one in table.iter(f"{NAMESPACE}tr")][1:]
    assert len(rows) == len(stats)
    for cells, (_, expected) in zip(rows, stats.iterrows(), strict=True):
        for name, cell in zip(head, cells, strict=True):
            text = cell.get("data-v") or texts_of(cell)
            if isinstance(expected[name], str):
                assert text == expected[name]
            elif text:
                assert float(text.replace(",", "")) == float(expected[name])
            else:
                assert np.isnan(expected[name])
    titles = {texts_of(one).strip() for one in elements(html, "figcaption")}
    numbers = stats.select_dtypes("number").dropna(axis=1, how="all").columns
    named = {
        "near_zero": "near-zero share",
        "std": "standard deviation",
        "gini": "Gini coefficient of |x|",
    }
    assert {named.get(name, name) for name in set(numbers) - {"layer", "eps"}} <= titles


def test_a_run_without_change_or_tables() -> None:
    generator = np.random.default_rng(3)
    base = silu_run().run
    before = {
        key: generator.normal(size=100).astype("float32")
        for key in base.keys
        if key.phase == "before"
    }
    text = render(Page("x", [run_part(run_of(before, dtype="float32"))]))
    strict(text)
    assert "was measured without any change" in text


@pytest.mark.parametrize("values", [[], [np.nan, np.inf], [0.0], [1.5]])
def test_degenerate_values(values: list[float]) -> None:
    key = next(iter(silu_run().run.keys))
    made = run_of({key: np.array(values, dtype="float32")}, dtype="float32")
    strict(render(Page("x", [run_part(made)])))


@pytest.mark.parametrize("rope", [True, False, None])
def test_the_layer_is_drawn_as_the_model_has_it(rope: bool | None) -> None:
    """A folder of an earlier version does not have the field."""
    model = {"name": "m", "activation": "SiLU", "layers": 3} | (
        {} if rope is None else {"rope": rope}
    )
    made = silu_run().run
    section = run_part(Run(made.manifest | {"model": model}, made.sketches)).sections[0]
    (drawing,) = [block for block in section.blocks if isinstance(block, Drawing)]
    drawn = "".join(piece for piece, _ in drawing.pieces)
    assert drawn.count("RoPE") == (2 if rope else 0)
    lines = drawn.splitlines()
    assert len({len(line) for line in lines[2:5]}) == 1  # the frame closes
    assert [line[-1] for line in lines[2:5]] == list("┐│┘")
    assert ("[act]", "seen") in drawing.pieces


def test_every_statistic_has_a_curve_by_depth(html: str, synthetic: Synthetic) -> None:
    keys = {"layer", "site", "phase", "module", "stack"}
    titles = {texts_of(one).strip() for one in elements(html, "figcaption")}
    main = {"near_zero", "std", "gini"}
    missing = set(synthetic.run.stats()) - keys - main - titles
    finite = {
        name for name in missing if np.isfinite(synthetic.run.stats()[name].astype(float)).any()
    }
    assert finite == set()
