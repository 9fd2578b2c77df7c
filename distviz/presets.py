"""The settings that the paper publishes (arXiv 2510.01032, table 9), as data.

`<model>` alone means its MATH-500 setting (Qwen2.5-32B-Instruct has none there: AIME24), and
`<model>:<benchmark>` any other; names are lower case.
"""

from __future__ import annotations

from typing import Any

from distviz.errors import RequestError, nearest

__all__ = ["PRESETS", "find_preset"]

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
"""Preset name -> the ARM settings it stands for, by the names of `RunSettings`."""


def find_preset(name: str, model: str | None) -> dict[str, Any]:
    """Return the settings of a preset; ``auto`` chooses by the name of the model.

    Raises
    ------
    RequestError
        If there is no such preset, or none for this model.
    """
    wanted = name.lower()
    if wanted == "auto":
        spelled = (model or "demo").lower()
        for preset in _TABLE:
            if preset in spelled:
                return dict(PRESETS[preset])
        raise RequestError(
            f"no published setting for '{model or 'demo'}'",
            f"published for: {', '.join(_TABLE)}; or give --c/--fraction and --p1 yourself",
        )
    if wanted not in PRESETS:
        raise RequestError(
            f"unknown preset '{name}'{nearest(wanted, PRESETS)}",
            f"allowed: auto, {', '.join(_TABLE)}, each also as NAME:BENCHMARK",
        )
    return dict(PRESETS[wanted])
