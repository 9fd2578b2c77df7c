"""What measuring commands check before they import torch, and `--dry-run` with them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distviz.arm import every_preset, published_for
from distviz.errors import RequestError
from distviz.measure import CheckpointFolder, current
from distviz.results import SWEEP, check_output, read_manifest
from distviz.settings import RunSettings, build_settings
from distviz.studies import SweepGrid, check

__all__ = [
    "GRID",
    "PROPOSED",
    "SweepRequest",
    "check_sweep",
    "checked_output",
    "is_published",
    "parse_counts",
    "presets_of",
    "short_name",
    "state_folder",
]

PROPOSED = "proposed"
"""Names settings that are proposed from a look at the model."""
GRID = ("c", "p1", "fraction", "arm_mode", "redistribution", "arm_layers")
"""What a sweep takes lists of."""
_USUAL = {"c": "0.05,0.13,0.32,1", "p1": "75,90,99.5"}


@dataclass(frozen=True)
class SweepRequest:
    """What is asked of a sweep beside the settings of a run.

    Attributes
    ----------
    lists
        The values of `GRID` as they were typed, None where nothing was.
    seeds
        How many.
    budget_kl
        The largest KL divergence of a recommended setting, nats.
    by_layer
        Whether each setting is tried in each layer alone.
    """

    lists: dict[str, Any]
    seeds: int = 1
    budget_kl: float = 0.05
    by_layer: bool = False

    def is_of(self, folder: Path) -> bool:
        """Whether a finished sweep answered the same request."""
        known = read_manifest(folder, SWEEP, "sweep folder")
        own = {"grid": self.lists, "budget_kl": self.budget_kl, "by_layer": self.by_layer}
        same_seeds = len(known.get("seeds") or []) == self.seeds
        return same_seeds and all(known.get(name) == value for name, value in own.items())

    def grid(self, preset: str | None = None) -> SweepGrid:
        """Return the lists; those that are usual where none was given, and no preset."""
        given = {name: value for name, value in self.lists.items() if value is not None}
        layers = given.pop("arm_layers", None)
        if not (self.by_layer or preset) and not {"c", "p1", "fraction"} & set(given):
            given |= _USUAL
        return SweepGrid(**given, arm_layers=";".join(layers) if layers else None)


def check_sweep(
    model: str | None, asked: SweepRequest, flags: dict[str, Any], config: Path | None
) -> RunSettings:
    """Check what is asked of a sweep; return the settings that do not vary."""
    settings = build_settings(flags, config, model, applies_preset=False)
    if settings.layer is not None:
        raise RequestError("distviz sweep needs a checkpoint, not layers built from a TOML")
    if asked.seeds < 1:
        raise RequestError(f"--seeds is {asked.seeds}, it must be at least 1")
    if not asked.budget_kl > 0:
        raise RequestError(f"--budget-kl is {asked.budget_kl}, it must be above 0")
    check(asked.grid(settings.preset), settings, presets_of(settings))
    return settings


def presets_of(settings: RunSettings) -> dict[str, dict[str, Any]]:
    """Return the presets that a sweep tries; ``proposed``, still empty, where none is published."""
    if settings.preset is None:
        return {}
    found = every_preset(settings.preset, settings.model)
    return found | ({} if is_published(settings) else {PROPOSED: {}})


def is_published(settings: RunSettings) -> bool:
    """Whether ``--preset auto``, where it is said, finds published settings."""
    words = [word.strip() for word in (settings.preset or "").lower().split(",")]
    return "auto" not in words or published_for(settings.model) is not None


def state_folder(out: Path, settings: RunSettings) -> CheckpointFolder:
    """Return where the state of a run is kept, refusing to drop one unasked."""
    states = CheckpointFolder(
        out.with_name(f"{out.name}.partial"), settings.save_every, settings.resume
    )
    if states.exists() and not (settings.resume or settings.force):
        raise RequestError(
            f"{states.folder} holds a part of this measurement",
            "add --resume to go on, --force to start afresh, or give another --out",
        )
    return states


def parse_counts(counts: str | None, default: int) -> list[int]:
    """Parse ``0,10,25``."""
    words = str(default) if counts is None else counts
    try:
        numbers = sorted({int(word) for word in words.split(",")})
    except ValueError:
        raise RequestError(
            f"--counts '{counts}' is not a list of numbers", "such as 0,10,25,40"
        ) from None
    if numbers[0] < 0 or numbers == [0]:
        raise RequestError(f"--counts {counts}: give at least one number above 0, none below")
    return numbers


def checked_output(settings: RunSettings, name: str) -> Path:
    """Return the folder to write; it and the texts are checked before torch is imported."""
    dated = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    asked = str(dated if settings.out is None else settings.out)
    out = Path(current().exchange("out", asked)[0])
    if current().is_first:
        check_output(out, force=settings.force)
    for text in settings.text:
        if text != "-" and not Path(text).is_file():
            raise RequestError(f"--text {text}: there is no such file")
    return out


def short_name(source: str) -> str:
    """Name a model or run in a folder's name."""
    return re.sub(r"[^\w.-]+", "-", Path(source.rstrip("/")).name) or "model"
