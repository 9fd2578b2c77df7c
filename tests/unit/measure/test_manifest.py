"""What a measurement records of its conditions, and its warnings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from distviz.measure import manifest
from distviz.results import Run
from distviz.sites import SiteKey
from distviz.stats import Sketch


def test_versions_name_what_a_result_depends_on() -> None:
    found = manifest.versions()
    assert {"python", "distviz", "torch", "transformers", "numpy"} <= found.keys()
    assert all(found.values())


def test_experts_without_tokens_are_named() -> None:
    rows = [
        {"stack": "", "layer": 1, "module": "experts", "site": site, "phase": phase}
        | {"expert": expert, "tokens": tokens}
        for phase, counts in (("before", [5, 0, 3, 0]), ("after", [8, 0, 0, 0]))
        for site in ("act", "down")
        for expert, tokens in enumerate(counts)
    ]
    assert manifest._unvisited(pd.DataFrame(rows)) == [
        "2 of 4 experts received no token (layer 1: 1, 3)"
    ]
    assert manifest._unvisited(pd.DataFrame()) == []


def test_distributions_of_one_value_are_named(demo_run: Run) -> None:
    key = demo_run.find(0)
    flat = replace(
        demo_run, sketches=demo_run.sketches | {key: {"all": Sketch().add(np.full((1, 9), 0.5))}}
    )
    (warning,) = manifest._constant(flat)
    assert warning.startswith(f"all values are equal in 1 of {len(flat.keys)} distributions, first")
    assert warning.endswith("0.5 in layer 0, act, before")
    assert manifest._constant(demo_run) == []


def test_places_without_mean_movement_are_named_once_for_each_reason() -> None:
    place = SiteKey(3, "decoder", "act", "after", "m")
    reasons = {3: "memory", 2: "tokens", 5: "memory"}
    missing = {place._replace(layer=layer): why for layer, why in reasons.items()}
    memory, tokens = manifest._unpaired(missing)
    assert memory.startswith("mean_abs_change is not measured in layer 3, act and 1 more place: ")
    assert "exceed 512 MiB" in memory
    assert tokens.startswith("mean_abs_change is not measured in layer 2, act: the passes")
    assert not list(manifest._unpaired({}))
