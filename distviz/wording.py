"""How figures and tables name a model, a layer, the settings of ARM, and how they write numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distviz.runs import Run

__all__ = ["arm_layers", "arm_settings", "layer_name", "model_name", "number", "percent"]


def model_name(run: Run) -> str:
    """Return the model's name, the last part of a path or hub id."""
    model = run.manifest.get("model") or {}
    name = str(model.get("name") or model.get("path") or model.get("architecture") or "model")
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name


def layer_name(run: Run, layer: int, stack: str = "decoder") -> str:
    """Return ``layer 0 (first)``, ``layer 29 (last)`` or ``layer 7``."""
    if layer < 0:
        return "outside the layers"
    number = (run.manifest.get("model") or {}).get("layers")
    is_last = isinstance(number, int) and layer == number - 1 and stack == "decoder"
    note = " (first)" if layer == 0 else " (last)" if is_last else ""
    return f"{'' if stack == 'decoder' else stack + ' '}layer {layer}{note}"


def arm_layers(run: Run) -> list[int]:
    """Return the layers whose values ARM moved."""
    return sorted({key.layer for key in run.keys if key.phase == "landing"})


def arm_settings(run: Run) -> str:
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
    places = 2 if share < 0.0995 else 1
    return f"{100 * share:.{places}f} %"
