"""The figures of a result: file names and kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import synthetic_fillers
from support.synthetic_allocations import allocation_of
from support.synthetic_runs import Synthetic, place, run_of
from support.synthetic_sweeps import sweep_of

from distviz.plots import figure_names, figure_specs
from distviz.results.comparison import Comparison
from distviz.sites import SiteKey


def test_figure_names_are_unique() -> None:
    values = np.ones(4, np.float32)
    run = run_of(
        {
            place(0, "before"): values,
            place(0, "before", site="product", module="experts.0.down"): values,
            place(0, "before", site="product", module="experts.1.down"): values,
            SiteKey(0, "encoder", "act", "before", "encoder.0.act"): values,
            place(1, "before", site="module:*.o_proj", module="layers.1.o_proj"): values,
            SiteKey(-1, "decoder", "module:lm_head", "before", "lm_head"): values,
        }
    )
    assert set(figure_names(run).values()) == {
        "layer_000_act",
        "layer_000_product_experts.0.down",
        "layer_000_product_experts.1.down",
        "encoder_layer_000_act",
        "layer_001_module-.o_proj",
        "outside_lm_head",
    }


def test_every_result_has_its_kinds_of_figures(
    synthetic: Synthetic, comparison: Comparison
) -> None:
    kinds = {
        name: {spec.kind for spec in figure_specs(result).values()}
        for name, result in {
            "run": synthetic.run,
            "comparison": comparison,
            "filler": synthetic_fillers.study(),
            "sweep": sweep_of(),
            "allocation": allocation_of(),
        }.items()
    }
    assert kinds == {
        "run": {"paired", "overview"},
        "comparison": {"compared", "overview", "classes"},
        "filler": {"filler", "positions", "by-count"},
        "sweep": {"sweep"},
        "allocation": {"allocation"},
    }


def test_a_selection_has_the_names_of_the_whole() -> None:
    values = np.ones(4, np.float32)
    run = run_of(
        {
            place(layer, "before", module=f"layers.{layer}.experts.{index}"): values
            for layer in range(2)
            for index in range(2)
        }
    )
    chosen = run.select([1], None)
    names = set(figure_specs(chosen, whole=run)) - {"overview"}
    assert names == {f"layer_001_act_layers.1.experts.{index}" for index in range(2)}


def test_something_else_has_no_figures() -> None:
    with pytest.raises(TypeError, match="int has no figures"):
        figure_specs(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        "a/b",
        "x" * 300,
        "é" * 300,
        "a\nb",
        "\x1b[31m",
        "\\..\\x",
        "",
    ],
)
def test_a_name_from_a_model_stays_a_file_name(name: str) -> None:
    """Sites, stacks and modules are named by the checkpoint or the folder."""
    key, values = SiteKey(0, name, name, "before", name), np.ones(4, np.float32)
    run = run_of({key: values, key._replace(module=f"{name}x"): values})
    for figure in figure_names(run).values():
        path = Path("out") / f"{figure}.png"
        assert path.resolve().parent == Path("out").resolve()
        assert len(path.name.encode()) <= 255
        assert figure == figure.strip(".")
