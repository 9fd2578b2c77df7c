"""The command line itself: what an exception in a command becomes, and its signature."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer

from distviz.cli import app as cli
from distviz.cli.options import options_of, signature
from distviz.errors import InterruptedRunError, MeasurementError, RequestError


def arguments(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**{one.name: one.default for one in options_of("show")} | values)


def failing(error: BaseException) -> Any:
    def command(given: SimpleNamespace) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (RequestError("--c is 0", "give another"), 2, ["distviz: --c is 0", "  give another"]),
        (MeasurementError("it failed"), 1, ["distviz: it failed"]),
        (
            InterruptedRunError("interrupted; 3 % is saved"),
            130,
            ["distviz: interrupted; 3 % is saved"],
        ),
        (KeyboardInterrupt(), 130, ["distviz: interrupted, nothing was written"]),
        (
            MemoryError("Unable to allocate 9 GiB"),
            1,
            ["distviz: not enough memory: Unable to allocate 9 GiB"],
        ),
        (
            ValueError("first\nsecond"),
            1,
            ["distviz: ValueError: first", "  run again with --debug to see the traceback"],
        ),
        (
            ValueError(),
            1,
            ["distviz: ValueError", "  run again with --debug to see the traceback"],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_becomes_two_lines_and_an_exit_code(
    error: BaseException, code: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        cli._guard("show", failing(error), arguments())
    assert ended.value.exit_code == code
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", lines)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
@pytest.mark.parametrize("command", ["run", "generate"])
def test_memory_that_is_missing_is_named(
    error: Exception, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = SimpleNamespace(**{one.name: one.default for one in options_of(command)})
    with pytest.raises(typer.Exit) as ended:
        cli._guard(command, failing(error), given)
    assert ended.value.exit_code == 1
    message, hint = capsys.readouterr().err.splitlines()
    assert message == f"distviz: not enough memory: {error}"
    assert hint.startswith("  give a smaller --batch-size or --max-length, or a smaller --dtype")
    assert ("--max-length is an option of run" in hint) == (command == "generate")


@pytest.mark.parametrize("error", [RequestError("--c is 0"), ValueError("no")])
def test_debug_raises(error: Exception) -> None:
    with pytest.raises(type(error)):
        cli._guard("show", failing(error), arguments(debug=True))


def test_options_are_checked_before_the_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    given = {one.name: one.default for one in options_of("sweep")} | {"seeds": 0}
    with pytest.raises(typer.Exit):
        cli._guard("sweep", failing(AssertionError()), SimpleNamespace(**given))
    assert capsys.readouterr().err == "distviz: --seeds is 0, it must be at least 1\n"


def test_commands_have_the_signature_of_their_records() -> None:
    names = [info.callback.__name__ for info in cli.app.registered_commands if info.callback]
    for name in names:
        found = inspect.signature(getattr(cli, name)).parameters
        assert list(found) == list(signature(name).parameters)
