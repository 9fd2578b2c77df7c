"""The command line: parse, call one function, print, exit code. No logic lives here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from distviz.cli import completion as completions
from distviz.cli import examples as manual
from distviz.cli import help as help_pages
from distviz.cli import options
from distviz.cli.views.console import is_unicode_name, replace_unencodable
from distviz.errors import DistvizError, RequestError, first_line
from distviz.measure import world as processes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from distviz.cli.dry_run import Estimate
    from distviz.results import Result

__all__ = ["app", "main"]

app = typer.Typer(
    name="distviz",
    cls=help_pages.HelpGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_SHARED = frozenset(("run", "compare"))
"""Commands that several processes can share."""


def _edge(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user can cause into one or two lines and an exit code."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            _join(command.__name__)
            command(*args, **kwargs)
        except DistvizError as error:
            if kwargs.get("debug"):
                raise
            raise _ended(error.message, error.hint, error.exit_code) from None
        except KeyboardInterrupt:
            raise _ended("interrupted, nothing was written", "", 130) from None
        except BrokenPipeError:
            # The reader of a pipe has gone (head, less); that is no error of ours.
            sys.stdout = None
            raise typer.Exit(0) from None
        except Exception as error:
            if kwargs.get("debug"):
                raise
            name = type(error).__name__
            raise _ended(
                f"{name}: {first_line(error)}" if str(error).strip() else name,
                "run again with --debug to see where it happened",
                1,
            ) from None

    return guarded


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: its docstring and its page are its help."""
    name = function.__name__
    page = manual.PAGES[name]
    registered = app.command(
        name,
        cls=help_pages.HelpCommand,
        help=f"{function.__doc__}\n\n{page.description}",
        rich_help_panel=page.group,
    )
    return registered(_edge(function))


def _join(command: str) -> None:
    """Join the processes that a launcher started with this one."""
    if processes.launched_size() == 1:
        return
    if command not in _SHARED:
        if os.environ["RANK"] != "0":
            sys.exit(2)
        raise RequestError(
            f"distviz {command} works in one process", "start it without torchrun or accelerate"
        )
    from distviz.measure import distributed

    processes.enter(distributed.join(command))


def _ended(message: str, hint: str, code: int) -> typer.Exit:
    processes.current().fail(message, hint, code)
    return typer.Exit(code)


_NEEDED = ("accelerate", "numba", "numpy", "pandas", "pyarrow", "scipy", "matplotlib")
_OPTIONAL = ("gguf", "peft", "compressed-tensors", "bitsandbytes", "torchao", "lm-eval")


def _version(value: bool) -> None:
    """Print what numbers and files depend on, and which optional packages are there."""
    if not value:
        return
    import platform
    from importlib.metadata import PackageNotFoundError, version

    print(f"distviz {version('distviz')}")
    print(f"python {platform.python_version()} ({platform.system()} {platform.machine()})")
    for name in ("torch", "transformers", *_NEEDED, *_OPTIONAL):
        try:
            print(name, version(name))
        except PackageNotFoundError:
            print(name, "not installed" + " (optional)" * (name in _OPTIONAL))
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the versions that matter.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Exact activation distributions of transformer MLPs, before and after redistribution."""


@_command
def run(
    model: options.Model = None,
    config: options.Config = None,
    text: options.Text = None,
    layers: options.Layers = None,
    sites: options.Sites = None,
    arm_layers: options.ArmLayers = None,
    redistribution: options.Redistribution = None,
    c: options.C = None,
    p1: options.P1 = None,
    p_min: options.PMin = None,
    p_max: options.PMax = None,
    fraction: options.Fraction = None,
    arm_mode: options.ArmMode = None,
    percentile_of: options.PercentileOf = None,
    passes: options.Passes = None,
    preset: options.Preset = None,
    ripple: options.Ripple = None,
    filler: options.Filler = None,
    filler_count: options.FillerCount = None,
    filler_position: options.FillerPosition = None,
    filler_kind: options.FillerKind = None,
    chat_template: options.ChatTemplate = None,
    max_length: options.MaxLength = None,
    max_tokens: options.MaxTokens = None,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    stream: options.Stream = None,
    stream_memory: options.StreamMemory = None,
    attn_implementation: options.AttnImplementation = None,
    threads: options.Threads = None,
    revision: options.Revision = None,
    skip_special: options.SkipSpecial = None,
    classes: options.Classes = None,
    keep_text: options.KeepText = None,
    seed: options.Seed = None,
    out: options.Out = None,
    force: options.Force = False,
    resume: options.Resume = None,
    save_every: options.SaveEvery = None,
    figures: options.Figures = None,
    no_figures: options.NoFigures = False,
    figure_width: options.FigureWidth = None,
    report: options.Report = False,
    allow_pickle: options.AllowPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure one model: without ARM, with ARM, paired."""
    flags = _flags(locals())
    if dry_run:
        from distviz.cli import dry_run as estimate_command

        _present_plan(estimate_command.plan_run(flags, config, model), quiet=quiet, as_json=as_json)
        return
    from distviz.cli import execute

    finished, folder = execute.run_to_folder(flags, config, model, _reporter(quiet or as_json))
    _present(finished, folder, quiet=quiet, as_json=as_json, report=report)


