"""Comparisons: pairing, distances against every value and scipy, channels, classes, folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.synthetic_comparisons import EVERY, Made, eps_of, make
from support.synthetic_runs import place, run_of

from distviz.errors import RequestError
from distviz.results.comparison import Comparison, pair_keys
from distviz.results.loading import load
from distviz.results.run import Run
from distviz.studies import comparison as comparing
from distviz.studies.compare_tables import channel_changes, distances


@pytest.fixture(scope="module")
def first() -> Made:
    return make(1)


@pytest.fixture(scope="module")
def second() -> Made:
    return make(2, scale=1.3)


@pytest.fixture(scope="module")
def comparison(first: Made, second: Made) -> Comparison:
    return comparing.compare_runs(first.run, second.run)


@pytest.fixture
def folder(comparison: Comparison, tmp_path: Path) -> Path:
    return comparison.save(tmp_path / "compared")


# Pairing ------------------------------------------------------------------------------------


def _layers(a: Run, b: Run, **chosen: Any) -> list[tuple[int, int]]:
    pairs = pair_keys(a, b, "before", "before", **chosen)
    return [(pair.a.layer, pair.b.layer) for pair in pairs]


def _bare(layers: int, **keys: Any) -> Run:
    values = {place(layer, "before", **keys): np.ones(4, np.float32) for layer in range(layers)}
    return run_of(values, model={"name": "m", "layers": layers})


def test_equal_depth_pairs_by_index() -> None:
    assert _layers(_bare(4), _bare(4)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_other_depth_pairs_by_relative_depth() -> None:
    assert _layers(_bare(7), _bare(3)) == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2)]
    assert _layers(_bare(3), _bare(7)) == [(0, 0), (1, 3), (2, 6)]
    assert _layers(_bare(1), _bare(7)) == [(0, 0)]


def test_layers_and_sites_choose() -> None:
    assert _layers(_bare(4), _bare(4), layers=[1, 3]) == [(1, 1), (3, 3)]
    assert _layers(_bare(2), _bare(2), sites=["act"]) == [(0, 0), (1, 1)]


def test_observed_layers_of_a_deeper_model_keep_their_index() -> None:
    whole = _bare(6)
    part = Run(whole.manifest, {key: whole.sketches[key] for key in whole.keys if key.layer == 4})
    assert _layers(whole, part) == [(4, 4)]


def test_the_same_module_is_preferred() -> None:
    values = np.ones(4, np.float32)
    keys = [place(0, "before", module=f"experts.{index}") for index in range(2)]
    run = run_of(dict.fromkeys(keys, values))
    pairs = pair_keys(run, run, "before", "before")
    assert [(pair.a.module, pair.b.module) for pair in pairs] == [
        ("experts.0", "experts.0"),
        ("experts.1", "experts.1"),
    ]


@pytest.mark.parametrize(
    ("run", "phase", "sites"),
    [
        (_bare(2, site="gate"), "before", None),
        (_bare(2), "after", None),
        (_bare(2), "before", ["up"]),
    ],
)
def test_nothing_in_common_is_refused(run: Run, phase: str, sites: list[str] | None) -> None:
    with pytest.raises(RequestError, match="no site and phase in common") as caught:
        pair_keys(_bare(2), run, "before", phase, sites)
    assert "A: act/before; B: " in str(caught.value)
    assert caught.value.exit_code == 2


# Distances ----------------------------------------------------------------------------------


def _by_hand(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    x, y = np.sort(x.ravel()), np.sort(y.ravel())
    values = np.unique(np.concatenate([x, y]))
    below = [np.searchsorted(side, values, side="right") / side.size for side in (x, y)]
    shares = [np.diff(np.concatenate([[0.0], side])) for side in below]
    middle = (shares[0] + shares[1]) / 2
    js = 0.0
    for share in shares:
        kept = share > 1e-15
        js += 0.5 * float((share[kept] * np.log2(share[kept] / middle[kept])).sum())
    eps, moved = eps_of(x), float((np.abs(below[0] - below[1])[:-1] * np.diff(values)).sum())
    marks = [0.01, 0.5, 0.99]
    shifts = np.quantile(y, marks) - np.quantile(x, marks)
    return {
        "ks": float(np.abs(below[0] - below[1]).max()),
        "wasserstein": moved,
        "wasserstein_normalized": moved / x.std(),
        "js_divergence": js,
        "std_ratio": y.std() / x.std(),
        "near_zero_a": float((np.abs(x) < eps).mean()),
        "near_zero_b": float((np.abs(y) < eps).mean()),
        "p1_shift": shifts[0],
        "p50_shift": shifts[1],
        "p99_shift": shifts[2],
    }


def test_distances_equal_brute_force(comparison: Comparison, first: Made, second: Made) -> None:
    assert list(comparison.table["layer_a"]) == [0, 1, 2]
    for row in comparison.table.to_dict("records"):
        expected = _by_hand(first.raw[row["layer_a"]], second.raw[row["layer_b"]])
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name


def test_distances_equal_scipy(comparison: Comparison, first: Made, second: Made) -> None:
    for row in comparison.table.to_dict("records"):
        x, y = first.raw[row["layer_a"]].ravel(), second.raw[row["layer_b"]].ravel()
        assert row["ks"] == pytest.approx(stats.ks_2samp(x, y).statistic, rel=1e-12)
        assert row["wasserstein"] == pytest.approx(stats.wasserstein_distance(x, y), rel=1e-10)


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


def test_a_side_without_values_has_no_distance() -> None:
    empty = run_of({place(0, "before"): np.zeros(0, np.float32)})
    full = run_of({place(0, "before"): np.ones(3, np.float32)})
    row = distances(pair_keys(full, empty, "before", "before"), full, empty).iloc[0]
    assert row[["ks", "wasserstein", "js_divergence", "near_zero_b"]].isna().all()


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


def test_settings_that_differ_are_named(first: Made) -> None:
    runs = [
        Run(first.run.manifest | {"settings": {"max_length": n}}, first.run.sketches,
            first.run.documents, first.run.channels)
        for n in (64, 512)
    ]  # fmt: skip
    found = comparing.compare_runs(*runs).manifest["warnings"]
    assert found == ["the sides differ in max_length: 64 and 512"]


@pytest.mark.parametrize(
    ("text", "classes", "same"),
    [
        ({}, {}, True),
        ({"tokens": 61}, {}, False),
        ({}, {"token_classes": {"digits": 21, "other": 39}}, False),
        ({"counted": 50}, {"token_classes": {"digits": 10, "other": 40}}, True),
    ],
)
def test_other_tokens_of_one_text_are_said(
    first: Made, text: dict[str, Any], classes: dict[str, Any], same: bool
) -> None:
    manifest = first.run.manifest | classes
    manifest["text"] = manifest["text"] | text
    run = first.run
    other = Run(manifest, run.sketches, run.documents, run.channels)
    found = comparing.compare_runs(run, other).manifest
    assert found["same_tokenizer"] is same
    assert ("the two sides tokenize the text differently" in found["warnings"]) is not same


# Channels and classes -----------------------------------------------------------------------


def test_channel_changes_equal_brute_force(first: Made, second: Made) -> None:
    found = comparing.compare_runs(first.run, second.run).channels
    for layer in range(3):
        rows = found[found["layer_a"] == layer]
        x, y = (made.raw[layer].reshape(-1, 24) for made in (first, second))
        change = np.stack(
            [
                np.abs(np.log(y.std(axis=0) / x.std(axis=0))),
                np.abs(y.mean(axis=0) - x.mean(axis=0)) / x.std(axis=0),
                np.abs(np.log(np.abs(y).max(axis=0) / np.abs(x).max(axis=0))),
            ]
        ).max(axis=0)
        order = np.argsort(-change, kind="stable")
        assert list(rows["channel"]) == list(order)
        np.testing.assert_allclose(rows["change"], change[order], rtol=1e-12)
        for side, values in (("a", x), ("b", y)):
            peaks = np.abs(values).max(axis=0)
            np.testing.assert_allclose(rows[f"std_{side}"], values.std(axis=0)[order], rtol=1e-12)
            expected = (peaks / np.median(peaks))[order]
            np.testing.assert_allclose(rows[f"outlier_{side}"], expected, rtol=1e-12)


def test_the_fifty_most_changed_channels(first: Made) -> None:
    wide = [make(seed, channels=80) for seed in (3, 4)]
    found = comparing.compare_runs(wide[0].run, wide[1].run).channels
    assert (found.groupby("layer_a").size() == 50).all()
    assert found.groupby("layer_a")["change"].is_monotonic_decreasing.all()


def test_other_widths_have_no_channels(first: Made) -> None:
    other = make(2, channels=30)
    found = comparing.compare_runs(first.run, other.run)
    assert found.channels.empty
    assert len(found.table) == 3


def test_a_channel_that_was_dead_comes_first(first: Made) -> None:
    run = first.run
    dead = run.channels.copy()
    dead.loc[dead["channel"] == 7, ["std", "mean", "absmax"]] = 0.0
    found = channel_changes(
        pair_keys(run, run, "before", "before"), Run(run.manifest, run.sketches, channels=dead), run
    )
    assert (found.groupby("layer_a").first()["channel"] == 7).all()
    assert np.isinf(found["change"]).sum() == 3


def test_classes_use_the_eps_of_a(comparison: Comparison, first: Made, second: Made) -> None:
    rows = comparison.classes.set_index(["layer_a", "token_class"])
    for layer in range(3):
        eps = eps_of(first.raw[layer])
        is_digit = np.arange(60) % EVERY == 0
        for side, made in (("a", first), ("b", second)):
            x = np.abs(made.raw[layer].reshape(60, -1))
            for name, chosen in (("digits", is_digit), ("other", ~is_digit)):
                row = rows.loc[(layer, name)]
                assert row[f"near_zero_{side}"] == pytest.approx((x[chosen] < eps).mean())
                assert row[f"tokens_{side}"] == chosen.sum()
    whole = comparison.table.set_index("layer_a")
    parts = comparison.classes.assign(weight=lambda t: t["near_zero_b"] * t["tokens_b"] / 60)
    np.testing.assert_allclose(parts.groupby("layer_a")["weight"].sum(), whole["near_zero_b"])


# Folders ------------------------------------------------------------------------------------


def test_a_saved_comparison_comes_back(comparison: Comparison, folder: Path) -> None:
    again = load(folder)
    assert isinstance(again, Comparison)
    assert again.manifest == comparison.manifest
    assert again.pairs == comparison.pairs
    assert again.a.sketches == comparison.a.sketches
    for name, table in comparison.tables().items():
        pd.testing.assert_frame_equal(
            again.tables()[name], table, check_dtype=False, rtol=0, atol=0
        )
    assert isinstance(load(folder / "a"), Run)
    assert json.dumps(again.summary(), allow_nan=False) == json.dumps(comparison.summary())


def test_chosen_layers_come_back(first: Made, second: Made, tmp_path: Path) -> None:
    found = comparing.compare_runs(first.run, second.run, layers=[2])
    again = Comparison.load(found.save(tmp_path / "one"))
    assert [(pair.a.layer, pair.b.layer) for pair in again.pairs] == [(2, 2)]


def test_runs_from_folders_are_copied(first: Made, second: Made, tmp_path: Path) -> None:
    sides = [made.run.save(tmp_path / name) for made, name in ((first, "one"), (second, "two"))]
    found = comparing.compare(*sides)
    out = found.save(tmp_path / "out")
    for side, name in zip(sides, "ab", strict=True):
        for path in side.iterdir():
            assert (out / name / path.name).read_bytes() == path.read_bytes()
    # A folder that is no longer that run is not copied.
    (sides[0] / "run.json").write_text("{}")
    again = found.save(tmp_path / "again")
    assert Run.load(again / "a").manifest == first.run.manifest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("comparison.json", None, "is not a result of distviz: it has no run.json, "),
        ("comparison.json", "{", r"comparison.json is damaged"),
        ("comparison.json", '{"schema_version": 99}', "was written with schema version 99"),
        ("comparison.json", '{"schema_version": 2}', "comparison.json is damaged: it has no"),
        ("compare.csv", None, "compare.csv is missing"),
        ("compare.csv", "layer_a\n1\n", "compare.csv is damaged: it has no column"),
        ("compare.csv", "\0\0", "compare.csv is damaged"),
        ("inference.csv", "quantity\nx\n", "inference.csv is damaged: it has no column"),
        ("a/counts.parquet", "PAR1", "counts.parquet is damaged"),
        ("b/run.json", None, "is not a run: it has no run.json"),
        ("b/channels.parquet", None, "channels.parquet is missing"),
    ],
)
def test_damage_is_named(folder: Path, name: str, content: str | None, message: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(RequestError, match=message) as caught:
        load(folder)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 2


def test_a_row_too_few_is_damage(folder: Path) -> None:
    lines = (folder / "compare.csv").read_text().splitlines(keepends=True)
    (folder / "compare.csv").write_text("".join(lines[:-1]))
    with pytest.raises(RequestError, match=r"compare\.csv is damaged: it has 2 rows"):
        load(folder)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("compared", r"compared is a comparison, not a run\ngive .*compared/a or"),
        (".", "is neither a run nor a checkpoint"),
        ("nosuch/place/x", "MODEL '.*' does not exist"),
    ],
)
def test_sides_that_are_no_runs(folder: Path, first: Made, side: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        comparing.compare(first.run, folder.parent / side)
    assert caught.value.exit_code == 2


def test_a_phase_that_a_run_lacks_is_refused_before_anything_is_measured(first: Made) -> None:
    with pytest.raises(RequestError, match="the run holds no phase after"):
        comparing.compare(first.run, "demo", phase_a="after")
    with pytest.raises(RequestError, match="the run holds no phase before at site gate"):
        comparing.compare(first.run, "demo", sites="gate")
    with pytest.raises(RequestError, match="unknown site 'gat'"):
        comparing.compare(first.run, "demo", sites="gat")


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
