"""Options of the commands: complete records, choices, and the signature that typer reads."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distviz.arm import controls
from distviz.arm.arm import MODES, PERCENTILES_OF
from distviz.cli.examples import PAGES
from distviz.cli.options import flags_of, options_of, signature
from distviz.option import HEADINGS, MEASURING
from distviz.plots import figures
from distviz.settings import OPTIONS, RunSettings, build_settings
from distviz.stats.number_formats import FORMATS
from distviz.stats.quantization import RANGES


def given(command: str, **values: Any) -> SimpleNamespace:
    """The arguments of a command as typer passes them: defaults, and these."""
    return SimpleNamespace(**{one.name: one.default for one in options_of(command)} | values)


@pytest.mark.parametrize("command", PAGES)
def test_records_are_complete(command: str) -> None:
    found = options_of(command)
    names = [option.name for option in found]
    assert len(names) == len(set(names))
    assert list(signature(command).parameters) == names
    for option in found:
        assert option.heading in ("", *HEADINGS), option.name
        assert option.text, option.name
        assert not option.text.endswith("."), option.name
        is_switch = option.type in (bool, bool | None)
        assert bool(option.metavar) != is_switch, option.name


@pytest.mark.parametrize("command", [*MEASURING, "generate"])
def test_what_is_not_given_leaves_the_defaults(command: str) -> None:
    flags = flags_of(command, given(command))
    assert set(flags) == {
        name for name, one in OPTIONS.items() if command in one.commands and name != "model"
    }
    assert set(flags.values()) == {None}
    assert build_settings(flags) == RunSettings()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"figures": "svg, pdf"}, ["svg", "pdf"]),
        ({"figures": "none"}, []),
        ({"figures": "svg", "no_figures": True}, []),
    ],
)
def test_figure_formats(values: dict[str, Any], expected: list[str]) -> None:
    assert flags_of("run", given("run", **values))["figures"] == expected


def test_arguments_come_first() -> None:
    assert list(signature("compare").parameters)[:2] == ["a", "b"]
    assert next(iter(signature("generate").parameters)) == "model"
    assert signature("show").parameters["run"].annotation is Path


def test_annotations_are_types() -> None:
    for command in PAGES:
        for parameter in signature(command).parameters.values():
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            assert not isinstance(parameter.annotation, str)
    parameters = signature("run").parameters
    assert parameters["c"].annotation == float | None
    assert parameters["figures"].annotation == str | None
    assert parameters["text"].annotation == list[str] | None


def _figure_kinds() -> set[str]:
    """The names of the figures in their source."""
    tree = ast.parse(Path(figures.__file__).read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call.args[0] for call in calls if getattr(call.func, "id", "") == "FigureSpec"]
    return {str(name.value) for name in named if isinstance(name, ast.Constant)}


def test_choices_are_those_of_the_modules_that_use_them() -> None:
    choices = {option.name: set(option.choices) for name in PAGES for option in options_of(name)}
    assert choices["arm_mode"] == set(MODES)
    assert choices["percentile_of"] == set(PERCENTILES_OF)
    assert choices["redistribution"] == set(controls.REDISTRIBUTIONS)
    assert choices["figure"] == _figure_kinds()
    assert choices["formats"] == {*FORMATS, "none"}
    assert choices["ranges"] == set(RANGES)


def test_values_of_repeatable_options_are_checked_where_they_are_used() -> None:
    for name in PAGES:
        for option in options_of(name):
            if option.type == list[str] | None:
                option.check(["some", "other"])