_NO_SETTINGS = frozenset(
    (
        *("model", "config", "quiet", "as_json", "debug", "no_figures", "report"),
        *("dry_run",),
        *("a", "b", "phase_a", "phase_b", "counts"),
        *("seeds", "budget_kl", "by_layer"),
        *("prompt", "system", "on", "max_new_tokens", "num_samples"),
        *("sample", "temperature", "top_p"),
    )
)


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """Turn a command's arguments into settings; None where nothing was said."""
    flags = {name: value for name, value in given.items() if name not in _NO_SETTINGS}
    if "out" not in flags:  # a command that writes nothing
        return flags
    flags["force"] = flags["force"] or None
    flags["out"] = None if flags["out"] is None else str(flags["out"])
    flags["figures"] = _formats(given["figures"], given["no_figures"])
    return flags


def _formats(figures: str | None, no_figures: bool) -> list[str] | None:
    """Return the formats of figures; None where nothing was said."""
    if no_figures or figures == "none":
        return []
    return None if figures is None else [name.strip() for name in figures.split(",")]


def _reporter(is_silent: bool) -> Any:
    from distviz.progress import TerminalProgress

    bar = TerminalProgress(_console(stderr=True), is_silent=is_silent)
    return processes.current().progress(bar)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _present(
    finished: Result,
    folder: Path,
    *,
    quiet: bool,
    as_json: bool,
    report: bool = False,
    closer: Callable[[Console], RenderableType] | None = None,
) -> None:
    if not processes.current().is_first:
        return
    if report:
        from distviz import reports

        reports.report_folders([folder])
    for warning in finished.manifest.get("warnings", []):
        print(f"distviz: warning: {warning}", file=sys.stderr)
    if as_json:
        _print_json(finished.summary() | {"folder": str(folder)})
    elif quiet:
        print(folder)
    else:
        console = _console()
        findings = import_module(f"distviz.cli.views.{_FINDINGS[finished.manifest['kind']]}")
        console.print(findings.summary(finished, console))
        if closer is not None:
            console.print(closer(console))
        console.print(f"\n{folder}", soft_wrap=True)


def _present_plan(plan: Estimate, *, quiet: bool, as_json: bool) -> None:
    processes.current().finish()
    if not processes.current().is_first:
        return
    for note in plan.notes:
        print(f"distviz: warning: {note}", file=sys.stderr)
    if as_json:
        _print_json(plan.as_dict())
    elif quiet:
        print(plan.out)
    else:
        from distviz.cli.views import dry_run as estimate_tables

        console = _console()
        console.print(estimate_tables.plan(plan, console))


_FINDINGS = {
    "run": "run",
    "comparison": "comparison",
    "filler": "filler",
    "sweep": "sweep",
    "whatif": "whatif",
}
"""Which room tells the findings of a kind of result on the terminal."""


def _print_json(data: Any) -> None:
    escaped = not is_unicode_name(sys.stdout.encoding)
    print(json.dumps(data, ensure_ascii=escaped, allow_nan=False))


