"""What a measurement records of its conditions, and its warnings."""

from __future__ import annotations

import pandas as pd

from distviz.measure import manifest


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
