"""The commands as functions of Python: the same requests, checks, results and folders.

Nothing is written without ``out``, but by `report` and `export`, whose purpose it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from distviz.cli.parameters import (
    arguments_of,
    bind,
    in_parameters,
    naming_parameters,
    parameters_of,
    signature_of,
)
from distviz.errors import RequestError
from distviz.option import no_effect
from distviz.progress import Progress, TerminalProgress

if TYPE_CHECKING:
    from distviz.results import Allocation, Comparison, FillerStudy, Result, Run, Sweep, WhatIf
    from distviz.settings import RunSettings
    from distviz.studies import Continuations, Inspection

_SIDES = ("model", "a", "b", "run")
"""Parameters that name a model or a folder."""


def as_function(call: Callable[[Mapping[str, Any]], Any]) -> Callable[..., Any]:
    """Return the function of a command; its parameters are records, its docstring has them all.

    ``call`` has the command's name and takes the arguments that are given, by name.
    """
    name, returns = call.__name__, str(call.__annotations__["return"])

    def function(*args: Any, **named: Any) -> Any:
        with naming_parameters(name):
            return call(bind(name, args, named))

    function.__name__ = function.__qualname__ = name
    function.__module__ = "distviz.functions"
    function.__doc__ = _documentation(name, call, returns)
    function.__signature__ = signature_of(name, returns)  # type: ignore[attr-defined]
    return function


def _documentation(name: str, call: Callable[..., Any], returns: str) -> str:
    """Return a docstring in the form of NumPy's."""
    lines = [str(inspect.getdoc(call)), "", "Parameters", "----------"]
    for option in parameters_of(name).values():
        text = option.text.format(choices=", ".join(f"``{one}``" for one in option.choices))
        default = f" Default: {option.shown}." if option.shown else ""
        lines += [option.name, f"    {in_parameters(f'{text}.{default}', name, '``{}``')}"]
    errors = ["Raises", "------", "RequestError", "    If the request cannot be carried out."]
    failed = ["MeasurementError", "    If the measurement fails."]
    measures = "progress" in parameters_of(name)
    return "\n".join([*lines, "", "Returns", "-------", returns, f"    {_RETURNED[returns]}", "",
                      *errors, *failed * measures])  # fmt: skip


_RETURNED = {
    "Run": "What was measured.",
    "Comparison": "Distances, tests and both sides.",
    "FillerStudy": "The runs by their number of filler tokens, and the changes.",
    "Sweep | Allocation": "Every setting with its effect; with ``allocate`` an `Allocation`.",
    "WhatIf": "The error of each place.",
    "Inspection": "The layer, its points and their widths.",
    "Continuations": "The texts without and with ARM.",
    "Path": "The file.",
    "list[Path]": "The files.",
}


# Measuring --------------------------------------------------------------------------------------


def run(values: Mapping[str, Any]) -> Run:
    """Measure one model: without ARM, with ARM, paired."""
    return cast("Run", _measured("run", values))


def compare(values: Mapping[str, Any]) -> Comparison:
    """Compare two models or runs: distances and statistical tests.

    A side that is a model is measured first. If one side is a run, its text and settings apply to
    the other, where no other ones are given.
    """
    return cast("Comparison", _measured("compare", values))


def filler(values: Mapping[str, Any]) -> FillerStudy:
    """Measure the same prompts with and without filler tokens."""
    return cast("FillerStudy", _measured("filler", values))


def sweep(values: Mapping[str, Any]) -> Sweep | Allocation:
    """Measure a grid of ARM settings and recommend one."""
    return cast("Sweep | Allocation", _measured("sweep", values))


def _measured(command: str, values: Mapping[str, Any]) -> Result:
    """Measure as a command does; the folder is written where ``out`` is given."""
    from distviz import reports
    from distviz.cli.execute import execute
    from distviz.cli.options import axis_choice
    from distviz.cli.requests import study_of

    given, settings = _given(command, values), _settings(command, values)
    study = study_of(command, given, settings, values.get("given"))
    progress = _progress(command, values.get("progress", False))
    with _same_threads(study.settings.threads):
        if study.settings.out is None:
            _refuse_unwritten(command, values)
            try:
                return study.measure(progress, None)
            finally:
                progress.stop()
        result, folder = execute(study, progress)
    if given.report:
        reports.report_folders([folder], axes=axis_choice(study.settings))
    return result


