"""Shell completion of option values, presets and result folders; it imports nothing slow.

Each completer takes the word typed so far and returns whole words that start with it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path

Completer = Callable[[str], list[str]]

_MANIFESTS = (
    *("run.json", "comparison.json", "filler.json", "sweep.json", "allocation.json"),
    *("whatif.json", "training.json"),
)
_MAX_FOLDERS = 200
"""Limit of folders to look into, so that completion stays fast on a large disk."""


def of_choices(choices: Sequence[str], *, is_list: bool) -> Completer:
    """Return a completer of one of the choices; of the last word of a comma-separated list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if is_list else ("", "", incomplete)
        given = before.split(",")
        unused = [word for word in choices if word not in given]
        return [f"{before}{comma}{word}" for word in unused if word.startswith(last)]

    return complete


def presets(incomplete: str) -> list[str]:
    """Complete the name of a preset: models first, then the benchmarks of one."""
    from distviz.arm import PRESETS

    wanted = incomplete.lower()
    models = ["auto", *(name for name in PRESETS if ":" not in name)]
    found = [name for name in models if name.startswith(wanted)]
    if found in ([], [wanted]):
        return [name for name in ("auto", *PRESETS) if name.startswith(wanted)]
    return found


def results(incomplete: str) -> list[str]:
    """Complete the path of a result folder, in this folder or one level below.

    Returns
    -------
    Paths; none where there is no result, and the shell completes files and folders itself.
    """
    typed = Path(incomplete)
    parent = typed if incomplete.endswith(os.sep) or not incomplete else typed.parent
    start = "" if parent == typed else typed.name
    prefix = incomplete.removesuffix(start)
    folder = parent.expanduser()
    found: list[str] = []
    for name in _folders(folder):
        if not name.startswith(start) or (name.startswith(".") and not start):
            continue
        if _is_result(folder / name):
            found.append(f"{prefix}{name}")
        else:
            inner = (one for one in _folders(folder / name) if _is_result(folder / name / one))
            found += [f"{prefix}{name}{os.sep}{one}" for one in inner]
    return found


def _folders(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return
    yield from names[:_MAX_FOLDERS]


def _is_result(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MANIFESTS)


def name_shell(words: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Allow ``--show-completion zsh``; typer accepts a name only where its detection is off."""
    for option, following in itertools.pairwise([*words, ""]):
        if option in ("--show-completion", "--install-completion") and following:
            environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
