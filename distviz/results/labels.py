"""Names of models, layers and settings of ARM in figures and tables, and formats of numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from distviz.arm import has_bounds, has_selection
from distviz.output import counted, listed, visible
from distviz.results.result import model_layers
from distviz.sites import ACT

if TYPE_CHECKING:
    from distviz.results.comparison import Comparison
    from distviz.results.filler_study import FillerStudy
    from distviz.results.run import Run
    from distviz.sites import SiteKey

_MOST_LAYERS = 6
"""Layers named in a list; more are cut."""
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Described(Protocol):
    """A result with a manifest."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Model, dtype and settings of ARM, among others."""


def model_name(run: Described) -> str:
    """Return the model's name, the last part of a path or hub id."""
    model = run.manifest.get("model") or {}
    name = str(model.get("name") or model.get("path") or model.get("architecture") or "model")
    return visible(name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name)


def dtype_name(run: Described, side: str = "") -> str:
    """Return ``bf16``, ``fp16``, ``fp32`` or another name of the manifest; empty if it has none."""
    model = run.manifest.get(f"model{side}") or {}
    dtype = str(run.manifest.get("dtype") or model.get("dtype") or "").removeprefix("torch.")
    return _DTYPES.get(dtype, dtype)


def measured_line(
    result: Described, side: str = "", *, name: str | None = None, sample: str | None = None
) -> str:
    """Return what was measured: model, activation, layers, text and dtype.

    Parameters
    ----------
    result
        Its manifest has ``model``, ``text`` and ``dtype``, or ``model_a`` and so on.
    side
        ``"_a"`` or ``"_b"`` in a comparison.
    name, sample
        Replace the model's name and the numbers of tokens and documents.
    """
    name = model_name(result) if name is None else name
    model = result.manifest.get(f"model{side}") or {}
    layers = model.get("layers")
    words = [
        step_name(result),
        str(model.get("activation") or ""),
        counted(layers, "layer") if isinstance(layers, int) else "",
        sample_name(result, side) if sample is None else sample,
        dtype_name(result, side),
    ]
    named = (word for word in words if word and not name.endswith((f" {word}", f"({word})")))
    return " · ".join(filter(None, [name, *named]))


def step_name(run: Described) -> str:
    """Return ``step 100`` for a snapshot of a training; otherwise an empty string."""
    step = (run.manifest.get("training") or {}).get("step")
    return f"step {step}" if isinstance(step, int) else ""


def side_names(comparison: Comparison) -> tuple[str, str]:
    """Name both sides: the models, and what distinguishes them if the models are the same.

    Both names are equal where nothing distinguishes the sides.
    """
    sides = (comparison.a, comparison.b)
    first, second = (model_name(run) for run in sides)
    marks = [
        tuple(
            f"{'with' if phase == 'after' else 'without'} {_change(comparison)}"
            for phase in _phases(comparison)
        ),
        tuple(dtype_name(run) for run in sides) if first == second else ("", ""),
    ]
    used = [(a, b) for a, b in marks if a != b]
    if first == second and not used:
        used = [(a, b) for a, b in _other_marks(comparison) if a != b][:1]
    names = zip((first, second), zip(*used, strict=True) if used else ((), ()), strict=True)
    a, b = (" ".join(filter(None, (name, *notes))) for name, notes in names)
    return a, b


def _change(comparison: Comparison) -> str:
    """Name the redistribution of the sides whose phase is ``after``."""
    sides = zip((comparison.a, comparison.b), _phases(comparison), strict=True)
    names = dict.fromkeys(change_name(run) for run, phase in sides if phase == "after")
    return " or ".join(names) or "ARM"


def _phases(comparison: Comparison) -> tuple[str, str]:
    return comparison.manifest["phase_a"], comparison.manifest["phase_b"]


