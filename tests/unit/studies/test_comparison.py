"""Comparing runs: documents, warnings, equal sides, chosen layers, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.synthetic_comparisons import Made, make

from distviz.results.comparison import Comparison
from distviz.studies import comparison as comparing


def test_a_run_and_itself_are_exactly_equal(first: Made) -> None:
    found = comparing.compare_runs(first.run, first.run)
    zero = ["ks", "wasserstein", "wasserstein_normalized", "js_divergence"]
    zero += ["p1_shift", "p50_shift", "p99_shift"]
    assert (found.table[zero] == 0).all(axis=None)
    assert (found.table["std_ratio"] == 1).all()
    assert (found.inference[["estimate", "ci_low", "ci_high", "effect_size"]] == 0).all(axis=None)
    assert (found.inference["p_value"] == 1).all()
    assert (found.channels["change"] == 0).all()
    assert (found.classes["near_zero_a"] == found.classes["near_zero_b"]).all()
    assert found.manifest["verdict"].startswith("no layer differs")


def test_the_other_way_round(first: Made, second: Made, comparison: Comparison) -> None:
    back = comparing.compare_runs(second.run, first.run).table
    for name in ("ks", "wasserstein", "js_divergence"):
        np.testing.assert_allclose(back[name], comparison.table[name], rtol=1e-12)
    np.testing.assert_allclose(back["p50_shift"], -comparison.table["p50_shift"], rtol=1e-12)
    np.testing.assert_allclose(back["std_ratio"], 1 / comparison.table["std_ratio"], rtol=1e-12)


# Inference ----------------------------------------------------------------------------------


def test_the_unit_is_the_document(comparison: Comparison, first: Made, second: Made) -> None:
    rows = comparison.inference.set_index(["quantity", "layer_a"])
    for layer in range(3):
        x, y = ([document.std() for document in made.raw[layer]] for made in (first, second))
        expected = np.mean(np.log(np.square(y)) - np.log(np.square(x)))
        assert rows.loc[("log_variance_ratio", layer), "estimate"] == pytest.approx(expected)
    assert comparison.inference["paired"].all()
    assert (comparison.inference["documents"] == 10).all()


def test_other_texts_are_compared_unpaired(first: Made) -> None:
    other = make(2, documents=9, text={"sha256": "other", "tokens": 54})
    found = comparing.compare_runs(first.run, other.run)
    assert not found.inference["paired"].any()
    assert (found.inference["documents"] == 9).all()
    assert (
        "the two sides have different texts; documents are compared unpaired"
        in found.manifest["warnings"]
    )


def test_another_c_withholds_the_near_zero_test(first: Made) -> None:
    other = make(2, arm={"c": 0.3})
    found = comparing.compare_runs(first.run, other.run)
    assert set(found.inference["quantity"]) == {"log_variance_ratio"}
    assert any("c = 0.13 in A and 0.3 in B" in warning for warning in found.manifest["warnings"])


def test_chosen_layers_come_back(first: Made, second: Made, tmp_path: Path) -> None:
    found = comparing.compare_runs(first.run, second.run, layers=[2])
    again = Comparison.load(found.save(tmp_path / "one"))
    assert [(pair.a.layer, pair.b.layer) for pair in again.pairs] == [(2, 2)]


def test_comparing_saved_runs_imports_no_torch(first: Made, second: Made, tmp_path: Path) -> None:
    sides = [made.run.save(tmp_path / name) for made, name in ((first, "one"), (second, "two"))]
    code = (
        "import sys; from distviz.studies import comparison as comparing; "
        "from distviz.reports import export as exports; "
        f"found = comparing.compare({str(sides[0])!r}, {str(sides[1])!r}); "
        f"exports.write_folder(found, {str(tmp_path / 'out')!r}); "
        "print([name for name in ('torch', 'numba', 'transformers', 'matplotlib.pyplot') "
        "if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == "[]\n"
