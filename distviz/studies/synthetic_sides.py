"""Sides of a comparison that a TOML describes: layers to build, fed with seeded random input.

Both sides are fed the same, so that documents are pairs; what reads text has no place beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeGuard

from distviz.errors import RequestError
from distviz.models import locate
from distviz.results import Run
from distviz.settings import RunSettings, build_settings

__all__ = ["check_inputs", "is_description", "settings_from_toml"]

_OF_THE_COMMAND = frozenset(("model", "text", "out", "force", "figures", "resume", "save_every"))


def is_description(side: Run | str | Path) -> TypeGuard[str | Path]:
    """Whether a side is a TOML rather than a run or a checkpoint."""
    return not isinstance(side, Run) and str(side).endswith(".toml")


def settings_from_toml(
    side: str | Path, base: RunSettings, given: frozenset[str], seed: int | None
) -> RunSettings:
    """Return the settings that a TOML describes; flags and ``--config`` are stronger than it.

    Parameters
    ----------
    side
        The TOML.
    base, given
        Settings of the whole comparison, and the names of those that were said.
    seed
        Of the other side's input, which is this side's, too; None where this is the first.

    Raises
    ------
    RequestError
        If the file is wrong, or describes no layers.
    """
    own = build_settings({}, None, str(side))
    if own.layer is None:
        raise RequestError(
            f"{side} describes no layers, it has no [layer] table",
            f"give a model as the side, and --config {side}",
        )
    names = own.explicit - base.explicit - given - _OF_THE_COMMAND
    values = {name: getattr(own, name) for name in names} | {"layer": own.layer}
    return replace(base, **values | ({} if seed is None else {"seed": seed}), text=[])


def check_inputs(
    sides: Sequence[Run | str | Path],
    known: Sequence[Run | None],
    settings: Sequence[RunSettings],
) -> None:
    """Refuse layers beside what reads text, and layers that are fed differently.

    Parameters
    ----------
    sides
        Both, as given.
    known
        The runs among them.
    settings
        With which each is to be measured.

    Raises
    ------
    RequestError
        Naming both sides.
    """
    built = [
        own.layer is not None if run is None else _was_built(run)
        for run, own in zip(known, settings, strict=True)
    ]
    if not any(built):
        return
    names = ["a run" if isinstance(side, Run) else str(side) for side in sides]
    if not all(built):
        first, second = names if built[0] else reversed(names)
        raise RequestError(
            f"{first} is built layers, fed with random input; {second} reads text",
            "give layers on both sides; [layer] weights takes those of a checkpoint",
        )
    fed = [
        _fed_before(run) if run is not None else _to_be_fed(own)
        for run, own in zip(known, settings, strict=True)
    ]
    (first, print_a), (second, print_b) = fed
    if print_a != print_b:
        raise RequestError(
            f"{names[0]} is fed {first}; {names[1]} {second}",
            "both sides must be fed alike: input, documents, tokens, width, scale and seed",
        )


def _was_built(run: Run) -> bool:
    return bool((run.manifest.get("settings") or {}).get("layer"))


def _fed_before(run: Run) -> tuple[str, str]:
    """Return what a run was fed, in words and as its fingerprint."""
    settings = run.manifest["settings"]
    layer = settings["layer"]
    size = None if layer["weights"] else layer["hidden_size"]
    return _words(layer, settings["seed"], size), run.manifest["text"]["sha256"]


def _to_be_fed(settings: RunSettings) -> tuple[str, str]:
    """Return what layers will be fed; their configuration alone is read."""
    from distviz.measure import random_input
    from distviz.models import describe

    layer = settings.layer
    if layer is None:
        raise TypeError("these settings describe no layers")
    if layer.weights is not None:
        locate(layer.weights, revision=settings.revision, allow_pickle=settings.allow_pickle)
    model, _ = describe(
        None,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        layer=layer,
    )
    config: Any = model.config
    corpus = random_input(layer, settings.seed, config)
    return _words(asdict(layer), settings.seed, config.hidden_size), corpus.sha256


def _words(layer: dict[str, Any], seed: int, size: int | None) -> str:
    shape = f"{layer['documents']} × {layer['tokens']}"
    if layer["input"] == "tokens":
        return f"{shape} token ids (seed {seed})"
    width = "" if size is None else f" of width {size}"
    return f"{shape} hidden states{width} (scale {layer['scale']:g}, seed {seed})"
