"""The findings of a run in a paragraph, and the frame of a part of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distviz.output import counted
from distviz.reports.cells import provenance
from distviz.reports.page import Part, Section
from distviz.results import (
    DEFINITION,
    arm_layers,
    arm_settings,
    change_name,
    layer_name,
    layer_names,
    massive_lines,
    measured_line,
    model_name,
    moved_values,
    number,
    output_verdict,
    percent,
)
from distviz.stats import statistics

if TYPE_CHECKING:
    from distviz.results import Result, Run
    from distviz.sites import SiteKey


def make_part(
    result: Result,
    title: str,
    verdict: str,
    sections: Sequence[Section],
    command: str,
    subtitle: str | None = None,
) -> Part:
    """Return the part of a result: its sections, its warnings and how it was made.

    ``command`` repeats it; the subtitle is the architecture and the size of the text unless given.
    """
    manifest = result.stated
    warnings = [str(warning) for warning in manifest.get("warnings") or []]
    subtitle = architecture_line(result) if subtitle is None else subtitle
    return Part(title, subtitle, verdict, [*sections, provenance(manifest, command)], warnings)


def architecture_line(result: Result, side: str = "") -> str:
    """Return what was measured, with the architecture in place of the model's name."""
    model = result.manifest.get(f"model{side}") or {}
    return measured_line(result, side, name=str(model.get("architecture") or ""))


def run_verdict(run: Run) -> str:
    """Return the findings of a run in sentences."""
    if not run.keys:
        return f"{model_name(run)} was measured, and no value was observed."
    judged = output_verdict(run)
    if judged is None:
        return " ".join(filter(None, [_observed(run), _loss(run), _massive(run)]))
    sentences = [_moved(run), _ripple(run)]
    sentences.insert(0 if judged.commands else len(sentences), str(judged))
    return " ".join(filter(None, [*sentences, _massive(run)]))


def _massive(run: Run) -> str:
    lines = massive_lines(run)
    return " ".join([f"Massive activations ({DEFINITION}) at", *lines]) if lines else ""


def _loss(run: Run) -> str:
    loss = (run.manifest.get("effect") or {}).get("loss_before")
    return "" if loss is None else f"The next-token loss is {counted(f'{loss:.4f}', 'nat')}."


def _observed(run: Run) -> str:
    site = "act" if any(key.site == "act" for key in run.keys) else run.keys[0].site
    shares = {
        key: statistics.near_zero(run.merged[key], run.bands[key])
        for key in run.keys
        if key.site == site and key.phase == "before"
    }
    shares = {key: share for key, share in shares.items() if math.isfinite(share)}
    if not shares:
        return f"{model_name(run)} was observed; it had no finite value."
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    return (
        f"{model_name(run)} was measured without any change. At {site}, the near-zero share ranges "
        f"from {percent(shares[low])} in {_where(run, low)} to {percent(shares[high])} in "
        f"{_where(run, high)}."
    )


def _where(run: Run, key: SiteKey) -> str:
    return layer_name(run, key.layer, key.stack)


def _moved(run: Run) -> str:
    phases = {key.phase: key for key in reversed(run.keys)}
    first = phases.get("moved_before") or phases.get("after")
    settings = f" ({arm_settings(run)})" if arm_settings(run) else ""
    moved = moved_values(run)
    acted = f"moved {moved}" if moved else "acted"
    text = f"In {model_name(run)}, {change_name(run)}{settings} {acted} in "
    text += f"{layer_names(arm_layers(run))}."
    if first is None:
        return text
    before, after = (run.merged.get(first._replace(phase=name)) for name in ("before", "after"))
    if before is None or after is None:
        return text
    eps, site = run.bands[first], f", at {first.site}," * (first.site != "act")
    shares = [percent(statistics.near_zero(sketch, eps)) for sketch in (before, after)]
    spread = after.std() / before.std() - 1 if before.std() > 0 else math.nan
    change = f" ({100 * spread:+.1f} %)".replace("-", "−") if math.isfinite(spread) else ""
    return (
        f"{text} In {_where(run, first)}{site} the near-zero share went from {shares[0]} to "
        f"{shares[1]} and the standard deviation from {number(before.std())} to "
        f"{number(after.std())}{change}."
    )


def _ripple(run: Run) -> str:
    """Return a sentence on the layer without ARM that changed most."""
    marked, distances = set(arm_layers(run)), {}
    for key in run.keys:
        before = run.merged.get(key._replace(phase="before"))
        if key.phase == "after" and key.layer not in marked and before is not None:
            spread = before.std()
            if spread > 0:
                distances[key] = statistics.wasserstein(before, run.merged[key]) / spread
    if not distances:
        return ""
    most = max(distances, key=distances.__getitem__)
    if distances[most] == 0:
        return "The other layers did not change."
    text = (
        f"Of the other layers, {_where(run, most)} changed most: its distribution is at a "
        f"Wasserstein-1 distance of {counted(number(distances[most]), 'standard deviation')}"
    )
    if most not in run.mean_changes:
        return f"{text}, a lower bound of how far its values moved."
    moved = run.mean_changes[most] / run.merged[most._replace(phase="before")].std()
    return f"{text}, and its values moved by {number(moved)} on average."
