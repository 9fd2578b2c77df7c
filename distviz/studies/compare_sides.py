"""The two sides of a comparison: runs that exist, and the settings of what is measured first.

A side may be a TOML of settings: of layers with seeded random input, or of a model that reads text.
Documents are pairs where both sides have the same input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.arm import find_preset
from distviz.errors import RequestError
from distviz.models import locate, refuse_opened
from distviz.option import check_table, code_in, no_effect
from distviz.results import (
    COMPARISON,
    FILLER,
    RUN,
    TRAINING,
    Outline,
    Run,
    advice_for,
    result_at,
)
from distviz.settings import (
    OPTIONS,
    SIDE_B,
    RunSettings,
    build_settings,
    names_affecting,
    refuse_without_effect,
    settings_of_folder,
)
from distviz.sites import SiteKey, join_sites, parse_sites

if TYPE_CHECKING:
    from distviz.data import Document
    from distviz.measure import Checked

_PHASES = ("before", "after")
_COMMAND_SETTINGS = frozenset(names_affecting("figures", "nothing"))
_OF_ARM = frozenset(("preset", *names_affecting("arm")))
_OF_RUNS = _COMMAND_SETTINGS | {"layers", "sites", "seed"}
"""The settings of a comparison of two runs."""
_OF_TEXT = frozenset(("text", "texts", *names_affecting("text", "tokens")))
"""The settings that decide which tokens a model reads."""


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
    checked
        Of a side that is measured, when it was checked.
    """

    run: Run | None
    settings: RunSettings
    texts: list[Any] | None = None
    checked: Checked | None = None

    def check(self, name: str, known: dict[tuple[str, ...], list[Document]]) -> CompareSide:
        """Check a side that is measured, as far as no weights are needed.

        ``known`` holds the documents of texts that were read, and receives those of this side: a
        pipe can be read only once.

        Raises
        ------
        RequestError
            If it cannot be measured; names the side.
        """
        from distviz import measure

        if self.run is not None:
            return self
        try:
            documents = None
            if self.texts is None and self.settings.layer is None:
                asked = ("text", *names_affecting("text"), "seed")
                stated = (str(getattr(self.settings, name)) for name in asked)
                names = (*stated, str(id(self.settings.texts)))
                documents = known[names] = known.get(names) or measure.documents_of(self.settings)
            return replace(self, checked=measure.check(self.settings, self.texts, documents))
        except RequestError as error:
            raise RequestError(f"side {name}: {error.message}", error.hint) from error

    def outline(self, phase: str) -> Run | Outline:
        """Return the run, or the distributions that it will have when it was measured."""
        if self.run is not None:
            return self.run
        assert self.checked is not None
        return Outline(
            {"model": self.checked.empty.opened.details},
            [
                SiteKey(point.layer, point.stack, point.site, phase, point.module)
                for point in self.checked.watched
                if phase == "before" or self.settings.ripple or point in self.checked.moved
            ],
        )


def find_sides(
    a: Run | str | Path,
    b: Run | str | Path,
    phases: tuple[str, str | None],
    base: RunSettings,
    given: frozenset[str],
    of_b: Mapping[str, Any] | None = None,
) -> list[CompareSide]:
    """Return the runs among the sides and the settings of the others; arguments as of `compare`.

    ``of_b`` are the options that hold for B alone, by the names of `SIDE_B`.

    Raises
    ------
    RequestError
        If a side is not a run and cannot be measured, or an option for B has no effect.
    """
    of_b = of_b or {}
    phases = (phases[0], phase_of_b(phases[1], of_b))
    for side in (a, b):
        if not isinstance(side, Run):
            refuse_opened(side, "compare")
    for name, phase in zip(("--phase-a", "--phase-b"), phases, strict=True):
        if phase not in _PHASES:
            raise RequestError(f"{name} is '{phase}'", f"allowed: {', '.join(_PHASES)}")
    known = [_known(side) for side in (a, b)]
    there = {key.site for run in known if run is not None for key in run.keys}
    wanted = parse_sites(base.sites, known=there) if "sites" in given else None
    if of_b and known[1] is not None:
        labels = ", ".join(SIDE_B[name].label for name in of_b)
        what = "a run" if isinstance(b, Run) else f"{b}, a run folder"
        raise RequestError(
            f"{labels}: side B is {what}, it is not measured again", "give a model as B"
        )
    _refuse_idle(known, phases, base, given)
    leader = next((run for run in known if run is not None), None)
    each = _settings_of((a, b), known, base, given)
    each = _at_same_sites([each[0], _with_own(each[1], of_b)])
    _check_sides((a, b), known, phases, wanted, each)
    return [
        CompareSide(run, own) if run else _side(phase, own, leader)
        for run, phase, own in zip(known, phases, each, strict=True)
    ]


