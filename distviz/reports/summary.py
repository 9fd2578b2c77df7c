"""What a run says, in a paragraph of plain words; a comparison's verdict comes with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from distviz.results import (
    arm_layers,
    arm_settings,
    change_name,
    layer_name,
    model_name,
    number,
    percent,
)
from distviz.stats import statistics

if TYPE_CHECKING:
    from distviz.results import Run
    from distviz.sites import SiteKey

__all__ = ["listed", "measured", "run_verdict"]

_NAMED = 6


def listed(layers: list[int]) -> str:
    """Write ``layer 0`` or ``layers 0, 2, 5``."""
    names = ", ".join(map(str, layers[:_NAMED])) + ", …" * (len(layers) > _NAMED)
    return f"layer{'s' * (len(layers) > 1)} {names}"


def measured(manifest: dict[str, Any], side: str = "") -> str:
    """Say what was measured: activation, layers, tokens, number format."""
    model, text = manifest.get(f"model{side}") or {}, manifest.get(f"text{side}") or {}
    words = [str(model[name]) for name in ("architecture", "activation") if model.get(name)]
    layers = model.get("layers")
    if isinstance(layers, int):
        words.append(f"{layers} layer{'s' * (layers != 1)}")
    if text.get("tokens"):
        n = text.get("documents", 0)
        words.append(f"{text['tokens']:,} tokens in {n:,} document{'s' * (n != 1)}")
    dtype = model.get("dtype") or manifest.get("dtype")
    return " · ".join([*words, *([str(dtype)] if dtype else [])])


def run_verdict(run: Run) -> str:
    """Say in plain words what the run found."""
    if not run.keys:
        return f"{model_name(run)} was measured, and no value was observed."
    said = [_moved(run), _ripple(run)] if arm_layers(run) else [_observed(run)]
    return " ".join(filter(None, [*said, _effect(run)]))


def _observed(run: Run) -> str:
    site = "act" if any(key.site == "act" for key in run.keys) else run.keys[0].site
    shares = {
        key: statistics.near_zero(run.merged[key], run.bands[key])
        for key in run.keys
        if key.site == site and key.phase == "before"
    }
    shares = {key: share for key, share in shares.items() if math.isfinite(share)}
    if not shares:
        return f"{model_name(run)} was observed; no finite value was seen."
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    return (
        f"{model_name(run)} was observed as it is. At {site}, the share of near-zero values runs "
        f"from {percent(shares[low])} in {_where(run, low)} to {percent(shares[high])} in "
        f"{_where(run, high)}."
    )


def _where(run: Run, key: SiteKey) -> str:
    return layer_name(run, key.layer, key.stack)


def _moved(run: Run) -> str:
    places = [key for key in run.keys if key.phase == "moved_before"]
    moved = sum(run.merged[key].count for key in places)
    values = sum(run.merged[key._replace(phase="after")].count for key in places)
    layers = arm_layers(run)
    settings = f" ({arm_settings(run)})" if arm_settings(run) else ""
    said = f"In {model_name(run)}, {change_name(run)}{settings} in {listed(layers)} moved "
    said += f"{moved:,} values, {percent(moved / max(values, 1))} of those there."
    first = places[0]
    pair = [run.merged.get(first._replace(phase=phase)) for phase in ("before", "after")]
    before, after = pair
    if before is None or after is None:
        return said
    eps = run.bands[first]
    shares = [percent(statistics.near_zero(one, eps)) for one in (before, after)]
    spread = after.std() / before.std() - 1 if before.std() > 0 else math.nan
    change = f" ({100 * spread:+.1f} %)".replace("-", "−") if math.isfinite(spread) else ""
    return (
        f"{said} In {_where(run, first)} the near-zero share went from {shares[0]} to {shares[1]} "
        f"and the standard deviation from {number(before.std())} to {number(after.std())}{change}."
    )


def _ripple(run: Run) -> str:
    """Name the layer without ARM where the change arrives most."""
    marked, apart = set(arm_layers(run)), {}
    for key in run.keys:
        before = run.merged.get(key._replace(phase="before"))
        if key.phase == "after" and key.layer not in marked and before is not None:
            spread = before.std()
            if spread > 0:
                apart[key] = statistics.wasserstein(before, run.merged[key]) / spread
    if not apart:
        return ""
    most = max(apart, key=apart.__getitem__)
    if apart[most] == 0:
        return "The other layers did not change."
    return (
        f"Of the other layers, {_where(run, most)} changed most: its values moved by "
        f"{number(apart[most])} standard deviations on average (Wasserstein-1)."
    )


def _effect(run: Run) -> str:
    effect = run.manifest.get("effect") or {}
    before, after = effect.get("loss_before"), effect.get("loss_after")
    if before is None:
        return ""
    if after is None:
        return f"The next-token loss is {before:.4f} nats."
    change = f"{after - before:+.4f}".replace("-", "−")
    said = f"The next-token loss went from {before:.4f} to {after:.4f} nats ({change})"
    if effect.get("kl") is not None:
        said += f", with a KL divergence of {number(effect['kl'])} nats"
    if effect.get("top1_agreement") is not None:
        said += (
            f"; the most likely next token stayed the same at {percent(effect['top1_agreement'])}"
        )
        said += " of the positions"
    return f"{said}."