def _other_marks(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what may distinguish runs of one name: options of B, activation, ARM, folder, text."""
    sides = (comparison.a, comparison.b)
    own = [name.removeprefix("b_") for name in comparison.manifest.get("of_b") or {}]
    parts = []
    for run in sides:
        model, text = run.manifest.get("model") or {}, run.manifest.get("text") or {}
        path = str(model.get("source") or "").replace("\\", "/").rstrip("/")
        folder = path.rpartition("/")[0].rpartition("/")[2]
        parts.append(
            (
                _given(run, own),
                f"({step})" if (step := step_name(run)) else "",
                f"({model['activation']})" if model.get("activation") else "",
                f"({arm_settings(run)})" if arm_settings(run) else "",
                f"(in {folder})" if folder else "",
                f"(text {str(text.get('sha256'))[:6]})" if text.get("sha256") else "",
            )
        )
    return list(zip(*parts, strict=True))


def _given(run: Run, names: Sequence[str]) -> str:
    settings = run.manifest.get("settings") or {}
    values = ((name, settings.get(name)) for name in names)
    words = [f"{name} {'default' if value is None else value}" for name, value in values]
    return f"({', '.join(words)})" if words else ""


def alignment(comparison: Comparison) -> str:
    """Describe how layers were paired and whether the texts or tokens differ."""
    manifest = comparison.manifest
    n_a, n_b = (_depth(run) for run in (comparison.a, comparison.b))
    ways = set(manifest.get("alignment", {}).values())
    if ways == {"index"}:
        text = "layers paired by index"
    else:
        text = f"layers paired by relative depth ({n_a} in A, {n_b} in B)"
    texts = [(manifest.get(f"text_{side}") or {}).get("sha256") for side in "ab"]
    if texts[0] != texts[1] or (texts[0] is None and manifest.get("paired") is False):
        text += " · different texts"
    elif not manifest.get("same_tokenizer", True):
        tokens = [(manifest.get(f"text_{side}") or {}).get("tokens") for side in "ab"]
        first, second = ("?" if count is None else f"{count:,}" for count in tokens)
        text += f" · different tokenizers ({first} and {counted(second, 'token')})"
    if own := manifest.get("of_b"):
        words = (f"--{name.replace('_', '-')} {value}" for name, value in own.items())
        text += f" · for B alone: {', '.join(words)}"
    return text


def _depth(run: Run) -> int:
    return model_layers(run.manifest) or 1 + max(key.layer for key in run.keys)


_FILLER_PLACES = {
    "start": "at the start",
    "between": "between system prompt and question",
    "end": "at the end",
    "random": "at a random position",
}


def filler_name(study: FillerStudy, count: int | None = None) -> str:
    """Describe the filler: what was inserted, how many times (all counts or one) and where."""
    manifest = study.manifest
    kinds = {"random": "random tokens", "words": "a repeated word"}
    name = kinds.get(str(manifest.get("filler_kind")), f"“{manifest.get('filler')}”")
    counts = ", ".join(map(str, study.counts if count is None else [count]))
    position = str(manifest.get("filler_position"))
    return f"filler {name} × {counts} {_FILLER_PLACES.get(position, position)}"


def distance_name(row: Mapping[Any, Any]) -> str:
    """Name a bin of distances to the filler, such as ``5 to 8``."""
    ends = dict.fromkeys([int(row["distance_low"]), int(row["distance_high"])])
    return " to ".join(f"{end}".replace("-", "−") for end in ends)


def layer_name(run: Run, layer: int, stack: str = "decoder") -> str:
    """Return ``layer 0 (first)``, ``layer 29 (last)`` or ``layer 7``."""
    if layer < 0:
        return "outside the layers"
    is_last = layer == model_layers(run.manifest) - 1 and stack == "decoder"
    note = " (first)" if layer == 0 else " (last)" if is_last else ""
    return f"{'' if stack == 'decoder' else stack + ' '}layer {layer}{note}"


def layer_names(layers: Sequence[int]) -> str:
    """Return ``layer 0`` or ``layers 0, 2, 5``; a long list is cut."""
    names = ", ".join(map(str, layers[:_MOST_LAYERS])) + ", …" * (len(layers) > _MOST_LAYERS)
    return listed("layer", names)


def chosen_layers(run: Described, layers: Iterable[int]) -> str:
    """Return ``all layers`` if these are all of the model, otherwise their names."""
    own, n_layers = sorted(set(layers)), model_layers(run.manifest)
    if len(own) > 1 and n_layers and set(range(n_layers)) <= set(own):
        return "all layers"
    return layer_names(own)


def series_names(places: Iterable[SiteKey]) -> dict[SiteKey, str]:
    """Name the module of each place without its layer: one name for a module of all layers.

    The index of the layer becomes ``*`` wherever it stands in the path. If a path has several
    numbers, that of the layer is the first that equals the layer in all paths of this form.
    """
    alike: dict[tuple[str, ...], list[tuple[SiteKey, list[str]]]] = {}
    for key in places:
        parts = re.split(r"(\d+)", key.module)
        alike.setdefault((key.stack, key.site, *parts[::2]), []).append((key, parts))
    names = {}
    for group in alike.values():
        numbers = range(1, len(group[0][1]), 2)
        fitting = (at for at in numbers if all(int(parts[at]) == key.layer for key, parts in group))
        at = next(fitting, None)
        for key, parts in group:
            shown = parts if at is None else [*parts[:at], "*", *parts[at + 1 :]]
            names[key] = "".join(shown)
    return names


def curve_names(places: Sequence[SiteKey]) -> dict[SiteKey, str]:
    """Name each place of one site by its layer, and by phase and module where a layer has more."""
    phases = {key.phase for key in places}
    modules = series_names(places)
    has_modules = len({(key.stack, key.layer, key.phase) for key in places}) < len(places)
    names = {}
    for key in places:
        stack = "" if key.stack == "decoder" else f"{key.stack} "
        words = [f"{stack}layer {key.layer}" if key.layer >= 0 else f"{stack}outside the layers"]
        words += [key.phase] * (len(phases) > 1) + [modules[key]] * has_modules
        names[key] = " · ".join(words)
    return names


def sample_name(run: Described, side: str = "") -> str:
    """Return the size of the text, such as ``4,096 tokens in 15 documents``; empty if unknown."""
    text = run.manifest.get(f"text{side}") or {}
    counts = ((text.get(f"{noun}s"), noun) for noun in ("token", "document"))
    return " in ".join(counted(count, noun) for count, noun in counts if isinstance(count, int))


def layer_axis(run: Described, side: str = "") -> str:
    """Return the title of an axis of layers, with the size of the text."""
    sample = sample_name(run, side)
    return f"layer ({sample})" if sample else "layer"


def arm_layers(run: Run) -> list[int]:
    """Return the layers whose values ARM moved, also where none of these values was observed."""
    stated = (run.manifest.get("arm") or {}).get("layers") or ()
    return sorted({key.layer for key in run.keys if key.phase == "moved_after"}.union(stated))


def is_paired(run: Run) -> bool:
    """Return whether a run has distributions after a change; else it has no use for phases."""
    return any(key.phase == "after" for key in run.keys)


def moved_values(run: Run) -> str:
    """Return how many values ARM moved, such as ``1,321 values (5.38 %)``.

    Where they were not observed, by the plans; empty where several passes may move one value twice.
    """
    keys = [key for key in run.keys if key.phase == "moved_before"]
    if keys:
        moved = sum(run.merged[key].count for key in keys)
        total = sum(run.merged[key._replace(phase="after")].count for key in keys)
    elif run.plans.empty or not {"k", "n", "pass"} <= set(run.plans) or run.plans["pass"].any():
        return ""
    else:
        moved, total = (int(run.plans[name].sum()) for name in ("k", "n"))
    return f"{counted(moved, 'value')} ({percent(moved / max(total, 1))})"


def change_name(run: Described) -> str:
    """Return ``ARM``, or the name of the redistribution used instead."""
    name = str((run.manifest.get("arm") or {}).get("redistribution") or "arm")
    return "ARM" if name == "arm" else name


def change_sites(run: Described) -> list[str]:
    """Return the sites where values were redistributed."""
    return str((run.manifest.get("arm") or {}).get("at") or ACT).split(",")


def arm_settings(run: Described) -> str:
    """Return the main settings of ARM, or an empty string."""
    arm: dict[str, Any] = run.manifest.get("arm") or {}
    fraction = arm.get("fraction")
    words = []
    name = str(arm.get("redistribution") or "arm")
    if not has_selection(name):
        pass
    elif fraction is not None:
        words.append(f"fraction = {fraction:g}")
    elif arm.get("c") is not None:
        words.append(f"c = {arm['c']:g}")
    bounded = has_bounds(name)
    if bounded and arm.get("p1") is not None:
        of = " of |x|" if arm.get("percentile_of") == "magnitude" else ""
        words.append(f"p1 = {arm['p1']:g}{of}")
    if bounded and arm.get("mode") == "add":
        words.append("added")
    if arm.get("passes", 1) > 1:
        words.append(counted(arm["passes"], "pass"))
    if (at := change_sites(run)) != [ACT]:
        words.append(f"at {', '.join(at)}")
    return ", ".join(words)


def number(value: float | None, digits: int = 3) -> str:
    """Format ``digits`` significant digits; large and small numbers get an exponent."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{places}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """Format a fraction as a percentage; only 0 and 1 are shown as 0 % and 100.0 %."""
    if share is None or not math.isfinite(share):
        return "–"
    if share == 0:
        return "0 %"
    if 0 < share < 1e-4:
        return "< 0.01 %"
    if 0.9999 < share < 1:
        return "> 99.99 %"
    places = 1 if 0.0995 <= share < 0.9985 or share >= 1 else 2
    return f"{100 * share:.{places}f} %"


def decibels(ratio: float) -> str:
    """Format a ratio in dB with one decimal; a lossless format has ``inf``."""
    if math.isnan(ratio):
        return "–"
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(ratio, 1) + 0.0:.1f}".replace("-", "−") if math.isfinite(ratio) else "inf"


def place_name(row: Mapping[str, Any]) -> str:
    """Return the layer number of a table row, with the stack unless it is the decoder."""
    stack = "" if row["stack"] == "decoder" else f"{row['stack']} "
    return f"{stack}{row['layer']}" if row["layer"] >= 0 else "outside"
