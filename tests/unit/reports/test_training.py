"""The report of a training: its charts and frames hold the numbers of the snapshots."""

from __future__ import annotations

import numpy as np
import pytest
from support.figure_results import result_of
from support.synthetic_trainings import STEPS, activations, snapshot

from distviz.plots import TRAINING_CURVES
from distviz.reports import training as reports
from distviz.reports.page import Browser, Chart, DataTable, Fold, Part
from distviz.results import Training


@pytest.fixture(scope="module")
def trained() -> Training:
    found = result_of("training")
    assert isinstance(found, Training)
    return found


@pytest.fixture(scope="module")
def part(trained: Training) -> Part:
    return reports.training_part(trained)


def charts_of(part: Part) -> dict[str, Chart]:
    return {
        block.title: block
        for section in part.sections
        for block in section.blocks
        if isinstance(block, Chart)
    }


def browser_of(part: Part) -> Browser:
    (found,) = [b for s in part.sections for b in s.blocks if isinstance(b, Browser)]
    return found


def values_of(step: int, layer: int) -> np.ndarray:
    return activations(step, layer).astype(np.float64)


def test_curves_are_those_of_the_values(part: Part) -> None:
    found = charts_of(part)
    for title, function in (("standard deviation", np.std), ("largest |x|", np.max)):
        rows = found[title].spec["data"]["values"]
        assert [row["place"] for row in rows] == list(STEPS)
        for row in rows:
            for layer in range(4):
                expected = function(values_of(row["place"], layer))
                assert row[f"v{layer}"] == pytest.approx(expected, rel=2e-4)
    assert TRAINING_CURVES["dead_channels"] in found
    assert TRAINING_CURVES["near_zero"] in found
    assert TRAINING_CURVES["nonfinite"] not in found


def test_heatmaps_are_ratios_to_the_first_snapshot(part: Part) -> None:
    (cells,) = [c for t, c in charts_of(part).items() if t.startswith("standard deviation, log2")]
    for row in cells.spec["data"]["values"]:
        layer = int(row["place"].split()[1])
        ratio = values_of(row["step"], layer).std() / values_of(0, layer).std()
        assert row["value"] == pytest.approx(np.log2(ratio), abs=1e-3)
    low, high = cells.spec["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert low == -high


def test_a_frame_counts_the_values_of_a_step(part: Part) -> None:
    browser = browser_of(part)
    assert list(browser.groups) == [f"layer {layer}" for layer in range(4)]
    assert (browser.noun, browser.group_noun) == ("step", "place")
    for layer, frames in enumerate(browser.groups.values()):
        assert [frame["label"] for frame in frames] == [f"step {step}" for step in STEPS]
        scales = [frame["views"]["linear"]["all"]["tokens"]["x_scale"] for frame in frames]
        assert all(scale == scales[0] for scale in scales)  # all steps have the same axis
        for frame, step in zip(frames, STEPS, strict=True):
            numbers = {row[0]: row[1] for row in frame["numbers"] if row}
            x = values_of(step, layer)
            assert numbers["values"] == f"{x.size:,}"
            assert float(numbers["std"]) == pytest.approx(x.std(), rel=1e-3)


def test_the_intervals_are_those_of_the_drift(part: Part, trained: Training) -> None:
    chart = charts_of(part)["log variance ratio, last against first, mean of documents"]
    rows = trained.drift[trained.drift["quantity"] == "log_variance_ratio"]
    shown = chart.spec["data"]["values"]
    assert [row["estimate"] for row in shown] == rows["estimate"].tolist()
    assert [row["low"] for row in shown] == rows["ci_low"].tolist()
    (table,) = [b for s in part.sections for b in s.blocks if isinstance(b, DataTable)]
    assert len(table.rows) == len(trained.drift)
    assert part.verdict == trained.verdict


def test_a_long_training_is_thinned(monkeypatch: pytest.MonkeyPatch, trained: Training) -> None:
    monkeypatch.setattr(reports, "_MOST_STEPS", 3)
    monkeypatch.setattr(reports, "_MOST_FRAMES", 4)
    monkeypatch.setattr(reports, "_MOST_PLACES", 2)
    found = reports.training_part(trained)
    rows = charts_of(found)["standard deviation"].spec["data"]["values"]
    assert [row["place"] for row in rows] == [0, 20, 30]
    browser = browser_of(found)
    assert [len(frames) for frames in browser.groups.values()] == [2, 2]
    assert [frame["label"] for frame in browser.groups["layer 0"]] == ["step 0", "step 30"]
    texts = [getattr(block, "text", "") for section in found.sections for block in section.blocks]
    assert any("Drawn: 3 of 4 snapshots; timeline.csv has all." in text for text in texts)
    assert any(text.startswith("Shown: 2 places of 4, 2 steps of 4.") for text in texts)


def test_places_of_several_sites_are_named() -> None:
    runs = {}
    for step in (0, 9):
        a, b = (snapshot({0: activations(step, 0)}, site) for site in ("act", "gradient:act"))
        runs[step] = type(a)(a.manifest, a.sketches | b.sketches)
    found = reports.training_part(Training.of(runs))
    assert list(browser_of(found).groups) == ["act · layer 0", "gradient:act · layer 0"]
    titles = [section.title for section in found.sections]
    assert titles[:2] == ["Over the steps: act", "Over the steps: gradient:act"]


def test_a_training_that_has_just_begun_has_a_report() -> None:
    found = reports.training_part(Training.of({}))
    assert [section.title for section in found.sections] == ["How this was made"]


def test_one_snapshot_has_a_report() -> None:
    alone = result_of("training one step")
    assert isinstance(alone, Training)
    found = reports.training_part(alone)
    assert len(browser_of(found).groups["layer 0"]) == 1
    folds = [b for s in found.sections for b in s.blocks if isinstance(b, Fold)]
    assert folds
