"""Options of the commands: complete records, choices, and the signature that typer reads."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import distviz
from distviz.arm import controls
from distviz.arm.arm import MODES, PERCENTILES_OF
from distviz.cli.examples import PAGES
from distviz.cli.options import commands_of, flags_of, options_of, signature, with_commands
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


@pytest.mark.parametrize("command", PAGES)
def test_every_amount_takes_a_percent_sign(command: str) -> None:
    for option in options_of(command):
        if option.metavar in ("SHARE", "PERCENT"):
            assert option.type == str | None, option.name  # typer would refuse the sign
            assert option.parse("50%") == {"share": 0.5, "percent": 50}[str(option.unit)]
        else:
            assert option.type not in (float, float | None) or option.metavar in (
                "NUMBER", "NATS", "SECONDS",
            ), option.name  # fmt: skip


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


# Hints ----------------------------------------------------------------------------------------

PACKAGE = Path(distviz.__file__).parent
ELSEWHERE = {"--merge", "--dequantize", "--safe_serialization", "--name"}
"""Options of other programs that hints name, and a placeholder."""
OF_EVERY_COMMAND = {"--help", "--version", "--install-completion", "--show-completion"}


def strings() -> Iterator[tuple[str, str]]:
    """Yield the string constants of the package, docstrings too, with the module."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.relative_to(PACKAGE).as_posix(), node.value


def test_options_that_texts_name_exist() -> None:
    named = {
        (option, module)
        for module, text in strings()
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?<!-)(?![\w-])", text)
    }
    assert len(named) > 100
    known = OF_EVERY_COMMAND | ELSEWHERE
    assert not {(one, where) for one, where in named if one not in known and not commands_of(one)}


def test_commands_that_texts_name_exist() -> None:
    found = [
        word for _, text in strings() for word in re.findall(r"(?:^|`|: |; )distviz ([a-z]+)", text)
    ]
    assert len(found) > 20
    assert set(found) <= set(PAGES)


@pytest.mark.parametrize(
    ("command", "hint", "expected"),
    [
        ("run", "try --device cpu or --stream", ""),
        ("sweep", "try --device cpu or --stream", " (--stream is an option of run, compare)"),
        ("inspect", "type --attn-implementation a/b", " (--attn-implementation is an option of "),
        ("compare", "measure the run without --no-keep-text", " (--no-keep-text is an option of "),
        ("export", "measure with --classes all", " (--classes is an option of run)"),
        ("report", "--format pdf, not --format or -o", " (--format is an option of export)"),
        ("run", "run `zero_to_fp32.py --safe_serialization`", ""),
        ("run", "rename a--seeds to b", ""),
    ],
)
def test_hints_say_which_commands_have_an_option(command: str, hint: str, expected: str) -> None:
    found = with_commands(hint, command)
    assert found.startswith(hint + expected)
    assert bool(expected) == (found != hint)
