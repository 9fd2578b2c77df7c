"""The report as a file: valid HTML, everything escaped, nothing from outside, the numbers right."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pandas as pd
import pytest
from html5lib.html5parser import ParseError
from support.synthetic_comparisons import make
from support.synthetic_runs import Synthetic, run_of, silu_run, with_tables

from distviz.errors import RequestError
from distviz.reports import page_of, report_folders
from distviz.reports.cells import data_table
from distviz.reports.filler import filler_part
from distviz.reports.page import Drawing, Page, Part
from distviz.reports.rendering import render
from distviz.reports.run import run_part
from distviz.reports.sweep import sweep_part
from distviz.reports.whatif import whatif_part
from distviz.results.filler_study import QUANTITIES, FillerStudy
from distviz.results.run import Run
from distviz.results.sweep import NAMED, SWEEP_QUANTITIES, Sweep
from distviz.results.whatif import COLUMNS, WhatIf
from distviz.studies.comparison import compare

EVIL = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
NAMESPACE = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def synthetic() -> Synthetic:
    return silu_run()


@pytest.fixture(scope="module")
def folder(synthetic: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tables(synthetic.run).save(tmp_path_factory.mktemp("reports") / "run")


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return render(page_of([folder]))


def elements(text: str, name: str) -> list[Any]:
    return list(html5lib.parse(text).iter(f"{NAMESPACE}{name}"))


def texts_of(element: Any) -> str:
    return "".join(element.itertext())


def data_of(text: str, identity: str) -> Any:
    (found,) = [one for one in elements(text, "script") if one.get("id") == identity]
    return json.loads(found.text)


def browsers(text: str) -> list[Any]:
    named = [one for one in elements(text, "figure") if one.get("class") == "browser"]
    return [data_of(text, one.get("data-source")) for one in named]


def strict(text: str) -> None:
    """Parse as the standard says; the first error fails."""
    try:
        html5lib.HTMLParser(strict=True).parse(text)
    except ParseError as error:
        pytest.fail(f"not valid: {error}")


def test_is_valid_html(html: str) -> None:
    strict(html)
    identities = [one.get("id") for one in html5lib.parse(html).iter() if one.get("id")]
    assert len(identities) == len(set(identities))
    for label in elements(html, "label"):
        assert label.get("for") in identities
    for link in elements(html, "a"):
        assert link.get("href").startswith("#")
        assert link.get("href")[1:] in identities


def test_nothing_comes_from_outside(html: str) -> None:
    for element in html5lib.parse(html).iter():
        for name in ("src", "srcset", "action", "formaction", "background", "data"):
            assert element.get(name) is None
        assert not [name for name in element.attrib if str(name).startswith("on")]
    assert not elements(html, "link")
    assert "@import" not in "".join(texts_of(one) for one in elements(html, "style"))


def test_policy_names_the_scripts_of_the_page_and_no_other(html: str) -> None:
    (policy,) = [m.get("content") for m in elements(html, "meta") if m.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    run = [one for one in elements(html, "script") if one.get("type") != "application/json"]
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode()}'"
        for one in run
    ]
    assert rules["script-src"].split() == digests
    assert "unsafe-eval" not in policy


def test_texts_are_escaped_wherever_they_come_from(synthetic: Synthetic) -> None:
    run = synthetic.run
    manifest = run.manifest | {
        "model": {"name": IMAGE, "activation": EVIL, "layers": 3, "source": EVIL},
        "warnings": [EVIL],
        "settings": {"model": EVIL, "text": [EVIL], "layers": EVIL},
        "versions": {EVIL: EVIL},
    }
    sketches = {key._replace(module=f"{key.layer}.{EVIL}"): s for key, s in run.sketches.items()}
    row = {"layer": 0, "stack": EVIL, "site": EVIL, "phase": "before", "module": EVIL}
    channels = pd.DataFrame([row | {"channel": 0, "absmax": 1.0, "mean": 0.1, "std": 0.1}])
    plans = pd.DataFrame([{"layer": 0, "document": EVIL, "window": 0, "k": 5, "n": 10}])
    made = Run(manifest, sketches, channels=channels, plans=plans)
    text = render(Page(EVIL, [replace(run_part(made, EVIL), title=f"{IMAGE} · {EVIL}")]))
    strict(text)
    assert not elements(text, "img")
    plain = [one for one in elements(text, "script") if one.get("type") != "application/json"]
    assert len(plain) == 2
    assert not [one for one in plain if "alert" in one.text]
    assert f"{IMAGE} · {EVIL}" in [texts_of(one) for one in elements(text, "h1")]
    assert EVIL in [texts_of(one) for one in elements(text, "dd")]
    for one in elements(text, "script"):
        if one.get("type") == "application/json":
            json.loads(one.text)
            assert "<" not in one.text


def test_bins_of_the_figure_hold_the_values(html: str, synthetic: Synthetic) -> None:
    (data,) = browsers(html)
    (frames,) = data["groups"].values()
    assert [frame["label"] for frame in frames] == ["layer 0 (first)", "layer 1", "layer 2 (last)"]
    for layer, frame in enumerate(frames):
        assert [panel["title"] for panel in frame["panels"]] == ["before", "after"]
        for panel in frame["panels"]:
            counts = panel["columns"]["n"]
            edges = frame["left"] + frame["step"] * np.arange(len(counts) + 1)
            raw = synthetic.raw[layer, panel["title"]]
            # A value on an edge may belong to either bin.
            for edge, running in zip(edges, np.cumsum([0, *counts]), strict=True):
                least = (raw < edge).sum() - (raw <= edges[0]).sum()
                most = (raw <= edge).sum() - (raw < edges[0]).sum()
                assert least <= running <= most
    moved = [sum(panel["columns"]["m"]) for panel in frames[0]["panels"]]
    assert 0 < moved[0] <= synthetic.raw[0, "moved_before"].size
    assert not any(sum(panel["columns"]["m"]) for panel in frames[1]["panels"])


def test_every_statistic_has_a_curve_and_a_cell(html: str, synthetic: Synthetic) -> None:
    stats = synthetic.run.stats()
    tables = elements(html, "table")
    (table,) = [one for one in tables if texts_of(one).strip().startswith("stats")]
    head = [texts_of(one) for one in table.iter(f"{NAMESPACE}th")]
    rows = [list(one.iter(f"{NAMESPACE}td")) for one in table.iter(f"{NAMESPACE}tr")][1:]
    assert len(rows) == len(stats)
    for cells, (_, expected) in zip(rows, stats.iterrows(), strict=True):
        for name, cell in zip(head, cells, strict=True):
            said = cell.get("data-v") or texts_of(cell)
            if isinstance(expected[name], str):
                assert said == expected[name]
            elif said:
                assert float(said.replace(",", "")) == float(expected[name])
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


def test_several_folders_follow_one_another(folder: Path, tmp_path: Path) -> None:
    a, b = make(0).run, make(1, scale=1.4).run
    compared = compare(a, b).save(tmp_path / "compared")
    text = render(page_of([folder, compared, folder]))
    strict(text)
    assert len(elements(text, "article")) == 3
    assert len(browsers(text)) == 3
    contents = [texts_of(one) for one in elements(text, "a")]
    assert "synthetic · run" in contents


def test_a_comparison(tmp_path: Path) -> None:
    a, b = make(0), make(1, scale=1.4)
    compared = compare(a.run, b.run)
    text = render(page_of([compared.save(tmp_path / "c")]))
    strict(text)
    (data,) = browsers(text)
    (frames,) = data["groups"].values()
    columns = frames[0]["panels"][0]["columns"]
    assert sum(columns["a"]) == pytest.approx(1, abs=0.02)
    assert columns["a"] != columns["b"]
    (verdict,) = [texts_of(p) for p in elements(text, "p") if p.get("class") == "verdict"]
    assert verdict.lower() == str(compared.manifest["verdict"]).lower()


PLACE = {"layer": 0, "site": "act", "phase": "before", "module": EVIL, "stack": "decoder"}


def curves(text: str) -> dict[str, Any]:
    """The charts by title; charts of one title, the last."""
    shown = [one for one in elements(text, "figure") if one.get("class") == "chart"]
    found = [data_of(text, one.get("data-source")) for one in shown]
    return {one["title"]: one["spec"] for one in found}


def test_a_filler_study(tmp_path: Path) -> None:
    runs = {count: make(count).run for count in (0, 5, 10)}
    tested = {"ci_low": -0.3, "ci_high": -0.1, "p_value": 0.01, "p_adjusted": 0.02}
    tested |= {"effect_size": -1.0, "documents": 10, "paired": True, "documents_a": 10}
    tested |= {"documents_b": 10, "zero_variance": 0, "approximate": False, "reason": ""}
    rows = [
        {"filler_count": count, **PLACE, "layer": layer, "quantity": quantity}
        | {"estimate": -0.01 * count - 0.1 * layer}
        | tested
        for count in (5, 10)
        for layer in range(3)
        for quantity in QUANTITIES
    ]
    kept = [
        {"filler_count": count, "layer": layer, "attention_kept": 1 / (1 + count), "prompts": 10}
        | {"module": "m"}
        for count in runs
        for layer in range(3)
    ]
    manifest = {"schema_version": 2, "kind": "filler", "filler": EVIL, "counts": [0, 5, 10]}
    manifest |= {"filler_kind": "repeat", "filler_position": "between", "warnings": []}
    manifest |= {"model": {"name": "synthetic", "layers": 3}, "text": {"documents": 10}}
    tables = (pd.DataFrame(rows), pd.DataFrame(kept), pd.DataFrame(), pd.DataFrame())
    study = FillerStudy(manifest, runs, *tables)
    text = render(Page("f", [filler_part(study)]))
    strict(text)
    assert not elements(text, "img")
    headings = [texts_of(one) for one in elements(text, "h2")]
    assert "10 filler tokens against none, by layer" in headings
    assert "By number of filler tokens, layer 2, which changes most" in headings
    values = curves(text)["variance, log ratio"]["data"]["values"]
    assert [(row["place"], row["significant"]) for row in values] == [(5, True), (10, True)]
    assert [row["estimate"] for row in values] == pytest.approx([-0.25, -0.3])


def test_what_if_answers() -> None:
    base = dict.fromkeys(COLUMNS, np.nan) | PLACE | {"format": "", "range": ""}
    rows = [
        base | {"layer": layer, "question": "format", "format": f"int{bits}.x", "range": "max"}
        | {"sqnr_db": 6.0 * bits + layer}
        for layer in range(2)
        for bits in range(2, 10)
    ]  # fmt: skip
    rows += [
        base | {"layer": layer, "question": "sparsity", "level": 0.5, "l2_kept": 0.9 - 0.1 * layer}
        for layer in range(2)
    ]
    manifest = {"schema_version": 2, "kind": "whatif", "model": {"name": EVIL}}
    text = render(Page("w", [whatif_part(WhatIf(manifest, pd.DataFrame(rows)))]))
    strict(text)
    shown = curves(text)
    noise = "signal over quantization noise, dB, before"
    assert set(shown) == {
        f"{noise} (1 of 2)",
        f"{noise} (2 of 2)",
        "share of the energy kept, before",
    }
    drawn = shown[f"{noise} (2 of 2)"]["data"]["values"]
    assert [(row["place"], row["v0"], row["v1"]) for row in drawn] == [(0, 48, 54), (1, 49, 55)]


def test_a_sweep() -> None:
    base = dict.fromkeys([*NAMED, "seeds", *SWEEP_QUANTITIES], np.nan)
    base |= {"redistribution": "arm", "layers": "0", "mode": "replace", "preset": "", "seeds": 1}
    rows = [
        base | {"c": c, "p1": p1, "kl": c * p1 / 1000, "near_zero_removed": c / 4}
        | {"loss_before": 2.0, "loss_after": 2.0 + c / 10, "fraction_moved": c / 3}
        | {"near_zero_before": 0.3, "near_zero_after": 0.3 - c / 4}
        for c in (0.1, 0.2, 0.4)
        for p1 in (75.0, 99.5)
    ]  # fmt: skip
    manifest = {"schema_version": 2, "kind": "sweep", "budget_kl": 0.016, "by_layer": False}
    swept = Sweep(
        manifest | {"model": {"name": EVIL, "source": EVIL}}, pd.DataFrame(rows), pd.DataFrame(rows)
    )
    text = render(Page("s", [sweep_part(swept)]))
    strict(text)
    assert not elements(text, "img")
    shown = curves(text)
    heat = shown["near-zero share removed"]["data"]["values"]
    assert [row["value"] for row in heat] == [row["near_zero_removed"] for row in rows]
    assert [row["chosen"] for row in heat] == [False, False, True, False, False, False]
    (trade,) = [spec for title, spec in shown.items() if "against KL" in title]
    front = [row["front"] for row in trade["data"]["values"]]
    assert front == [True, False, True, False, True, False]
    layers = [row | {"layers": str(n), "p1": 75.0, "c": 0.1} for n, row in enumerate(rows[:3])]
    by_layer = Sweep(
        swept.manifest | {"by_layer": True}, pd.DataFrame(layers), pd.DataFrame(layers)
    )
    spec = curves(render(Page("s", [sweep_part(by_layer)])))["KL divergence, nats"]
    assert [row["v0"] for row in spec["data"]["values"]] == [row["kl"] for row in layers]


def test_equal_folders_give_equal_bytes(folder: Path) -> None:
    assert render(page_of([folder])) == render(page_of([folder]))


def test_where_it_is_written(folder: Path, tmp_path: Path) -> None:
    copy = Run.load(folder).save(tmp_path / "copy")
    assert report_folders([copy]) == copy / "report.html"
    assert report_folders([copy]) == copy / "report.html"
    out = tmp_path / "new" / "one.html"
    assert report_folders([copy], out) == out
    with pytest.raises(RequestError, match=re.escape(f"{out} exists")):
        report_folders([copy], out)
    report_folders([copy], out, force=True)
    assert [path.name for path in out.parent.iterdir()] == ["one.html"]
    with pytest.raises(RequestError, match="is a folder"):
        report_folders([copy], copy)
    with pytest.raises(RequestError, match="is not"):
        report_folders([tmp_path])


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
    assert "was observed without a change" in text


@pytest.mark.parametrize("values", [[], [np.nan, np.inf], [0.0], [1.5]])
def test_degenerate_values(values: list[float]) -> None:
    key = next(iter(silu_run().run.keys))
    made = run_of({key: np.array(values, dtype="float32")}, dtype="float32")
    strict(render(Page("x", [run_part(made)])))


def test_cells() -> None:
    frame = pd.DataFrame(
        {
            "n": [1234567, 2],
            "near_zero": [0.0694, np.nan],
            "x": [-0.000012345678, 3.0],
            "blank": ["", ""],
        }
    )
    table = data_table("t", frame)
    assert table.columns == [("n", True), ("near_zero", True), ("x", True)]
    said = [[(cell.text, cell.value) for cell in row] for row in table.rows]
    assert said == [
        [("1,234,567", "1234567"), ("6.94 %", "0.0694"), ("−1.235e−5", "-1.2345678e-05")],
        [("2", "2"), ("–", ""), ("3", "3.0")],
    ]


def test_the_charts_are_the_ones_that_were_bundled() -> None:
    from importlib import resources

    script = resources.files("distviz.reports") / "vendor" / "vega.js"
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    assert digest == "468c95c12b753393d1f795fbe0f0efed33d4b310ef8cd3716f1e9015e9134691"


def test_a_title_is_said_once() -> None:
    page = Page("t", [Part("t", "s", "v", [])])
    assert "<title>t · distviz</title>" in render(page)


@pytest.mark.parametrize("rope", [True, False, None])
def test_the_layer_is_drawn_as_the_model_has_it(rope: bool | None) -> None:
    """A folder of an earlier version says nothing of it."""
    said = {"name": "m", "activation": "SiLU", "layers": 3} | (
        {} if rope is None else {"rope": rope}
    )
    made = silu_run().run
    section = run_part(Run(made.manifest | {"model": said}, made.sketches)).sections[0]
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