def _refuse_idle(
    known: Sequence[Run | None], phases: Sequence[str], base: RunSettings, given: frozenset[str]
) -> None:
    """Raise a RequestError for a flag that no side needs."""
    if None not in known:
        idle, why = given - _OF_RUNS, "on two runs: nothing is measured"
    elif (None, "after") not in zip(known, phases, strict=True) and base.arm_layers != "none":
        idle = given & _OF_ARM - {"c", "preset"}  # which also set the near-zero band
        why = "where no side is measured in the phase after"
    else:
        return
    for name in OPTIONS:
        if name in idle:
            raise no_effect(OPTIONS[name].label_of(base), why)


def phase_of_b(phase: str | None, of_b: Mapping[str, Any]) -> str:
    """Return the phase of B: by default ``after`` where ARM is asked for on this side alone.

    Raises
    ------
    RequestError
        If ARM is asked for and the phase is ``before``.
    """
    asked = [name for name in of_b if name.removeprefix("b_") in _OF_ARM]
    has_arm = bool(asked) and of_b.get("b_arm_layers") != "none"
    if has_arm and phase == "before":
        labels = ", ".join(SIDE_B[name].label for name in asked)
        raise RequestError(f"--phase-b before leaves {labels} without effect", "remove one of them")
    return phase or ("after" if has_arm else "before")


def _with_own(settings: RunSettings, of_b: Mapping[str, Any]) -> RunSettings:
    """Return the settings of B with the options that hold for it alone, a preset's included."""
    if not of_b:
        return settings
    own = check_table({n.removeprefix("b_"): v for n, v in of_b.items()}, RunSettings, "side B")
    explicit = settings.explicit | frozenset(own)
    published = find_preset(own["preset"], settings.model) if own.get("preset") else None
    values = {name: v for name, v in (published or {}).items() if name not in explicit} | own
    if "c" in own and "fraction" not in own:
        values["fraction"] = None  # with which c would have no effect
    trusted = frozenset(code_in(own, OPTIONS).items())
    try:
        found = replace(
            settings,
            **values,
            explicit=explicit,
            trusted=(settings.trusted or frozenset()) | trusted,
        )
        refuse_without_effect(found, names=[name for name in own if own[name] not in (None, False)])
        return found
    except RequestError as error:
        raise RequestError(f"side B: {error.message}", error.hint) from error


def _at_same_sites(each: Sequence[RunSettings]) -> list[RunSettings]:
    """Let both sides observe what is redistributed on either, unless sites are given."""
    if any("sites" in own.explicit for own in each) or each[0].sites == each[1].sites:
        return list(each)
    sites = join_sites(own.sites for own in each)
    return [replace(own, sites=sites) for own in each]


def _side(phase: str, settings: RunSettings, like: Run | None) -> CompareSide:
    texts: list[Any] | None = None
    has_own = settings.names_text or _is_built(settings)
    if like is not None and not has_own and not _is_built(like):
        for name in names_affecting("text"):
            if name in settings.explicit:
                raise no_effect(OPTIONS[name].label_of(settings), "on the text of a run")
        if like.texts is None:
            raise RequestError(
                "the run contains no text, so the other side cannot be measured on it",
                "give --text, or measure the run again without --no-keep-text",
            )
        texts = list(like.texts)
    if phase == "after" and settings.arm_layers == "none":
        raise RequestError(
            "the phase after is that with ARM, and --arm-layers is none", "give layers for ARM"
        )
    arm_layers = settings.arm_layers if phase == "after" else "none"
    return CompareSide(None, replace(settings, classes="all", arm_layers=arm_layers), texts)


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
    for name, noun in ((FILLER, "filler study"), (TRAINING, "training")):
        # A model may have a file of this name.
        if (path / name).exists() and result_at(path) is not None:
            raise RequestError(f"{path} is a {noun}, not a run", advice_for(path, "run"))
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
    each: Sequence[RunSettings],
) -> None:
    """Raise a RequestError for what cannot be compared, before anything is measured."""
    for side, run, phase, own in zip(sides, known, phases, each, strict=True):
        if run is None:
            source = own.model if own.layer is None else own.layer.weights
            if source is not None:
                locate(source, revision=own.revision, allow_pickle=own.allow_pickle)
        elif not any(k.phase == phase and (wanted is None or k.site in wanted) for k in run.keys):
            held = ", ".join(sorted({f"{key.site}/{key.phase}" for key in run.keys}))
            asked = f"phase {phase}" + ("" if wanted is None else f" at site {', '.join(wanted)}")
            name = "the run" if isinstance(side, Run) else side
            raise RequestError(f"{name} holds no {asked}", f"it has {held or 'nothing'}")
    if None in known:
        _check_sites(known, phases, each)


