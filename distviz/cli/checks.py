"""What measuring commands check before they import torch, with or without ``--dry-run``."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distviz.arm import published_for
from distviz.errors import RequestError
from distviz.measure import CheckpointFolder, current
from distviz.parsing import whole_numbers
from distviz.results import check_output, read_manifest
from distviz.settings import MOST_FILLERS, RunSettings

PROPOSED = "proposed"
"""The preset whose settings a pilot run proposes."""


def is_published(settings: RunSettings) -> bool:
    """Whether ``--preset auto``, where it is given, finds published settings."""
    words = [word.strip() for word in (settings.preset or "").lower().split(",")]
    return "auto" not in words or published_for(settings.model) is not None


def parse_counts(counts: str | None, default: int) -> list[int]:
    """Parse ``0,10,25``; None is the default alone."""
    if counts is None:
        return [default]
    numbers = sorted(whole_numbers(counts, "--counts", "such as 0,10,25,40"))
    if numbers == [0]:
        raise RequestError(f"--counts {counts}: give at least one number above 0")
    if numbers[-1] > MOST_FILLERS:
        raise RequestError(f"--counts {counts}: give at most {MOST_FILLERS:,}")
    return numbers


def checked_output(settings: RunSettings, name: str) -> Path:
    """Return the folder to write; refuse one that exists, and texts that do not."""
    dated = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out = Path(current().exchange("out", str(settings.out or dated))[0])
    if current().is_first:
        check_output(out, force=settings.force)
    for text in settings.text:
        if text != "-" and not Path(text).is_file():
            raise RequestError(f"--text {text}: there is no such file")
    return out


def checked_budget(budget_kl: float) -> float:
    """Return ``--budget-kl``; raise a RequestError where it is not above 0."""
    if not budget_kl > 0:
        raise RequestError(f"--budget-kl is {budget_kl}, it must be above 0")
    return budget_kl


def refuse_layers(settings: RunSettings, command: str) -> None:
    """Refuse layers built from a TOML file, where a command needs a checkpoint."""
    if settings.layer is not None:
        raise RequestError(
            f"distviz {command} needs a checkpoint, not layers built from a TOML",
            "give a model, or measure the layers: distviz run",
        )


def has_settings(
    settings: RunSettings, manifest: str, folder: Path, redistributions: list[str] | None = None
) -> bool:
    """Whether the result in a folder was measured with the same settings, on the same files."""
    from distviz.measure import refuse_changed

    known = read_manifest(folder, manifest)
    is_same = settings.asks_the_same(known.get("settings") or {})
    if is_same:
        refuse_changed(known, settings, folder, redistributions=redistributions)
    return is_same


def checkpoint_folder(out: Path, settings: RunSettings) -> CheckpointFolder:
    """Return where checkpoints are saved; refuse to drop those of an interrupted run."""
    folder = out.with_name(f"{out.name}.partial")
    states = CheckpointFolder(folder, settings.save_every, settings.resume)
    if states.exists() and not (settings.resume or settings.force):
        raise RequestError(
            f"{folder} holds a checkpoint of an interrupted run",
            "add --resume to continue, --force to start from the beginning, or give another --out",
        )
    return states


def short_name(source: str) -> str:
    """Return the last part of a path or id, fit for a folder's name."""
    return re.sub(r"[^\w.-]+", "-", Path(source.rstrip("/")).name) or "model"


@contextmanager
def naming_command() -> Iterator[None]:
    """Add the command that can be carried out where two models cannot be compared as asked."""
    from distviz.studies import UnalignedError

    try:
        yield
    except UnalignedError as error:
        words = [word for word in sys.argv[1:] if word not in error.without]
        if error.sites:
            words = [*_without_option(words, "--sites"), "--sites", error.sites]
        command = shlex.join(["distviz", *words])
        raise RequestError(error.message, f"{error.hint}: {command}") from error


def _without_option(words: Sequence[str], name: str) -> list[str]:
    """Return the words of a command without an option and its value."""
    found, is_value = [], False
    for word in words:
        if not is_value and word != name and not word.startswith(f"{name}="):
            found.append(word)
        is_value = word == name
    return found
