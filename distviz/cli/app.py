"""The command line: parse, call one function, print, set the exit code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from distviz import interrupts
from distviz.cli import completion, options
from distviz.cli.examples import PAGES
from distviz.cli.help import HelpCommand, HelpGroup, print_versions
from distviz.errors import DistvizError, RequestError, first_line
from distviz.measure import world
from distviz.output import console, escape_streams, print_error, print_json, print_lines, print_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from distviz.plots import AxisChoice
    from distviz.results import Result

app = typer.Typer(
    name="distviz",
    cls=HelpGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SMALLER = "give a smaller --batch-size or --max-length, or a smaller --dtype"
"""What to do where tensors do not fit into memory."""
_DISTRIBUTED = ("run", "compare")
"""Commands that can run in several processes."""


def _command(function: Callable[[SimpleNamespace], None]) -> Callable[..., None]:
    """Make a command of a function: its options are records, its docstring begins its help."""
    name = function.__name__

    def command(**arguments: Any) -> None:
        _guard(name, function, SimpleNamespace(**{"quiet": False} | arguments))

    command.__name__ = name
    command.__signature__ = options.signature(name)  # type: ignore[attr-defined]
    text = f"{function.__doc__}\n\n{PAGES[name].description}"
    return app.command(name, cls=HelpCommand, help=text)(command)


def _guard(name: str, function: Callable[[SimpleNamespace], None], given: SimpleNamespace) -> None:
    """Run a command; its errors become one or two lines and an exit code."""
    interrupts.written.clear()
    try:
        _join(name)
        for option in options.options_of(name):
            setattr(given, option.name, option.parse(getattr(given, option.name)))
        function(given)
    except DistvizError as error:
        if given.debug:
            raise
        hint = options.with_commands(error.hint, name)
        raise _failed(error.message, hint, error.exit_code) from None
    except KeyboardInterrupt as error:
        raise _failed(interrupts.message(error), "", interrupts.exit_code(error)) from None
    except Exception as error:
        if given.debug:
            raise
        raise _failed(*_unexpected(error, name), 1) from None


def _unexpected(error: Exception, command: str) -> tuple[str, str]:
    """Return message and hint of an error that distviz does not raise on purpose."""
    kind = type(error).__name__
    is_torch = kind == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    if is_torch or isinstance(error, MemoryError):
        message = f"not enough memory: {first_line(error)}"
        return message, options.with_commands(_SMALLER, command) if is_torch else ""
    return (
        f"{kind}: {first_line(error)}" if str(error).strip() else kind,
        "run again with --debug to see the traceback",
    )


def _join(command: str) -> None:
    """Join the processes that a launcher started with this one."""
    if world.launched_size() == 1:
        return
    if command not in _DISTRIBUTED:
        if world.has_launcher() and os.environ["RANK"] != "0":
            time.sleep(1)  # the launcher ends the first process, which reports it, after this one
            sys.exit(2)
        raise RequestError(
            f"distviz {command} runs in one process", "start it without torchrun or accelerate"
        )
    from distviz.measure import distributed

    world.enter(distributed.join(command))


def _failed(message: str, hint: str, code: int) -> typer.Exit:
    interrupts.ignore()
    world.current().fail(message, hint, code)
    return typer.Exit(code)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of distviz and the packages it uses.",
            callback=print_versions,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Exact activation distributions of transformer MLPs, before and after redistribution."""


# Printing -----------------------------------------------------------------------------------


def _progress(given: SimpleNamespace) -> Any:
    from distviz.progress import TerminalProgress

    bar = TerminalProgress(console(stderr=True), is_silent=given.quiet or given.as_json)
    return world.current().progress(bar)


def _output(
    given: SimpleNamespace,
    data: Callable[[], Any],
    views: Sequence[Callable[[Console], RenderableType]],
    short: Sequence[object] = (),
) -> None:
    """Print what was found: as JSON, as short lines with ``--quiet``, or as views show it."""
    if given.as_json:
        print_json(data())
    elif given.quiet:
        print_lines(*short)
    else:
        screen = console()
        for view in views:
            screen.print(view(screen), crop=False)  # the terminal wraps a row that no width fits


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        print_error(f"warning: {warning}")


def _output_result(
    given: SimpleNamespace, result: Result, folder: Path, *details: Any, **options: Any
) -> None:
    """Print a result, ``details`` after its summary with ``options``, and its folder."""
    _warn(result.stated.get("warnings", []))
    summary = import_module(f"distviz.cli.views.{Path(result.FILE).stem}").summary
    views: list[Any] = [partial(summary, result, **options), *details]
    _output(given, lambda: result.summary() | {"folder": str(folder)}, views, [folder])
    if not (given.as_json or given.quiet):
        print_lines("", folder)


def _output_written(
    given: SimpleNamespace, result: Result, folder: Path, axes: AxisChoice | None = None
) -> None:
    from distviz.results import Run

    if not world.current().is_first:
        return
    if given.report:
        from distviz import reports

        reports.report_folders([folder], axes=axes)
    _output_result(given, result, folder, **({"axes": axes} if isinstance(result, Run) else {}))


