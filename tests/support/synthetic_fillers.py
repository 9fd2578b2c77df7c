"""A filler study from seeded changes: what its folder, tables and figures are tested on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from distviz.results.filler_study import QUANTITIES, FillerStudy
from distviz.stats import inference
from distviz.studies import filler_positions
from support.synthetic_runs import place, run_of

PROMPTS = 12
LAYERS = (0, 1, 2)
COUNTS = (4, 16)
SIZES = dict(zip(QUANTITIES, (-0.02, 0.5, 0.1, 0.2, -0.01), strict=True))
"""What changes in layer 1 with 16 filler tokens; nothing but noise elsewhere."""
DISTANCES = (-3, -2, -1, 1, 2, 3, 4, 5, 6)
"""Own tokens of every prompt; with 16 filler tokens, the first behind changes four times as much
and those before not at all."""


def study(*, is_causal: bool = False) -> FillerStudy:
    """Three layers, two counts, twelve prompts; layer 1 changes with 16 filler tokens alone.

    Tokens before the filler change by noise, or not at all as in a causal model.
    """
    rng = np.random.default_rng(11)
    values = {place(layer, "before"): rng.standard_normal(200, np.float32) for layer in LAYERS}
    text = {"documents": PROMPTS, "tokens": 240, "counted": 230, "sha256": "s"}
    runs = {count: run_of(values, text=text) for count in (0, *COUNTS)}
    kept = [
        {"filler_count": count, "layer": layer, "attention_kept": 1 / (1 + count * layer)}
        | {"prompts": PROMPTS, "module": f"model.layers.{layer}.self_attn"}
        for count in (0, *COUNTS)
        for layer in LAYERS
    ]
    manifest = {
        "schema_version": 3, "kind": "filler", "filler": "/", "filler_kind": "repeat",
        "filler_position": "between", "counts": [0, *COUNTS], "warnings": [],
        "model": runs[0].manifest["model"], "text": text,
    }  # fmt: skip
    tokens = _tokens(rng)
    if is_causal:
        tokens.loc[tokens["distance"] < 0, list(SIZES)] = 0.0
    return FillerStudy(
        manifest,
        runs,
        _table(rng),
        pd.DataFrame(kept),
        filler_positions.by_distance(tokens),
        tokens,
    )


def _table(rng: np.random.Generator) -> pd.DataFrame:
    frames = []
    for count in COUNTS:
        for quantity, size in SIZES.items():
            changes = rng.standard_normal((len(LAYERS), PROMPTS)) * abs(size) / 20
            changes[1] += size * (count == 16)
            frame = inference.infer_means(
                np.zeros_like(changes), changes, quantity, paired=True, seed=0
            )
            where = {"filler_count": count, "layer": LAYERS, "site": "act", "phase": "before"}
            names = pd.DataFrame(where | {"quantity": quantity})
            paths = pd.DataFrame({"module": [place(layer, "").module for layer in LAYERS]})
            frames.append(pd.concat([names, frame, paths.assign(stack="decoder")], axis=1))
    return pd.concat(frames, ignore_index=True)


def _tokens(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for count in COUNTS:
        for layer in LAYERS:
            for document in range(PROMPTS):
                for position, distance in enumerate(DISTANCES):
                    is_changed = count == 16 and layer == 1 and distance > 0
                    factor = (4 if distance == 1 else 1) if is_changed else 0
                    changes = {
                        name: size * factor + rng.standard_normal() * abs(size) / 50
                        for name, size in SIZES.items()
                    }
                    rows.append(
                        {"filler_count": count, "layer": layer, "site": "act"}
                        | {"document": document, "position": position, "distance": distance}
                        | {"part": "question", "token": "x"}
                        | changes
                        | {"module": place(layer, "").module, "stack": "decoder"}
                    )
    return pd.DataFrame(rows)
