"""The command line: parse, call one function, print, exit code. No logic lives here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from distviz.errors import DistvizError

if TYPE_CHECKING:
    from rich.console import Console

    from distviz.runs import Run

__all__ = ["app", "main"]

app = typer.Typer(
    name="distviz",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Exact activation distributions of transformer MLPs, before and after redistribution.",
)

Model = Annotated[
    Optional[str],  # noqa: UP045
    typer.Argument(
        metavar="[MODEL]",
        help="A Hugging Face folder or hub id, a .gguf file, or a TOML that describes layers to "
        "build. Nothing: the embedded demo model.",
        show_default=False,
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that distviz run wrote.")]
Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--out", "-o", metavar="DIR", help="Folder to write.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output folder that exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the path of the result, no more.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _text(name: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=text, metavar=metavar, show_default=False)


def _edge(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user can cause into one or two lines and an exit code."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except DistvizError as error:
            if kwargs.get("debug"):
                raise
            _complain(error.message, error.hint)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _complain("interrupted, nothing was written")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of a pipe has gone (head, less); that is no error of ours.
            sys.stdout = None
            raise typer.Exit(0) from None
        except Exception as error:
            if kwargs.get("debug"):
                raise
            reason = str(error).strip().split("\n")[0]
            _complain(
                f"{type(error).__name__}: {reason}".rstrip(": "),
                "run again with --debug to see where it happened",
            )
            raise typer.Exit(1) from None

    return guarded


def _complain(message: str, hint: str = "") -> None:
    print(f"distviz: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        names = ("distviz", "torch", "transformers", "numba", "numpy", "matplotlib")
        print("\n".join(f"{name} {version(name)}" for name in names))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print versions.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Exact activation distributions of transformer MLPs, before and after redistribution."""