def _check_sites(
    known: Sequence[Run | None], phases: Sequence[str], each: Sequence[RunSettings]
) -> None:
    """Raise a RequestError if both sides have no site in common."""
    a, b = (
        list(dict.fromkeys(k.site for k in run.keys if k.phase == phase))
        if run is not None
        else parse_sites(own.sites)
        for run, phase, own in zip(known, phases, each, strict=True)
    )
    if not {*a} & {*b}:
        offered = f"A has {', '.join(a)}; B has {', '.join(b)}"
        raise RequestError("the sides have no site in common", f"{offered}; give --sites")


def _settings_of(
    sides: Sequence[Run | str | Path],
    known: Sequence[Run | None],
    base: RunSettings,
    given: frozenset[str],
) -> list[RunSettings]:
    """Return the settings of each side that must be measured, ``base`` for a run.

    The second side is measured at all of its layers: which ones match the layers of the first is
    known when its depth is.
    """
    if None not in known:
        return [base, base]
    each = [
        base if run is not None else _own_settings(str(side), base, given)
        for side, run in zip(sides, known, strict=True)
    ]
    are_built = {_is_built(run or own) for run, own in zip(known, each, strict=True)}
    is_alike = len(are_built) == 1
    if are_built == {True}:
        for own in each:
            refuse_without_effect(own)
    each = [own if own.layer is None else replace(own, text=[]) for own in each]
    for side, run in zip(sides, known, strict=True):
        if run is not None:
            taken = _taken(run, side, base, given, is_alike=is_alike)
            of_a = base.layers if "layers" in given else "all"
            # Its sites hold although --at may be another one.
            stated = taken.keys() & {"sites"}
            return [
                replace(own, **taken, layers=layers, explicit=own.explicit | stated)
                for own, layers in zip(each, (of_a, "all"), strict=True)
            ]
    first, second = _sharing(*each) if is_alike else each
    return [first, replace(second, layers="all", seed=first.seed)]


def _own_settings(side: str, base: RunSettings, given: frozenset[str]) -> RunSettings:
    """Return the settings of a model or TOML; flags and ``--config`` have precedence over a TOML.

    Raises
    ------
    RequestError
        If a TOML is invalid.
    """
    if not side.endswith(".toml"):
        return replace(base, model=side)
    own = build_settings(dict(base.trusted or ()), None, side)
    values = {
        name: getattr(own, name)
        for name, option in OPTIONS.items()
        if name in own.explicit or getattr(own, name) != option.default  # or of a preset
    }
    for name in base.explicit | given | _COMMAND_SETTINGS:
        values.pop(name, None)
    of_side = {"model": own.model, "layer": own.layer, "explicit": base.explicit | own.explicit}
    return replace(base, **values | of_side)


def _sharing(first: RunSettings, second: RunSettings) -> list[RunSettings]:
    """Return both settings, each with what only the other one states about the text."""
    a, b = (
        {name: getattr(one, name) for name in _OF_TEXT & one.explicit} for one in (first, second)
    )
    return [replace(first, **b | a), replace(second, **a | b)]


def _taken(
    run: Run,
    side: Run | str | Path,
    base: RunSettings,
    given: frozenset[str],
    *,
    is_alike: bool,
) -> dict[str, Any]:
    """Return the settings of a run that hold for the other side: text, sites and ARM.

    Those of its text only if ``is_alike``: both sides read text, or both have random input.
    """
    own = run.manifest.get("settings") or {}
    of_arm = names_affecting("arm") if run.manifest.get("arm") else ()
    names = (*(names_affecting("tokens") if is_alike else ("seed",)), "sites", *of_arm)
    taken = {name: own[name] for name in names if name in own and name not in given}
    where = "the run" if isinstance(side, Run) else f"{Path(side) / RUN}"
    text = {"text": base.text, "texts": base.texts} if is_alike else {}
    return settings_of_folder(taken, f"{where}, settings") | text


def _is_built(side: Run | RunSettings) -> bool:
    if isinstance(side, RunSettings):
        return side.layer is not None
    return built_layers(side) is not None


def built_layers(run: Run) -> dict[str, Any] | None:
    """Return the ``[layer]`` settings of layers with random input; None where text was read."""
    return (run.manifest.get("settings") or {}).get("layer") or None
