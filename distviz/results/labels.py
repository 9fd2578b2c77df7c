"""How figures and tables name a model, a layer, the settings of ARM, and how they write numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from distviz.results.result import model_layers

if TYPE_CHECKING:
    from distviz.results.comparison import Comparison
    from distviz.results.filler_study import FillerStudy
    from distviz.results.run import Run

__all__ = [
    "alignment",
    "arm_layers",
    "arm_settings",
    "change_name",
    "decibels",
    "distance_name",
    "dtype_name",
    "filler_name",
    "layer_axis",
    "layer_name",
    "model_name",
    "number",
    "percent",
    "place_name",
    "sample_name",
    "side_names",
]

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Described(Protocol):
    """What a manifest describes: a run, or what was found out about one."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Model, dtype and settings of ARM, among others."""


def model_name(run: Described) -> str:
    """Return the model's name, the last part of a path or hub id."""
    model = run.manifest.get("model") or {}
    name = str(model.get("name") or model.get("path") or model.get("architecture") or "model")
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name


def dtype_name(run: Described) -> str:
    """Return ``bf16``, ``fp16``, ``fp32`` or what else the run says; empty where it says none."""
    dtype = str(run.manifest.get("dtype") or "").removeprefix("torch.")
    return _DTYPES.get(dtype, dtype)


def side_names(comparison: Comparison) -> tuple[str, str]:
    """Name both sides: the models, and what tells them apart where that is not the model.

    Where nothing does, both bear the same name.
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
    told = [(a, b) for a, b in marks if a != b]
    if first == second and not told:
        told = [(a, b) for a, b in _other_marks(comparison) if a != b][:1]
    names = zip((first, second), zip(*told, strict=True) if told else ((), ()), strict=True)
    a, b = (" ".join(filter(None, (name, *notes))) for name, notes in names)
    return a, b


def _change(comparison: Comparison) -> str:
    """Name what acts on the sides asked for ``after``."""
    sides = zip((comparison.a, comparison.b), _phases(comparison), strict=True)
    names = dict.fromkeys(change_name(run) for run, phase in sides if phase == "after")
    return " or ".join(names) or "ARM"


def _phases(comparison: Comparison) -> tuple[str, str]:
    return comparison.manifest["phase_a"], comparison.manifest["phase_b"]


def _other_marks(comparison: Comparison) -> list[tuple[str, str]]:
    """What may tell runs of one name apart: activation, ARM's settings, folder, text."""
    sides = (comparison.a, comparison.b)
    parts = []
    for run in sides:
        model, text = run.manifest.get("model") or {}, run.manifest.get("text") or {}
        path = str(model.get("source") or "").replace("\\", "/").rstrip("/")
        folder = path.rpartition("/")[0].rpartition("/")[2]
        parts.append(
            (
                f"({model['activation']})" if model.get("activation") else "",
                f"({arm_settings(run)})" if arm_settings(run) else "",
                f"(in {folder})" if folder else "",
                f"(text {str(text.get('sha256'))[:6]})" if text.get("sha256") else "",
            )
        )
    return list(zip(*parts, strict=True))


def alignment(comparison: Comparison) -> str:
    """Say how the layers were set against each other, and whether the tokens differ."""
    manifest = comparison.manifest
    n_a, n_b = (_depth(run) for run in (comparison.a, comparison.b))
    ways = set(manifest.get("alignment", {}).values())
    if ways == {"index"}:
        text = "layers paired by index"
    else:
        text = f"layers paired by relative depth ({n_a} in A, {n_b} in B)"
    texts = [(manifest.get(f"text_{side}") or {}).get("sha256") for side in "ab"]
    if texts[0] != texts[1]:
        text += " · different texts"
    elif not manifest.get("same_tokenizer", True):
        tokens = [(manifest.get(f"text_{side}") or {}).get("tokens") for side in "ab"]
        text += f" · different tokenizers ({_counted(tokens[0])} and {_counted(tokens[1])} tokens)"
    return text


def _depth(run: Run) -> int:
    return model_layers(run.manifest) or 1 + max(key.layer for key in run.keys)


