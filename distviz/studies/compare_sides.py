"""The two sides of a comparison: runs that exist, and the settings of what is measured first.

A side may be a TOML that describes layers with seeded random input. Both sides then need the same
input, so that their documents are pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from distviz.errors import RequestError
from distviz.models import locate
from distviz.results import COMPARISON, FILLER, RUN, Run
from distviz.settings import RunSettings, build_settings, names_affecting, settings_of_folder
from distviz.sites import parse_sites

_PHASES = ("before", "after")
_COMMAND_SETTINGS = frozenset(("model", "text", *names_affecting("figures", "nothing")))


@dataclass(frozen=True)
class CompareSide:
    """One side of a comparison: a run, or the settings of a measurement.

    Attributes
    ----------
    run
        None if the side must be measured.
    settings
        Of the measurement.
    texts
        Documents of the other side, which are measured; None for those of the settings.
    """

    run: Run | None
    settings: RunSettings
    texts: list[Any] | None = None


def find_sides(
    a: Run | str | Path,
    b: Run | str | Path,
    phases: tuple[str, str],
    base: RunSettings,
    given: frozenset[str],
) -> list[CompareSide]:
    """Return the runs among the sides and the settings of the others; arguments as of `compare`.

    Raises
    ------
    RequestError
        If a side is not a run and cannot be measured.
    """
    for name, phase in zip(("--phase-a", "--phase-b"), phases, strict=True):
        if phase not in _PHASES:
            raise RequestError(f"{name} is '{phase}'", f"allowed: {', '.join(_PHASES)}")
    wanted = parse_sites(base.sites) if "sites" in given else None
    known = [_known(side) for side in (a, b)]
    _check_sides((a, b), known, phases, wanted, base)
    leader = next((run for run in known if run is not None), None)
    each = _settings_of((a, b), known, base, given)
    _check_inputs((a, b), known, each)
    return [
        CompareSide(run, own) if run else _side(str(side), phase, own, leader)
        for side, run, phase, own in zip((a, b), known, phases, each, strict=True)
    ]


def _side(model: str, phase: str, settings: RunSettings, like: Run | None) -> CompareSide:
    texts: list[Any] | None = None
    if like is not None and not settings.text and settings.layer is None:
        if like.texts is None:
            raise RequestError(
                "the run contains no text, so the other side cannot be measured on it",
                "give --text, or measure the run again without --no-keep-text",
            )
        texts = list(like.texts)
    arm_layers = settings.arm_layers if phase == "after" else "none"
    source = model if settings.layer is None else None
    chosen = replace(settings, model=source, classes="all", arm_layers=arm_layers)
    return CompareSide(None, chosen, texts)


def _known(side: Run | str | Path) -> Run | None:
    """Return the run of a side; None for a model."""
    if isinstance(side, Run):
        return side
    path = Path(side)
    if (path / RUN).exists():
        return Run.load(path)
    if (path / COMPARISON).exists():
        raise RequestError(
            f"{path} is a comparison, not a run", f"give {path / 'a'} or {path / 'b'}"
        )
    if (path / FILLER).exists():
        raise RequestError(
            f"{path} is a filler study, not a run",
            f"give one of its runs, such as {path / 'count_000'}",
        )
    if path.is_dir() and not any((*path.glob("*config.json"), *path.glob("*.gguf"))):
        raise RequestError(
            f"{path} is neither a run nor a checkpoint",
            f"it has no {RUN} and no config.json; give a run folder or a model",
        )
    return None


def _check_sides(
    sides: Sequence[Run | str | Path],
    known: Sequence[Run | None],
    phases: Sequence[str],
    wanted: Sequence[str] | None,
    settings: RunSettings,
) -> None:
    """Raise a RequestError for what cannot be compared, before anything is measured."""
    for side, run, phase in zip(sides, known, phases, strict=True):
        if _is_toml(side):
            continue
        if run is None:
            locate(str(side), revision=settings.revision, allow_pickle=settings.allow_pickle)
        elif not any(k.phase == phase and (wanted is None or k.site in wanted) for k in run.keys):
            held = ", ".join(sorted({f"{key.site}/{key.phase}" for key in run.keys}))
            asked = f"phase {phase}" + ("" if wanted is None else f" at site {', '.join(wanted)}")
            name = "the run" if isinstance(side, Run) else side
            raise RequestError(f"{name} holds no {asked}", f"it has {held or 'nothing'}")


def _settings_of(
    sides: Sequence[Run | str | Path],
    known: Sequence[Run | None],
    base: RunSettings,
    given: frozenset[str],
) -> list[RunSettings]:
    """Return the settings of each side that must be measured, ``base`` for a run."""
    found: list[RunSettings] = []
    taken: dict[str, Any] | None = None
    for side, run in zip(sides, known, strict=True):
        if run is not None and not all(known):
            taken = _taken(run, side, given)
            break
    for side, run in zip(sides, known, strict=True):
        own = base
        if _is_toml(side):
            seed = found[0].seed if found else None
            own = settings_from_toml(side, base, given, seed)
        found.append(base if run else _like(own, taken, given, is_first=not found))
    return found


def _taken(run: Run, side: Run | str | Path, given: frozenset[str]) -> dict[str, Any]:
    """Return the settings of a run that hold for the other side: text, sites and ARM."""
    own = run.manifest.get("settings") or {}
    of_arm = names_affecting("arm") if run.manifest.get("arm") else ()
    names = (*names_affecting("tokens"), "sites", *of_arm)
    taken = {name: own[name] for name in names if name in own and name not in given}
    where = "the run" if isinstance(side, Run) else f"{Path(side) / RUN}"
    return settings_of_folder(taken, f"{where}, settings")


def _like(
    base: RunSettings, taken: dict[str, Any] | None, given: frozenset[str], *, is_first: bool
) -> RunSettings:
    """Return settings with those taken from a run, None if no side is one.

    The second side is measured at all of its layers: which ones match the layers of the first is
    known when its depth is.
    """
    if taken is None:
        return base if is_first else replace(base, layers="all")
    layers = base.layers if is_first and "layers" in given else "all"
    return replace(base, **taken | {"layers": layers})


def _is_toml(side: Run | str | Path) -> TypeGuard[str | Path]:
    """Whether a side is a TOML file."""
    return not isinstance(side, Run) and str(side).endswith(".toml")


def settings_from_toml(
    side: str | Path, base: RunSettings, given: frozenset[str], seed: int | None
) -> RunSettings:
    """Return the settings of a TOML side; flags and ``--config`` take precedence over the file.

    Parameters
    ----------
    side
        The file.
    base, given
        Settings of the whole comparison, and the names of those given explicitly.
    seed
        Of the first side's input, which the second shares; None for the first.

    Raises
    ------
    RequestError
        If the file is invalid, or describes no layers.
    """
    own = build_settings(dict(base.trusted or ()), None, str(side))
    if own.layer is None:
        raise RequestError(
            f"{side} describes no layers, it has no [layer] table",
            f"give a model as the side, and --config {side}",
        )
    names = own.explicit - base.explicit - given - _COMMAND_SETTINGS
    values = {name: getattr(own, name) for name in names} | {"layer": own.layer}
    return replace(base, **values | ({} if seed is None else {"seed": seed}), text=[])


def _check_inputs(
    sides: Sequence[Run | str | Path],
    known: Sequence[Run | None],
    settings: Sequence[RunSettings],
) -> None:
    """Raise a RequestError unless both sides read text, or both are layers with equal input."""
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
            f"{first} describes layers with random input; {second} reads text",
            "give layers on both sides; [layer] weights takes those of a checkpoint",
        )
    (first, hash_a), (second, hash_b) = (
        _input_of_settings(own) if run is None else _input_of_run(run)
        for run, own in zip(known, settings, strict=True)
    )
    if hash_a != hash_b:
        raise RequestError(
            f"the input of {names[0]} is {first}; the input of {names[1]} is {second}",
            "both sides need the same input: documents, tokens, width, scale and seed",
        )


def _was_built(run: Run) -> bool:
    return bool((run.manifest.get("settings") or {}).get("layer"))


def _input_of_run(run: Run) -> tuple[str, str]:
    """Return a description of the random input of a run, and its hash."""
    settings = run.manifest["settings"]
    layer = settings["layer"]
    size = None if layer["weights"] else layer["hidden_size"]
    return _words(layer, settings["seed"], size), run.manifest["text"]["sha256"]


def _input_of_settings(settings: RunSettings) -> tuple[str, str]:
    """Return the same of settings; only the configuration is read."""
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
