"""The records of the settings, and what each changes in a result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from distviz.errors import RequestError
from distviz.settings import (
    OPTIONS,
    SIDE_B,
    RunSettings,
    build_settings,
    names_affecting,
)


def test_settings_are_plain_data() -> None:
    settings = build_settings({"c": 0.2})
    assert RunSettings(**settings.as_dict()) == settings
    with pytest.raises(dataclasses.FrozenInstanceError, match="c"):
        settings.c = 0.3  # type: ignore[misc]


def test_every_setting_says_what_it_changes() -> None:
    assert names_affecting("speed") == ("stream", "stream_memory")
    assert names_affecting("nothing") == ("out", "force", "resume", "save_every")
    assert names_affecting("figures") == ("figures", "figure_width", "x_axis", "centred")
    assert set(names_affecting("arm")) == {
        "arm_layers", "redistribution", "at", "c", "p1", "p_min", "p_max", "fraction", "arm_mode",
        "percentile_of", "passes", "ripple",
    }  # fmt: skip
    assert names_affecting("text") == (
        "text_field", "text_lines", "dataset", "max_documents", "shuffle",
    )  # fmt: skip
    kinds = ("text", "tokens", "arm", "counts", "source", "figures", "speed", "nothing")
    assert set(names_affecting(*kinds)) == set(OPTIONS)


def test_the_sites_that_are_observed_follow_those_redistributed() -> None:
    assert build_settings({}).sites == "act"
    assert build_settings({"at": "product,q"}).sites == "product,q"
    assert build_settings({"at": "product", "sites": "act"}).sites == "act"
    assert RunSettings(at="down").sites == "down"
    assert RunSettings(**RunSettings(at="down").as_dict()) == RunSettings(at="down")
    with pytest.raises(RequestError, match="unknown site 'acts'"):
        RunSettings(at="acts")


def test_the_same_result_is_asked_for_whatever_its_folder_and_speed() -> None:
    known = build_settings({"c": 0.2, "out": "a", "save_every": 1.0}).as_dict()
    assert build_settings({"c": 0.2, "out": "b", "stream": True}).asks_the_same(known)
    assert not build_settings({"c": 0.3}).asks_the_same(known)
    assert not build_settings({"c": 0.2, "dtype": "fp32"}).asks_the_same(known)


def test_the_sides_of_a_comparison_may_differ_in_model_and_arm_not_in_text() -> None:
    names = {name.removeprefix("b_") for name in SIDE_B}
    shared = {name for name, one in OPTIONS.items() if "compare" in one.commands} - names
    assert {"dtype", "attn_implementation", "revision", "c", "redistribution", "preset"} <= names
    of_text = {*names_affecting("text", "tokens"), "text", "sites", "layers"}
    of_command = {*names_affecting("nothing", "speed", "figures"), "threads"}
    assert shared <= of_text | of_command
    assert not names & (of_text | of_command)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_length": "3"}, "^max_length is '3', expected a whole number"),
        ({"max_length": None}, "^max_length is None, expected a whole number"),
        ({"layers": 0}, "^layers is 0, expected a string"),
        ({"layers": [0]}, r"^layers is \[0\], expected a string"),
        ({"ripple": "no"}, "^ripple is 'no', expected true or false"),
        ({"c": True}, "^c is True, expected a number"),
        ({"dtype": 16}, "^dtype is 16, expected a string"),
        ({"layer": {"layers": 1}}, "^layer is .*, expected a table or nothing"),
        ({"text": [3]}, r"^text is \[3\], expected a list of strings"),
    ],
)
def test_settings_of_another_type_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        RunSettings(**given)


def test_a_list_of_one_and_a_path_may_be_given_as_they_are() -> None:
    found = RunSettings(figures="svg", text="a.txt", out=Path("x"), p1=90)  # type: ignore[arg-type]
    assert (found.figures, found.text, found.out) == (["svg"], ["a.txt"], "x")
    assert found == RunSettings(figures=["svg"], text=["a.txt"], out="x", p1=90.0)
