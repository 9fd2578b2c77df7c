"""The settings that the paper publishes (arXiv 2510.01032, table 9), as data.

`<model>` is its MATH-500 setting (AIME24 for Qwen2.5-32B-Instruct), `<model>:<benchmark>` any
other; names are lower case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, nearest

if TYPE_CHECKING:
    from distviz.stats import Sketch

KL_BUDGET = 0.05
"""Nats of KL divergence up to which a change of the output is acceptable, unless told otherwise."""
_BENCHMARKS = ("gpqa", "math-500", "aime24", "aime25", "humaneval", "livecodebench")
_TABLE = {
    "qwen2.5-math-1.5b": ".15/99.5 .13/99.5 .13/99.5 .13/99.5 .13/99.5 -",
    "qwen2.5-math-7b": ".2/99.5 .1/95 .05/90 .13/99.5 .13/95 -",
    "qwen2.5-7b-instruct": ".15/99.5 .1/99.5 - .13/95 .05/90 .3/99.5",
    "qwen2.5-32b-instruct": ".05/90.5 - .13/99.5 .05/99 .13/99.5 .3/99.5",
    "llama-3.1-8b-instruct": ".45/80 .32/90 .32/90 - .3/90 .3/90",
    "gemma-3-4b-it": ".5/96.5 .25/85 .25/96.5 .25/85 .25/96.5 .25/75",
    "gemma-3-27b-it": ".5/96.5 .25/85 .25/85 .25/70 .25/85 .25/85",
}
_DEFAULT_BENCHMARK = {"qwen2.5-32b-instruct": "aime24"}


def _settings(model: str, cell: str) -> dict[str, Any]:
    first, p1 = (float(part) for part in cell.split("/"))
    if model.startswith("gemma"):
        return {"fraction": first, "p1": p1, "percentile_of": "magnitude"}
    if model.startswith("llama"):
        return {"c": first, "p1": p1, "p_min": 0.2}
    return {"c": first, "p1": p1}


def _presets() -> dict[str, dict[str, Any]]:
    found = {}
    for model, line in _TABLE.items():
        cells = dict(zip(_BENCHMARKS, line.split(), strict=True))
        named = {name: _settings(model, cell) for name, cell in cells.items() if cell != "-"}
        found[model] = named[_DEFAULT_BENCHMARK.get(model, "math-500")]
        found |= {f"{model}:{name}": settings for name, settings in named.items()}
    return found


PRESETS = _presets()
"""Preset name -> its ARM settings, by the names of `RunSettings`."""


def published_for(model: str | None) -> str | None:
    """Return the preset whose name is part of the model's name, or None."""
    spelled = (model or "").lower()
    return next((preset for preset in _TABLE if preset in spelled), None)


def find_preset(name: str, model: str | None) -> dict[str, Any] | None:
    """Return the settings of a preset; ``auto`` chooses by the name of the model.

    None if nothing is published for the model; then settings come from a pilot run, see `propose`.

    Raises
    ------
    RequestError
        If there is no such preset.
    """
    wanted = name.lower()
    if wanted == "auto":
        found = published_for(model)
        return None if found is None else dict(PRESETS[found])
    if wanted not in PRESETS:
        raise RequestError(
            f"unknown preset '{name}'{nearest(wanted, PRESETS)}",
            f"allowed: auto, {', '.join(_TABLE)}, each also as NAME:BENCHMARK",
        )
    return dict(PRESETS[wanted])


def every_preset(listed: str, model: str | None) -> dict[str, dict[str, Any]]:
    """Return the settings of a list of presets, by their full names.

    A model's name alone means all its benchmarks, ``auto`` those published for the model, if any.

    Raises
    ------
    RequestError
        If there is no such preset.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in listed.lower().split(","):
        name = word.strip()
        if find_preset(name, model) is not None:
            name = str(published_for(model)) if name == "auto" else name
            own = [preset for preset in PRESETS if preset.startswith(f"{name}:")]
            found |= {preset: dict(PRESETS[preset]) for preset in own or [name]}
    return found


def join_names(names: Sequence[str]) -> str:
    """Return one name for presets with the same settings: ``model:gpqa,aime24``."""
    models = {name.partition(":")[0] for name in names}
    if len(models) > 1:
        return ",".join(names)
    return ",".join([*names[:1], *(name.partition(":")[2] for name in names[1:])])


_NEAR = 0.1
_BY_FAR, _NEARLY_ALL = 0.5, 0.9


@dataclass(frozen=True)
class Proposal:
    """Settings for a model without published ones.

    Attributes
    ----------
    settings
        By the names of `RunSettings`.
    evidence
        The measured share and the resulting rule, as a sentence.
    """

    settings: dict[str, Any]
    evidence: str


def propose(before: Sketch) -> Proposal:
    """Propose settings by the paper's rule of thumb (arXiv 2510.01032, section 6 and appendix H).

    The rule depends on the share of near-zero values, here those below a tenth of the standard
    deviation: above one half, a small c (0.1); above nine tenths, a fraction (0.25); else a larger
    c (0.32). The limits are distviz's interpretation; p1 are those published with such c.

    Parameters
    ----------
    before
        The activation without ARM.
    """
    values, counts = before.magnitude_pairs()
    share = float(counts[values < _NEAR * before.std()].sum()) / max(before.count, 1)
    seen = f"{share:.0%} of the values lie within a tenth of the standard deviation around zero"
    if share > _NEARLY_ALL:
        found = {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude"}
        return Proposal(found, f"{seen}: nearly everything, so a fraction is given directly")
    if share > _BY_FAR:
        return Proposal({"c": 0.1, "p1": 99.5}, f"{seen}: more than all others, so c is small")
    return Proposal({"c": 0.32, "p1": 90.0}, f"{seen}: fewer than the others, so c is larger")
