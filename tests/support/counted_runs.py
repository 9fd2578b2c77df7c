"""Runs of given sketches."""

from __future__ import annotations

from typing import Any

from distviz.results.run import Run
from distviz.sites import SiteKey
from distviz.stats.sketch import Sketch


def key_of(layer: int = 0, phase: str = "before", site: str = "act") -> SiteKey:
    return SiteKey(layer, "decoder", site, phase, f"model.layers.{layer}.mlp.act_fn")


def make_run(sketches: dict[SiteKey, dict[str, Sketch]], **manifest: Any) -> Run:
    content = {"schema_version": 3, "kind": "run", "effect": {}, "warnings": [], "arm": None}
    return Run(content | {"text": {}, "settings": {}, "model": {"name": "m"}} | manifest, sketches)