@_command
def compare(
    a: options.SideA,
    b: options.SideB,
    phase_a: options.PhaseA = "before",
    phase_b: options.PhaseB = "before",
    config: options.Config = None,
    text: options.Text = None,
    layers: options.Layers = None,
    sites: options.Sites = None,
    arm_layers: options.ArmLayers = None,
    redistribution: options.Redistribution = None,
    c: options.C = None,
    p1: options.P1 = None,
    p_min: options.PMin = None,
    p_max: options.PMax = None,
    fraction: options.Fraction = None,
    arm_mode: options.ArmMode = None,
    percentile_of: options.PercentileOf = None,
    passes: options.Passes = None,
    preset: options.Preset = None,
    chat_template: options.ChatTemplate = None,
    max_length: options.MaxLength = None,
    max_tokens: options.MaxTokens = None,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    stream: options.Stream = None,
    stream_memory: options.StreamMemory = None,
    attn_implementation: options.AttnImplementation = None,
    threads: options.Threads = None,
    skip_special: options.SkipSpecial = None,
    seed: options.Seed = None,
    out: options.Out = None,
    force: options.Force = False,
    resume: options.Resume = None,
    save_every: options.SaveEvery = None,
    figures: options.Figures = None,
    no_figures: options.NoFigures = False,
    figure_width: options.FigureWidth = None,
    report: options.Report = False,
    allow_pickle: options.AllowPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Compare two models or runs: distances, and what exceeds noise."""
    flags = _flags(locals())
    if dry_run:
        from distviz.cli import dry_run as estimate_command

        plan = estimate_command.plan_compare(a, b, phase_a, phase_b, flags, config)
        _present_plan(plan, quiet=quiet, as_json=as_json)
        return
    from distviz.cli import execute

    finished, folder = execute.compare_to_folder(
        a, b, phase_a, phase_b, flags, config, _reporter(quiet or as_json)
    )
    _present(finished, folder, quiet=quiet, as_json=as_json, report=report)


@_command
def filler(
    model: options.ModelRequired,
    counts: options.Counts = None,
    config: options.Config = None,
    text: options.Text = None,
    layers: options.Layers = None,
    sites: options.Sites = None,
    filler: options.Filler = None,
    filler_count: options.FillerCount = None,
    filler_position: options.FillerPosition = None,
    filler_kind: options.FillerKind = None,
    chat_template: options.ChatTemplate = None,
    max_length: options.MaxLength = None,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    attn_implementation: options.AttnImplementation = None,
    attention_layers: options.AttentionLayers = None,
    threads: options.Threads = None,
    revision: options.Revision = None,
    skip_special: options.SkipSpecial = None,
    seed: options.Seed = None,
    out: options.Out = None,
    force: options.Force = False,
    resume: options.Resume = None,
    save_every: options.SaveEvery = None,
    figures: options.Figures = None,
    no_figures: options.NoFigures = False,
    figure_width: options.FigureWidth = None,
    report: options.Report = False,
    allow_pickle: options.AllowPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure the same prompts with and without meaningless tokens."""
    flags = _flags(locals())
    if dry_run:
        from distviz.cli import dry_run as estimate_command

        plan = estimate_command.plan_filler(model, counts, flags, config)
        _present_plan(plan, quiet=quiet, as_json=as_json)
        return
    from distviz.cli import execute

    study, folder = execute.filler_to_folder(
        model, counts, flags, config, _reporter(quiet or as_json)
    )
    _present(study, folder, quiet=quiet, as_json=as_json, report=report)


@_command
def sweep(
    model: options.Model = None,
    c: options.CList = None,
    p1: options.P1List = None,
    fraction: options.FractionList = None,
    arm_mode: options.ModeList = None,
    redistribution: options.RedistributionList = None,
    arm_layers: options.LayerAlternatives = None,
    by_layer: options.ByLayer = False,
    preset: options.PresetList = None,
    seeds: options.Seeds = 1,
    budget_kl: options.BudgetKl = 0.05,
    p_min: options.PMin = None,
    p_max: options.PMax = None,
    percentile_of: options.PercentileOf = None,
    passes: options.Passes = None,
    config: options.Config = None,
    text: options.Text = None,
    filler: options.Filler = None,
    filler_count: options.FillerCount = None,
    filler_position: options.FillerPosition = None,
    filler_kind: options.FillerKind = None,
    chat_template: options.ChatTemplate = None,
    max_length: options.MaxLength = None,
    max_tokens: options.MaxTokens = None,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    attn_implementation: options.AttnImplementation = None,
    threads: options.Threads = None,
    revision: options.Revision = None,
    skip_special: options.SkipSpecial = None,
    seed: options.Seed = None,
    resume: options.Resume = None,
    save_every: options.SaveEvery = None,
    out: options.Out = None,
    force: options.Force = False,
    figures: options.Figures = None,
    no_figures: options.NoFigures = False,
    figure_width: options.FigureWidth = None,
    report: options.Report = False,
    allow_pickle: options.AllowPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Try a grid of settings: what each does, and which one to take."""
    flags = _flags(locals())
    from distviz.cli import execute

    asked = execute.SweepRequest(
        {name: flags.pop(name) for name in execute.GRID}, seeds, budget_kl, by_layer
    )
    if dry_run:
        from distviz.cli import dry_run as estimate_command

        plan = estimate_command.plan_sweep(model, asked, flags, config)
        _present_plan(plan, quiet=quiet, as_json=as_json)
        return
    swept, folder = execute.sweep_to_folder(
        model, asked, flags, config, _reporter(quiet or as_json)
    )
    _present(swept, folder, quiet=quiet, as_json=as_json, report=report)


@_command
def whatif(
    run: options.MeasuredRun,
    sparsity: options.Sparsity = None,
    thresholds: options.Thresholds = None,
    formats: options.Formats = None,
    ranges: options.Ranges = None,
    percentile: options.Percentile = None,
    phases: options.Phases = None,
    layers: options.Layers = None,
    sites: options.Sites = None,
    out: options.Out = None,
    force: options.Force = False,
    figures: options.Figures = None,
    no_figures: options.NoFigures = False,
    figure_width: options.FigureWidth = None,
    report: options.Report = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,  # noqa: ARG001
) -> None:
    """Ask a saved run what zeros and fewer bits would cost."""
    asked = {"sparsity": sparsity, "thresholds": thresholds, "formats": formats, "ranges": ranges}
    asked |= {"phases": phases, "layers": layers, "sites": sites}
    drawn = _formats("png" if figures is None else figures, no_figures) or []
    from distviz.cli import execute

    answers, folder = execute.whatif_to_folder(
        run, asked | {"percentile": percentile}, drawn, out, width=figure_width, force=force
    )
    _present(answers, folder, quiet=quiet, as_json=as_json, report=report)


@_command
def generate(
    prompt: options.Prompt,
    model: options.Model = None,
    system: options.System = "",
    arm_layers: options.ArmLayers = None,
    redistribution: options.Redistribution = None,
    c: options.C = None,
    p1: options.P1 = None,
    p_min: options.PMin = None,
    p_max: options.PMax = None,
    fraction: options.Fraction = None,
    arm_mode: options.ArmMode = None,
    percentile_of: options.PercentileOf = None,
    passes: options.Passes = None,
    preset: options.Preset = None,
    on: options.Steps = "both",
    max_new_tokens: options.MaxNewTokens = 64,
    num_samples: options.NumSamples = 1,
    sample: options.Sample = False,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    chat_template: options.ChatTemplate = None,
    seed: options.Seed = None,
    config: options.Config = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    attn_implementation: options.AttnImplementation = None,
    threads: options.Threads = None,
    revision: options.Revision = None,
    allow_pickle: options.AllowPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Let a model go on from a prompt with ARM off and on."""
    flags = _flags(locals())
    from distviz.cli import execute

    found = execute.continuations(
        model,
        prompt,
        flags,
        config,
        _reporter(quiet or as_json),
        system=system,
        decoding={
            "max_new_tokens": max_new_tokens,
            "samples": num_samples,
            "temperature": 1.0 if sample and temperature is None else temperature,
            "top_p": top_p,
            "on": on,
        },
    )
    if as_json:
        _print_json(found.summary())
    elif quiet:
        print("\n\n".join(found.after))
    else:
        from distviz.cli.views import generate as continuation_tables

        console = _console()
        console.print(continuation_tables.summary(found, console))


@_command
def inspect(
    model: options.Model = None,
    layer: options.Layer = 0,
    architectures: options.ListArchitectures = False,
    revision: options.Revision = None,
    trust_remote_code: options.RemoteCode = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,  # noqa: ARG001
) -> None:
    """Draw a layer with every point that can be observed."""
    if architectures:
        _list_architectures(model, as_json=as_json)
        return
    from distviz import studies

    found = studies.inspect(model, layer, revision=revision, trust_remote_code=trust_remote_code)
    if as_json:
        _print_json(found.as_dict())
        return
    from distviz.cli.views import inspect as views

    console = _console()
    console.print(views.inspection(found, console))


def _list_architectures(model: str | None, *, as_json: bool) -> None:
    from distviz.errors import RequestError
    from distviz.models.architectures import load_architectures

    if model is not None:
        raise RequestError(
            f"--architectures lists every type, it takes no MODEL ('{model}')",
            "leave one of them out",
        )
    known = load_architectures()
    if as_json:
        _print_json(known.as_dict())
        return
    from distviz.cli.views import inspect as views

    console = _console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(views.architectures(known))


@_command
def export(
    run: options.RunFolder,
    out: options.Out = None,
    figure: options.OnlyFigure = None,
    figures: options.ExportFigures = None,
    tables: options.ExportTables = None,
    figure_width: options.FigureWidth = None,
    layers: options.Layers = None,
    sites: options.Sites = None,
    log: options.Log = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,  # noqa: ARG001
) -> None:
    """Write figures and tables again, in other formats."""
    from distviz.reports import export_folder

    written = export_folder(
        run,
        out,
        figure=figure,
        figures=figures,
        tables=tables,
        width=figure_width,
        layers=layers,
        sites=sites,
        log=log,
        force=force,
    )
    if as_json:
        _print_json({"folder": str(written[0].parent), "files": [str(path) for path in written]})
    else:
        print("\n".join(map(str, written[:1] if quiet else written)))


@_command
def report(
    folders: options.Folders,
    out: options.OutFile = None,
    force: options.ForceFile = False,
    quiet: options.Quiet = False,  # noqa: ARG001 -- the path is all there is to say
    as_json: options.AsJson = False,
    debug: options.Debug = False,  # noqa: ARG001
) -> None:
    """Write one HTML file to read and share: figures, curves, tables."""
    from distviz import reports

    written = reports.report_folders(folders, out, force=force)
    if as_json:
        _print_json({"file": str(written), "bytes": written.stat().st_size})
    else:
        _console().print(str(written), soft_wrap=True, markup=False)


@_command
def show(
    run: options.RunFolder,
    layers: options.ShownLayers = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,  # noqa: ARG001
) -> None:
    """Show the findings of a folder again, on the terminal."""
    from distviz.cli.views.run import layer_details
    from distviz.results import Run, load
    from distviz.sites import parse_layers

    whole = load(run)
    part = None if layers is None else whole.select(parse_layers(layers, whole.n_layers))
    closer = None
    if isinstance(whole, Run):
        closer = partial(layer_details, whole, cast("Run | None", part))
    _present(part or whole, run, quiet=False, as_json=as_json, closer=closer)


def main() -> None:
    """Entry point of the ``distviz`` command."""
    completions.name_shell(sys.argv[1:], os.environ)
    replace_unencodable(sys.stdout, sys.stderr)
    try:
        with completions.in_bash(os.environ):
            code = app(prog_name="distviz", standalone_mode=False)
    except typer.Abort:
        code = 130
    except typer.TyperException as error:
        # Errors of usage: one line, no box, and where the help is.
        message = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message, file=sys.stderr)
        elif message:
            processes.report(message[:1].lower() + message[1:].rstrip("."), _help_hint(error))
        code = error.exit_code
    except KeyboardInterrupt:
        processes.report("interrupted, nothing was written")
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'distviz'} --help"