@app.command()
@_edge
def run(
    model: Model = None,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--config", metavar="FILE", help="TOML with any of these options."),
    ] = None,
    text: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--text",
            metavar="FILE",
            help="Text to measure, repeatable: .txt is one document, .jsonl one a line, - standard "
            "input. Default: embedded documents.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[str | None, _text("--layers", "Observed: all, or 0,3,8-11.")] = None,
    sites: Annotated[
        str | None,
        _text("--sites", "act, gate, up, product, down, q, k, v, attention, residual, module:*."),
    ] = None,
    arm_layers: Annotated[
        str | None, _text("--arm-layers", "Layers with ARM: 0 (default), none, all, 0,2.")
    ] = None,
    c: Annotated[float | None, _text("--c", "Width of the near-zero band (0.13).")] = None,
    p1: Annotated[float | None, _text("--p1", "Percentile that bounds new values (99.5).")] = None,
    p_min: Annotated[float | None, _text("--p-min", "Least share that moves (0.02).")] = None,
    p_max: Annotated[float | None, _text("--p-max", "Largest share that moves (0.25).")] = None,
    fraction: Annotated[
        float | None, _text("--fraction", "The share that moves, given directly.")
    ] = None,
    arm_mode: Annotated[str | None, _text("--arm-mode", "replace (default) or add.")] = None,
    percentile_of: Annotated[
        str | None, _text("--percentile-of", "value (default) or magnitude.")
    ] = None,
    passes: Annotated[int | None, _text("--passes", "Repetitions of ARM (1).")] = None,
    preset: Annotated[
        str | None, _text("--preset", "Published settings: NAME, NAME:BENCHMARK or auto.")
    ] = None,
    ripple: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--ripple/--no-ripple",
            help="Send changed values through the later layers (default), or only compute them.",
            show_default=False,
        ),
    ] = None,
    filler: Annotated[str | None, _text("--filler", "Meaningless string put in.", "STRING")] = None,
    filler_count: Annotated[
        int | None, _text("--filler-count", "Repetitions of the filler (55).")
    ] = None,
    filler_position: Annotated[
        str | None, _text("--filler-position", "start, between (default), end, random.")
    ] = None,
    chat_template: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--chat-template/--no-chat-template",
            show_default=False,
            help="Wrap prompts in the tokenizer's template (default: no).",
        ),
    ] = None,
    max_length: Annotated[int | None, _text("--max-length", "Tokens a window (512).")] = None,
    max_tokens: Annotated[int | None, _text("--max-tokens", "Stop after so many tokens.")] = None,
    batch_size: Annotated[int | None, _text("--batch-size", "Windows a batch (4).")] = None,
    dtype: Annotated[str | None, _text("--dtype", "auto, fp32, bf16, fp16.")] = None,
    device: Annotated[str | None, _text("--device", "auto, cpu, cuda, cuda:1 ...")] = None,
    device_map: Annotated[
        str | None, _text("--device-map", "auto: spread a large model over devices.")
    ] = None,
    attn_implementation: Annotated[
        str | None, _text("--attn-implementation", "eager, sdpa ...")
    ] = None,
    threads: Annotated[int | None, _text("--threads", "CPU threads.")] = None,
    revision: Annotated[str | None, _text("--revision", "Revision of a hub model.")] = None,
    skip_special: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--skip-special", help="Leave special tokens out of the statistics.", show_default=False
        ),
    ] = None,
    classes: Annotated[
        str | None, _text("--classes", "Token classes apart on ARM layers (arm) or all.")
    ] = None,
    keep_text: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--keep-text/--no-keep-text",
            show_default=False,
            help="Keep the documents in the folder (default).",
        ),
    ] = None,
    seed: Annotated[int | None, _text("--seed", "Seed of ARM and of random input (0).")] = None,
    out: Out = None,
    force: Force = False,
    figures: Annotated[
        str | None, _text("--figures", "Formats: png (default), svg, pdf; comma-separated.")
    ] = None,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Draw nothing.")] = False,
    allow_pickle: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--allow-pickle", help="Load pickle weights, which can run code.", show_default=False
        ),
    ] = None,
    trust_remote_code: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--trust-remote-code", help="Run the checkpoint's own Python code.", show_default=False
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure one model: without ARM, with ARM, paired.

    Writes a run folder: distributions, tables (CSV, Parquet) and figures.
    """
    given = dict(locals())
    from distviz import measuring

    for name in ("model", "config", "quiet", "as_json", "debug", "no_figures"):
        given.pop(name)
    given["force"] = force or None
    given["out"] = None if out is None else str(out)
    given["figures"] = [] if no_figures else (figures.split(",") if figures else None)
    reporter = _reporter(quiet or as_json)
    finished, folder = measuring.run_to_folder(given, config, model, reporter)
    _present(finished, folder, quiet=quiet, as_json=as_json)


def _reporter(is_silent: bool) -> Any:
    from distviz.progress import TerminalProgress

    return TerminalProgress(_console(stderr=True), is_silent=is_silent)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _present(finished: Run, folder: Path, *, quiet: bool, as_json: bool) -> None:
    for warning in finished.manifest.get("warnings", []):
        print(f"distviz: warning: {warning}", file=sys.stderr)
    if as_json:
        _print_json(finished.summary() | {"folder": str(folder)})
    elif quiet:
        print(folder)
    else:
        from distviz import tables

        console = _console()
        console.print(tables.summary(finished, console))
        console.print(f"\n{folder}", soft_wrap=True)


def _print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False, allow_nan=False))


@app.command()
@_edge
def inspect(
    model: Model = None,
    layer: Annotated[int, typer.Option("--layer", help="Which layer to draw.")] = 0,
    revision: Annotated[str | None, _text("--revision", "Revision of a hub model.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Draw a layer with every point that can be observed; reads the config, no weights."""
    from distviz import inspection

    found = inspection.inspect(model, layer, revision=revision, trust_remote_code=trust_remote_code)
    if as_json:
        _print_json(found.as_dict())
        return
    from distviz import diagrams

    console = _console()
    console.print(diagrams.inspection(found, console))


@app.command()
@_edge
def export(
    run: Folder,
    out: Out = None,
    figures: Annotated[
        str | None, _text("--figures", "Formats: png, svg, pdf; comma-separated, or none.")
    ] = None,
    tables: Annotated[
        str | None, _text("--tables", "Formats: csv, parquet, json; comma-separated, or none.")
    ] = None,
    layers: Annotated[str | None, _text("--layers", "Layers to draw (all).")] = None,
    sites: Annotated[str | None, _text("--sites", "Sites to draw (all).")] = None,
    log: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--log/--linear", help="Count axis (chosen by itself).", show_default=False),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write figures and tables again, in other formats, from the folder alone."""
    from distviz import exports

    written = exports.export_folder(
        run, out, figures=figures, tables=tables, layers=layers, sites=sites, log=log, force=force
    )
    if as_json:
        _print_json({"folder": str(written[0].parent), "files": [str(path) for path in written]})
    else:
        print("\n".join(map(str, written[:1] if quiet else written)))


@app.command()
@_edge
def show(
    run: Folder,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show the findings of a run on the terminal, from the folder alone."""
    from distviz.runs import Run as SavedRun

    _present(SavedRun.load(run), run, quiet=False, as_json=as_json)


def main() -> None:
    """Entry point of the ``distviz`` command."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 130
    except typer.TyperException as error:
        # Errors of usage: one line, no box, and where the help is.
        message = error.format_message()
        if message:
            _complain(message[:1].lower() + message[1:].rstrip("."), _help_hint(error))
        code = error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted, nothing was written")
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'distviz'} --help"