def _measure(command: str, given: SimpleNamespace) -> None:
    """Execute a command that measures, or print an estimate."""
    from distviz.cli.checks import naming_command
    from distviz.cli.requests import study_of

    study = study_of(command, given)
    if not given.dry_run:
        from distviz.cli.execute import execute

        with naming_command():
            done = execute(study, _progress(given), sys.argv[1:])
        _output_written(given, *done, options.axis_choice(study.settings))
        return
    from distviz.cli.dry_run import dry_run

    with naming_command():
        found = dry_run(study)
    world.current().finish()
    if not world.current().is_first:
        return
    from distviz.cli.views.dry_run import summary

    _warn(found.as_dict()["warnings"])
    _output(given, found.as_dict, [partial(summary, found)], [found.out])


# Commands -----------------------------------------------------------------------------------


@_command
def run(given: SimpleNamespace) -> None:
    """Measure one model: without ARM, with ARM, paired."""
    _measure("run", given)


@_command
def compare(given: SimpleNamespace) -> None:
    """Compare two models or runs: distances and statistical tests."""
    _measure("compare", given)


@_command
def filler(given: SimpleNamespace) -> None:
    """Measure the same prompts with and without filler tokens."""
    _measure("filler", given)


@_command
def sweep(given: SimpleNamespace) -> None:
    """Measure a grid of ARM settings and recommend one."""
    _measure("sweep", given)


@_command
def generate(given: SimpleNamespace) -> None:
    """Continue a prompt with ARM off and on."""
    from distviz.cli import execute

    found = execute.execute_generate(given, _progress(given))
    _warn(found.manifest["warnings"])
    from distviz.cli.views.generate import summary

    _output(given, found.summary, [partial(summary, found)], "\n\n".join(found.after).split("\n"))


@_command
def inspect(given: SimpleNamespace) -> None:
    """Draw a layer with every site that can be observed."""
    if given.architectures:
        _list_architectures(given)
        return
    from distviz.cli.execute import execute_inspect
    from distviz.cli.views.inspect import inspection

    found = execute_inspect(given)
    _output(given, found.as_dict, [partial(inspection, found)])


def _list_architectures(given: SimpleNamespace) -> None:
    from distviz.cli.views.inspect import architectures
    from distviz.models.architectures import load_architectures

    if given.model is not None:
        raise RequestError(
            f"--architectures lists all model types, it takes no MODEL ('{given.model}')",
            "remove one of them",
        )
    options.refuse_given(given, ("layer", "revision", "trust_remote_code"), "--architectures")
    known = load_architectures()
    _output(given, known.as_dict, [partial(architectures, known)])


@_command
def whatif(given: SimpleNamespace) -> None:
    """Compute the error of sparsity and quantization from a saved run."""
    from distviz.cli import execute

    folder = given.run.parent / f"{given.run.resolve().name}-whatif"
    folder = folder if given.out is None else Path(given.out)
    _output_written(given, execute.execute_whatif(given, folder), folder)


@_command
def show(given: SimpleNamespace) -> None:
    """Show the results in a folder on the terminal."""
    from distviz.cli.views.channels import channel_details
    from distviz.cli.views.run import layer_details
    from distviz.results import Run, load
    from distviz.sites import parse_layers

    whole, part = load(given.run), None
    if given.layers is not None:
        part = whole.select(parse_layers(given.layers, whole.n_layers))
    shown, axes = part or whole, options.axis_choice(given)
    if given.channels:
        _output(given, *channel_details(shown, given.run), [given.run])
    elif isinstance(whole, Run):
        details = partial(layer_details, whole, cast("Run | None", part), axes=axes)
        _output_result(given, shown, given.run, details, axes=axes, whole=whole)
    else:
        _output_result(given, shown, given.run)


@_command
def report(given: SimpleNamespace) -> None:
    """Write one HTML file with figures, curves and tables."""
    from distviz import reports

    written = reports.report_folders(
        given.folders, given.out, axes=options.axis_choice(given), force=given.force
    )
    if given.as_json:
        print_json({"file": str(written), "bytes": written.stat().st_size})
    else:
        print_lines(written)


@_command
def export(given: SimpleNamespace) -> None:
    """Write figures and tables, or files of a run for another tool."""
    from distviz.cli import execute

    folder, written, warnings = execute.execute_export(given)
    _warn(warnings)
    if given.as_json:
        files = {"folder": str(folder), "files": [str(path) for path in written]}
        print_json(files | ({"warnings": warnings} if given.tool else {}))
    else:
        print_lines(*(written[:1] if given.quiet else written))


def main() -> None:
    """Run the command line of this process."""
    completion.name_shell(sys.argv[1:], os.environ)
    escape_streams()
    try:
        code = app(prog_name="distviz", standalone_mode=False)
        interrupts.check()  # typer takes an interruption outside a command without a word
    except typer.Abort:
        code = 130
    except typer.TyperException as error:
        # Errors of usage: one line, no box, and how to get help.
        message = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":
            print_text(message, stderr=True)
        elif message:
            print_error(message[:1].lower() + message[1:].rstrip("."), _help_hint(error))
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'distviz'} --help"
