"""The sides of a comparison: folders, copies, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.synthetic_comparisons import Made

from distviz.arm.presets import find_preset
from distviz.errors import RequestError
from distviz.results.comparison import Comparison
from distviz.results.run import Run
from distviz.settings import RunSettings
from distviz.studies import comparison as comparing
from distviz.studies.compare_sides import CompareSide, find_sides, phase_of_b


@pytest.fixture
def folder(comparison: Comparison, tmp_path: Path) -> Path:
    return comparison.save(tmp_path / "compared")


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


def test_a_model_that_has_a_file_of_its_training_is_a_model(demo_folder: Path) -> None:
    assert (demo_folder / "training.json").exists()
    a, b = sides_of(str(demo_folder), str(demo_folder), b_c=0.4)
    assert (a.run, b.run) == (None, None)


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


# Options for B alone --------------------------------------------------------------------------


def sides_of(a: Any, b: Any, phase_b: str | None = None, **of_b: Any) -> list[CompareSide]:
    base = RunSettings(max_tokens=50, explicit=frozenset({"max_tokens"}))
    return find_sides(a, b, ("before", phase_b), base, frozenset({"max_tokens"}), of_b)


def test_what_holds_for_b_alone_leaves_a_unchanged() -> None:
    a, b = (side.settings for side in sides_of("demo", "demo", b_dtype="bf16", b_device="cpu"))
    assert (a.dtype, a.device) == ("auto", "auto")
    assert (b.dtype, b.device) == ("bf16", "cpu")
    assert replace(b, dtype="auto", device="auto") == a
    assert {"dtype", "device"} <= b.explicit


@pytest.mark.parametrize(
    ("of_b", "phase", "expected"),
    [
        ({}, None, ("before", "none")),
        ({"b_dtype": "bf16"}, None, ("before", "none")),
        ({"b_arm_layers": "1"}, None, ("after", "1")),
        ({"b_c": 0.3}, None, ("after", "0")),
        ({"b_preset": "qwen2.5-32b-instruct"}, None, ("after", "0")),
        ({"b_arm_layers": "none"}, None, ("before", "none")),
        ({"b_dtype": "bf16"}, "after", ("after", "0")),
    ],
)
def test_arm_on_one_side_compares_its_after(
    of_b: dict[str, Any], phase: str | None, expected: tuple[str, str]
) -> None:
    a, b = sides_of("demo", "demo", phase, **of_b)
    assert (phase_of_b(phase, of_b), b.settings.arm_layers) == expected
    assert a.settings.arm_layers == "none"


def test_both_sides_observe_what_is_redistributed_on_one() -> None:
    a, b = (side.settings for side in sides_of("demo", "demo", b_at="product"))
    assert (a.at, a.sites, b.at, b.sites) == ("act", "act,product", "product", "act,product")
    base = RunSettings(sites="gate", explicit=frozenset({"sites"}))
    sides = find_sides("demo", "demo", ("before", None), base, base.explicit, {"b_at": "product"})
    assert [side.settings.sites for side in sides] == ["gate", "gate"]


def test_a_preset_of_b_fills_what_was_not_given() -> None:
    _, b = sides_of("demo", "demo", b_preset="qwen2.5-32b-instruct", b_p1=70.0)
    assert (b.settings.c, b.settings.p1) == (find_preset("qwen2.5-32b-instruct", None)["c"], 70.0)


def test_c_of_b_is_not_replaced_by_the_fraction_of_both() -> None:
    base = RunSettings(fraction=0.1, explicit=frozenset({"fraction"}))
    _, b = find_sides("demo", "demo", ("before", None), base, base.explicit, {"b_c": 0.4})
    assert (b.settings.c, b.settings.fraction) == (0.4, None)


def test_options_of_b_replace_the_settings_of_the_run_that_a_is(second: Made) -> None:
    run = second.run
    known = run.manifest | {"settings": {"c": 0.2, "p1": 80.0, "sites": "act"}, "arm": {"c": 0.2}}
    a, b = sides_of(
        Run(known, run.sketches, run.documents, run.channels, texts=[]), "demo", b_c=0.4
    )
    assert a.run is not None
    assert (b.settings.c, b.settings.p1) == (0.4, 80.0)


@pytest.mark.parametrize(
    ("of_b", "phase", "message"),
    [
        ({"b_c": 0.3}, "before", "--phase-b before leaves --b-c without effect"),
        ({"b_dtype": "fp3"}, None, "side B: --dtype is 'fp3'"),
        ({"b_c": "x"}, None, "side B: 'c' is 'x', expected a number"),
        ({"b_arm_layers": "none"}, "after", "the phase after is that with ARM"),
    ],
)
def test_options_of_b_that_are_refused(
    of_b: dict[str, Any], phase: str | None, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        sides_of("demo", "demo", phase, **of_b)


def test_options_of_b_need_a_model_as_b(first: Made, tmp_path: Path) -> None:
    folder = first.run.save(tmp_path / "saved")
    for side, shown in ((first.run, "a run"), (folder, f"{folder}, a run folder")):
        with pytest.raises(RequestError, match=f"--b-dtype, --b-c: side B is {shown}"):
            sides_of("demo", side, b_dtype="bf16", b_c=0.2)


def test_code_that_is_asked_for_b_alone_is_trusted_there() -> None:
    a, b = (side.settings for side in sides_of("demo", "demo", b_attn_implementation="a/b"))
    assert ("attn_implementation", "a/b") in (b.trusted or ())
    assert not a.trusted
