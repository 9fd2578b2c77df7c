"""What a figure says of itself: model, layer, site, size and the settings of ARM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distviz.sites import SITES

if TYPE_CHECKING:
    from distviz.plots.bins import PairedBins
    from distviz.runs import Run

__all__ = ["arm_layers", "arm_settings", "heading", "layer_name", "model_name", "subtitle"]


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


def heading(run: Run, data: PairedBins) -> str:
    """Return the title: model, layer, site and number of values."""
    key = data.key
    where = layer_name(run, key.layer, key.stack)
    count = data.panels[0].count
    return f"{model_name(run)} · {where} · {key.site} · {count:,} value{'s' * (count != 1)}"


def subtitle(run: Run, data: PairedBins) -> str:
    """Return the second line: what the site is, where, and what ARM does there."""
    parts = [SITES.get(data.key.site, "what leaves the module").split(" (")[0]]
    if data.key.module:
        parts.append(data.key.module)
    if data.moved is not None:
        parts.append(f"ARM: {arm_settings(run)}")
    elif len(data.panels) > 1:
        layers = ", ".join(map(str, arm_layers(run)[:4])) + ", …" * (len(arm_layers(run)) > 4)
        parts.append(f"ARM in layer {layers}" if layers else "with ARM")
    return " · ".join(parts)


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