def _counted(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


_FILLER_PLACES = {
    "start": "at the start",
    "between": "between system prompt and question",
    "end": "at the end",
    "random": "at a random place",
}


def filler_name(study: FillerStudy, count: int | None = None) -> str:
    """Say what was put into the prompts, how often (every number, or one) and where."""
    manifest = study.manifest
    kinds = {"random": "random tokens", "words": "a repeated word"}
    name = kinds.get(str(manifest.get("filler_kind")), f"“{manifest.get('filler')}”")
    counts = ", ".join(map(str, study.counts if count is None else [count]))
    position = str(manifest.get("filler_position"))
    return f"filler {name} × {counts} {_FILLER_PLACES.get(position, position)}"


def distance_name(row: Mapping[Any, Any]) -> str:
    """Name a bin of distances to the filler, such as 5 to 8, or 1; with a true minus."""
    ends = dict.fromkeys([int(row["distance_low"]), int(row["distance_high"])])
    return " to ".join(f"{end}".replace("-", "−") for end in ends)


def layer_name(run: Run, layer: int, stack: str = "decoder") -> str:
    """Return ``layer 0 (first)``, ``layer 29 (last)`` or ``layer 7``."""
    if layer < 0:
        return "outside the layers"
    is_last = layer == model_layers(run.manifest) - 1 and stack == "decoder"
    note = " (first)" if layer == 0 else " (last)" if is_last else ""
    return f"{'' if stack == 'decoder' else stack + ' '}layer {layer}{note}"


def sample_name(run: Described, side: str = "") -> str:
    """Say how much was measured, such as ``4,096 tokens in 15 documents``; empty if not known."""
    text = run.manifest.get(f"text{side}") or {}
    tokens, documents = text.get("tokens"), text.get("documents")
    words = [f"{tokens:,} token{'s' * (tokens != 1)}"] if isinstance(tokens, int) else []
    if isinstance(documents, int):
        words.append(f"{documents:,} document{'s' * (documents != 1)}")
    return " in ".join(words)


def layer_axis(run: Described, side: str = "") -> str:
    """Return the title of an axis of layers, with how much was measured in each."""
    sample = sample_name(run, side)
    return f"layer ({sample})" if sample else "layer"


def arm_layers(run: Run) -> list[int]:
    """Return the layers whose values ARM moved."""
    return sorted({key.layer for key in run.keys if key.phase == "moved_after"})


def change_name(run: Described) -> str:
    """Return ``ARM``, or the name of the redistribution that stood in its place."""
    name = str((run.manifest.get("arm") or {}).get("redistribution") or "arm")
    return "ARM" if name == "arm" else name


def arm_settings(run: Described) -> str:
    """Return the settings of ARM that matter to the reader, or an empty string."""
    arm: dict[str, Any] = run.manifest.get("arm") or {}
    fraction = arm.get("fraction")
    words = []
    if fraction is not None:
        words.append(f"fraction = {fraction:g}")
    elif arm.get("c") is not None:
        words.append(f"c = {arm['c']:g}")
    if arm.get("p1") is not None:
        of = " of |x|" if arm.get("percentile_of") == "magnitude" else ""
        words.append(f"p1 = {arm['p1']:g}{of}")
    if arm.get("mode") == "add":
        words.append("added")
    if arm.get("passes", 1) > 1:
        words.append(f"{arm['passes']} passes")
    return ", ".join(words)


def number(value: float, digits: int = 3) -> str:
    """Write a number in ``digits`` significant digits, large and small ones with an exponent."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{places}f}".replace("-", "−")


def percent(share: float) -> str:
    """Write a share as a percentage; what is neither none nor all never reads so."""
    if not math.isfinite(share):
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
    """Write a ratio in dB with one place; nothing lost is infinite."""
    if math.isnan(ratio):
        return "–"
    return f"{ratio:.1f}".replace("-", "−") if math.isfinite(ratio) else "inf"


def place_name(row: Mapping[str, Any]) -> str:
    """Name the layer of a row of a table: its number, with the stack unless that is the decoder."""
    stack = "" if row["stack"] == "decoder" else f"{row['stack']} "
    return f"{stack}{row['layer']}" if row["layer"] >= 0 else "outside"