def _given(command: str, values: Mapping[str, Any]) -> SimpleNamespace:
    """Return the arguments of a command, see `arguments_of`; documents in place of files."""
    from distviz.models import refuse_opened
    from distviz.results import Run

    for name in _SIDES:
        if name in values and not (name != "model" and isinstance(values[name], Run)):
            refuse_opened(values[name], command)
    runs = {name: values[name] for name in _SIDES if isinstance(values.get(name), Run)}
    plain = {name: value for name, value in values.items() if name not in {"text", *runs}}
    given = arguments_of(command, plain)
    given.__dict__.update(runs)
    if "text" in values:
        _take_text(given, values["text"])
    return given


def _take_text(given: SimpleNamespace, text: Any) -> None:
    """Take documents; files alone are settings, as those of ``--text`` are."""
    from distviz.data import list_sources

    documents = list_sources(text)
    if all(isinstance(one, Path) for one in documents):
        given.text = [str(one) for one in documents]
    else:
        given.texts = tuple(documents)


def _settings(command: str, values: Mapping[str, Any]) -> RunSettings | None:
    """Return the settings that are given together, with the model and text beside them."""
    from distviz.settings import OPTIONS, RunSettings

    settings = values.get("settings")
    if settings is None:
        if "given" in values:
            raise no_effect("given", "without settings")
        return None
    if not isinstance(settings, RunSettings):
        raise RequestError(
            f"settings is a {type(settings).__name__}", "give a distviz.settings.RunSettings"
        )
    beside = ("text", "sites" if command == "compare" else "model")
    alone = next((name for name in values if name in OPTIONS and name not in beside), None)
    if alone is not None:
        raise RequestError(f"{alone} and settings are given", f"give {alone} in settings")
    own: dict[str, Any] = {}
    if "model" in values:
        own["model"] = str(values["model"])
    if "text" in values:
        given = SimpleNamespace(text=[], texts=())
        _take_text(given, values["text"])
        own |= vars(given)
    return replace(settings, **own)


@contextmanager
def _same_threads(asked: int | None) -> Iterator[None]:
    """Restore torch's number of threads, which a measurement with ``threads`` changes."""
    if asked is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_unwritten(command: str, values: Mapping[str, Any]) -> None:
    """Refuse what only says how a folder is written, where none is."""
    for name, option in parameters_of(command).items():
        is_of_folder = name == "report" or option.affects in ("figures", "nothing")
        if is_of_folder and name in values and values[name] not in (False, [], (), "none"):
            raise no_effect(name, "without out", ", or give a folder as out")


class _NamingProgress(TerminalProgress):
    """Shows the progress of the command line; notes name parameters in place of options."""

    command = "run"

    def note(self, text: str) -> None:
        """Print a note above the bar."""
        super().note(in_parameters(text, self.command))


def _progress(command: str, asked: object) -> Progress:
    from distviz.output import console

    if isinstance(asked, Progress):
        return asked
    if not isinstance(asked, bool):
        raise RequestError(
            f"progress is a {type(asked).__name__}", "give True, False or a distviz Progress"
        )
    if not asked:
        return Progress()
    progress = _NamingProgress(console(stderr=True))
    progress.command = command
    return progress


# Others -----------------------------------------------------------------------------------------


def generate(values: Mapping[str, Any]) -> Continuations:
    """Continue a prompt with ARM off and on."""
    from distviz.cli.execute import execute_generate

    given = _given("generate", values)
    with _same_threads(values.get("threads")):
        return execute_generate(given, _progress("generate", values.get("progress", False)))


def inspect_model(values: Mapping[str, Any]) -> Inspection:
    """Describe a layer of a model with every site that can be observed; no weights are needed."""
    from distviz.cli.execute import execute_inspect

    return execute_inspect(_given("inspect", values))


inspect_model.__name__ = "inspect"


def whatif(values: Mapping[str, Any]) -> WhatIf:
    """Compute the error of sparsity and quantization from a saved run."""
    from distviz.cli.execute import execute_whatif

    given = _given("whatif", values)
    if given.out is None:
        _refuse_unwritten("whatif", values)
        return execute_whatif(given, None)
    from distviz import reports

    folder = Path(given.out)
    found = execute_whatif(given, folder)
    if given.report:
        reports.report_folders([folder])
    return found


def report(values: Mapping[str, Any]) -> Path:
    """Write one HTML file with figures, curves and tables."""
    from distviz import reports
    from distviz.cli.options import axis_choice

    given = _given("report", values)
    return reports.report_folders(
        given.folders, given.out, axes=axis_choice(given), force=given.force
    )


def export(values: Mapping[str, Any]) -> list[Path]:
    """Write figures and tables of a result, or files of a run for another tool."""
    from distviz.cli.execute import execute_export

    return execute_export(_given("export", values))[1]
