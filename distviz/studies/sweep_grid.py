"""The settings that a sweep tries: every combination of what was listed, each checked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from distviz.arm import ARM, ByPlace, PlaceTable, join_names
from distviz.errors import RequestError
from distviz.parsing import word_list
from distviz.settings import OPTIONS, RunSettings
from distviz.sites import join_layers, join_sites, parse_layers, parse_sites

_NUMBERS = ("c", "p1", "fraction")
_WORDS = ("arm_mode", "redistribution", "at")


@dataclass(frozen=True)
class SweepGrid:
    """The lists of the command line, as text; None for options that were not given.

    Attributes
    ----------
    c, p1, fraction
        Numbers, comma-separated.
    arm_mode, redistribution
        Names, comma-separated.
    at
        Alternatives, comma-separated; sites that change together are joined by ``+``.
    arm_layers
        Alternatives, separated by ``;``: ``0;1;0,1;all``.
    """

    c: str | None = None
    p1: str | None = None
    fraction: str | None = None
    arm_mode: str | None = None
    redistribution: str | None = None
    at: str | None = None
    arm_layers: str | None = None


@dataclass(frozen=True)
class Setting:
    """One row of a sweep: layers and parameters of a redistribution.

    Attributes
    ----------
    layers
        0-based indices.
    label
        The layers as given.
    settings
        Everything else, as for ``distviz run``, with the first seed of the sweep.
    preset
        The presets with these settings, see `distviz.arm.presets.join_names`; may be empty.
    table
        Thresholds or formats by place, which then stand for the redistribution.
    """

    layers: tuple[int, ...]
    label: str
    settings: RunSettings
    preset: str = ""
    table: PlaceTable | None = None

    def redistribution(self, settings: RunSettings) -> ARM:
        """Return the redistribution; ``settings`` are its own with another seed."""
        own = settings.arm()
        if self.table is None:
            return own
        given = {field.name: getattr(own, field.name) for field in fields(ARM)}
        return ByPlace(**given, table=self.table)

    def named(self) -> dict[str, Any]:
        """Return the columns of ``sweep.csv`` that identify a setting."""
        own = self.settings
        return {
            "redistribution": own.redistribution,
            "layers": self.label,
            "at": own.at,
            "c": own.c,
            "p1": own.p1,
            "fraction": own.fraction,
            "mode": own.arm_mode,
            "preset": self.preset,
        }


Presets = Mapping[str, dict[str, Any]]
"""Name -> settings, by the names of `RunSettings`."""


def combine(
    grid: SweepGrid, base: RunSettings, n_layers: int, presets: Presets | None = None
) -> list[Setting]:
    """Return every combination, in the order given: layers, then parameters, then presets.

    Fractions replace c, unless c is listed too: then both are tried. What the grid does not list is
    taken from ``base``. Presets are tried in addition to listed values of c, p1 and fraction; a
    preset with the settings of another row adds its name to that row.

    Raises
    ------
    RequestError
        If a list is empty or malformed, a value out of range, or a layer does not exist.
    """
    places = _places(grid.arm_layers or base.arm_layers, n_layers)
    listed: dict[str, list[Any]] = {name: _numbers(name, getattr(grid, name)) for name in _NUMBERS}
    listed |= {name: _words(name, getattr(grid, name)) for name in _WORDS}
    listed["at"] = [_together(word) for word in listed["at"]]
    base = base.trusting("redistribution", listed["redistribution"])
    bands: list[dict[str, Any]] = [{"fraction": share} for share in listed.pop("fraction") or []]
    widths = listed.pop("c") or []
    bands = [{"c": width, "fraction": None} for width in widths] + bands
    base = replace(base, preset=None)
    rows: list[tuple[list[str], RunSettings]] = []
    if bands or listed["p1"] or not presets:
        spread = itertools.product(bands or [{}], listed.pop("p1") or [base.p1])
        rows += [([], replace(base, **band, p1=p1)) for band, p1 in spread]
    listed.pop("p1", None)
    rows += [([name], base.with_proposal(own)) for name, own in (presets or {}).items()]
    found: list[tuple[Setting, list[str]]] = []
    for layers, label in places:
        for (names, chosen), *words in itertools.product(
            rows, *(listed[name] or [getattr(base, name)] for name in _WORDS)
        ):
            values = dict(zip(_WORDS, words, strict=True))
            own = replace(chosen, **values, sites=values["at"])
            setting = Setting(layers, label, own)
            same = next((known for one, known in found if one == setting), None)
            if same is None:
                found.append((setting, list(names)))
            else:
                same += names
    return [replace(setting, preset=join_names(names)) for setting, names in found]


def check(grid: SweepGrid, base: RunSettings, presets: Presets | None = None) -> list[RunSettings]:
    """Return the settings of every row; raise the errors of `combine` without the model."""
    return [row.settings for row in combine(replace(grid, arm_layers="0"), base, 1, presets)]


def by_layer(
    settings: Sequence[Setting], layers_of: Callable[[str], Sequence[int]]
) -> list[Setting]:
    """Return every parameter set of ``settings`` in each layer alone, then in all together.

    ``layers_of`` returns the layers that have some sites. Parameter sets that differ in their sites
    alone are also tried at all of these sites at once.
    """
    kept: list[Setting] = []
    for setting in settings:
        if all(setting.settings != own.settings for own in kept):
            kept.append(setting)
    found: list[Setting] = []
    for own in kept:
        layers = layers_of(own.settings.at)
        found += [replace(own, layers=(layer,), label=str(layer)) for layer in layers]
        found += _in_all(own, layers)
    for number, own in enumerate(kept):
        alike = [one for one in kept if _elsewhere(one.settings, own.settings.at) == own.settings]
        if len(alike) > 1 and kept.index(alike[0]) == number:
            at = join_sites(one.settings.at for one in alike)
            whole = replace(own, settings=_elsewhere(own.settings, at))
            found += _in_all(whole, layers_of(at))
    return found


def _elsewhere(settings: RunSettings, at: str) -> RunSettings:
    return replace(settings, at=at, sites=at)


def _in_all(setting: Setting, layers: Sequence[int]) -> list[Setting]:
    label = join_layers(layers)
    return [replace(setting, layers=tuple(layers), label=label)] if len(layers) > 1 else []


def _together(word: str) -> str:
    """Return sites joined by ``+`` as the settings hold them."""
    return ",".join(parse_sites(word.replace("+", ","), "--at"))


def _places(text: str, n_layers: int) -> list[tuple[tuple[int, ...], str]]:
    found: dict[tuple[int, ...], str] = {}
    for part in text.split(";"):
        layers = tuple(parse_layers(part, n_layers, "--arm-layers"))
        if not layers:
            raise RequestError(
                f"--arm-layers '{text}': an alternative names no layer",
                "separate alternatives by ;, such as '0;1;0,1;all'; ARM off is always measured",
            )
        found.setdefault(layers, part.strip())
    return list(found.items())


def _numbers(name: str, text: str | None) -> list[float]:
    return [OPTIONS[name].number(word) for word in _words(name, text)]


def _words(name: str, text: str | None) -> list[str]:
    if text is None:
        return []
    return word_list(text, _flag(name))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
