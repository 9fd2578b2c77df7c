"""What a shell offers behind an option or an argument; quick: names and folders, no measuring room.

Each completer takes the word as far as it is typed and returns whole words that begin so. The names
stand here as plain words, since their own rooms import NumPy; a test holds them against those.
"""

from __future__ import annotations

import io
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

__all__ = [
    "VALUES",
    "Completer",
    "in_bash",
    "listed",
    "name_shell",
    "one_of",
    "presets",
    "results",
    "whole_words",
]

Completer = Callable[[str], list[str]]

VALUES: dict[str, tuple[str, ...]] = {
    "--arm-mode": ("replace", "add"),
    "--classes": ("arm", "all"),
    "--device": ("auto", "cpu", "cuda", "mps"),
    "--dtype": ("auto", "fp32", "bf16", "fp16"),
    "--figure": (
        *("paired", "overview", "classes", "compared"),
        *("filler", "positions", "by-count", "sweep", "formats", "zeros"),
    ),
    "--figure-width": ("single", "double"),
    "--figures": ("png", "svg", "pdf", "none"),
    "--filler-kind": ("repeat", "random", "words"),
    "--filler-position": ("start", "between", "end", "random"),
    "--formats": ("int8", "int8-asym", "int4", "int4-asym", "fp8-e4m3", "fp8-e5m2", "none"),
    "--on": ("both", "prefill", "decode"),
    "--percentile-of": ("value", "magnitude"),
    "--phases": ("before", "after", "arm_input", "moved_before", "moved_after"),
    "--ranges": ("max", "percentile", "mse", "none"),
    "--redistribution": ("arm", "threshold", "scale", "noise"),
    "--sites": (
        *("gate", "act", "up", "product", "down"),
        *("q", "k", "v", "attention", "residual"),
    ),
    "--tables": ("csv", "parquet", "json", "none"),
}
"""Option -> the words that it takes, or the usual ones."""

_MANIFESTS = ("run.json", "comparison.json", "filler.json", "sweep.json", "whatif.json")
_FEW = 200
"""Folders looked into, at most: completion must not wait for a large disk."""


def one_of(*words: str) -> Completer:
    """Return a completer of one word."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def listed(*words: str) -> Completer:
    """Return a completer of the last word of a comma-separated list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [
            f"{before}{comma}{word}"
            for word in words
            if word.startswith(last) and word not in given
        ]

    return complete


def presets(incomplete: str) -> list[str]:
    """Complete the name of a preset; benchmarks once the model's name is there."""
    from distviz.arm import PRESETS

    wanted = incomplete.lower()
    models = ["auto", *(name for name in PRESETS if ":" not in name)]
    found = [name for name in models if name.startswith(wanted)]
    if found in ([], [wanted]):
        return [name for name in ("auto", *PRESETS) if name.startswith(wanted)]
    return found


def results(incomplete: str) -> list[str]:
    """Complete the path of a folder that distviz wrote, here or one folder further down.

    Nothing where there is none: the shell then offers files and folders of its own.
    """
    typed = Path(incomplete)
    parent = typed if incomplete.endswith(os.sep) or not incomplete else typed.parent
    start = "" if parent == typed else typed.name
    shown = "" if not incomplete else incomplete.removesuffix(start)
    place = parent.expanduser()
    found: list[str] = []
    for name in _folders(place):
        if not name.startswith(start) or (name.startswith(".") and not start):
            continue
        if _is_result(place / name):
            found.append(f"{shown}{name}")
        else:
            inner = (one for one in _folders(place / name) if _is_result(place / name / one))
            found += [f"{shown}{name}{os.sep}{one}" for one in inner]
    return found


def _folders(place: Path) -> Iterator[str]:
    try:
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return
    yield from names[:_FEW]


def _is_result(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MANIFESTS)


def name_shell(words: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Let ``--show-completion zsh`` name a shell; without a name typer looks which one is running.

    typer takes a name where its detection is switched off, and only there.
    """
    for option, following in itertools.pairwise([*words, ""]):
        if option in ("--show-completion", "--install-completion") and following:
            environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"


@contextmanager
def in_bash(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Let bash complete words with ``:`` and ``=`` in them, where it asks for completions.

    bash takes words apart at such characters (``COMP_WORDBREAKS``) and wants back no more than what
    stands behind the last one.
    """
    if environment.get("_DISTVIZ_COMPLETE") != "complete_bash":
        yield
        return
    kept = whole_words(environment)
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        sys.stdout.writelines(f"{line[kept:]}\n" for line in printed.getvalue().splitlines())


def whole_words(environment: MutableMapping[str, str]) -> int:
    """Join the words that bash took apart at ``:`` and ``=``, for the parser of the command line.

    Parameters
    ----------
    environment
        Of the process, changed in place: ``COMP_WORDS``, the words; ``COMP_CWORD``, the index of
        the one to complete.

    Returns
    -------
    How many characters of every completion bash keeps as they are typed.
    """
    try:
        words = shlex.split(environment["COMP_WORDS"])
        cursor = int(environment["COMP_CWORD"])
    except (KeyError, ValueError):  # an open quote: nothing that could be joined
        return 0
    joined: list[str] = []
    kept = 0
    for word in [*words, ""][: cursor + 1]:
        kept = 0
        if joined and (word == ":" or joined[-1].endswith(":")):
            joined[-1] += word
            kept = joined[-1].rindex(":") + 1
        elif word != "=":
            joined.append(word)
    if words[cursor:] == ["="]:
        joined.append("")
    environment["COMP_WORDS"] = shlex.join(joined)
    environment["COMP_CWORD"] = str(len(joined) - 1)
    return kept
