"""The verdict on layers, in sentences: which layers, how much, and on what it rests."""

from __future__ import annotations

import math

import pandas as pd
from support.document_values import LOG, NEAR, two_sides

from distviz.stats.inference import (
    infer,
)
from distviz.stats.verdict import verdict

# --- the verdict ---


def _frame(rows, documents=36, paired=True, approximate=False):
    """Rows of (layer, quantity, estimate, ci_low, ci_high, p_adjusted)."""
    names = ["layer_a", "quantity", "estimate", "ci_low", "ci_high", "p_adjusted"]
    frame = pd.DataFrame(rows, columns=names)
    fixed = {"documents": documents, "documents_a": documents, "documents_b": documents}
    fixed |= {"paired": paired, "approximate": approximate, "zero_variance": 0, "effect_size": 1.0}
    return frame.assign(p_value=frame["p_adjusted"], **fixed)


def _ratio_row(layer, low, middle, high, p):
    return (layer, LOG, *(math.log1p(x / 100) for x in (middle, low, high)), p)


def test_verdict_names_layers_amounts_and_unit():
    rows = []
    for layer in range(8):
        p = 0.001 if layer < 4 else 0.4
        rows.append(_ratio_row(layer, 6 - layer, 8 - layer, 11 - layer, p))
        rows.append((layer, NEAR, -0.021, -0.024, -0.018, 0.001 if layer == 0 else 0.6))
    assert verdict(_frame(rows)) == (
        "layers 0–3 differ; the largest: variance +8 % [6, 11] at layer 0, near-zero −2.1 points "
        "[−2.4, −1.8] at layer 0 only; no layer after layer 3 is shown to differ\n"
        "The unit is the document (36 pairs of documents); Benjamini-Hochberg at 5 %; "
        "95 % intervals."
    )


def test_verdict_of_one_layer_gaps_and_all():
    one = verdict(_frame([_ratio_row(2, 50, 90, 140, 0.01), _ratio_row(3, -1, 0, 1, 0.9)]))
    assert one.startswith("layer 2 differs: variance +90 % [50, 140]; no layer after layer 2 is")
    gaps = [_ratio_row(k, 250, 300, 350, 0.01 if k in {0, 1, 5} else 0.2) for k in range(6)]
    assert verdict(_frame(gaps)).startswith(
        "layers 0–1, 5 differ; the largest: variance ×4.0 [3.5, 4.5] at layer 0; "
        "the other layers are not shown to differ\n"
    )
    every = verdict(_frame([_ratio_row(0, -4, -3, -2, 0.01)]))
    assert every.startswith("layer 0 differs: variance −3 % [−4, −2]\n")


def test_verdict_when_nothing_differs():
    rows = [_ratio_row(k, -3, 1, 4, 0.3 + k / 10) for k in range(30)]
    assert verdict(_frame(rows)).startswith(
        "no layer is shown to differ (smallest adjusted p 0.3)\n"
    )
    few = "so few documents allow no p below 0.0078, so that no single layer of 30 can"
    assert few in verdict(_frame(rows, 8))
    assert (
        verdict(_frame(rows, 8))
        .splitlines()[0]
        .endswith("can be significant; the largest differences: variance +1 % [−3, 4] at layer 0")
    )
    assert "as in A" not in verdict(_frame(rows).assign(layer_b=range(30)))
    assert "layers are named as in A" in verdict(_frame(rows).assign(layer_b=range(0, 60, 2)))
    a, _ = two_sides()
    text = verdict(infer(a, a, paired=True))
    assert text.startswith("no layer differs: both sides are equal in every document\n")
    assert verdict(_frame([])) == "nothing to compare"


def test_verdict_tells_what_it_rests_on():
    rows = [_ratio_row(0, math.nan, 8, math.nan, 0.01)]
    few = verdict(_frame(rows, documents=6))
    assert few.startswith("layer 0 differs: variance +8")
    assert "[" not in few
    assert "(6 pairs of documents)" in few
    assert "intervals are withheld (they need 8 documents)" in few
    assert "nothing can be said" in verdict(_frame([_ratio_row(0, 1, 2, 3, math.nan)], 1))
    rough = verdict(_frame([_ratio_row(0, 6, 8, 11, 0.01)], paired=False, approximate=True))
    assert "36 documents on the smaller side" in rough
    assert "the 95 % intervals are approximate" in rough


def test_verdict_keeps_sites_apart():
    frame = _frame([_ratio_row(0, 6, 8, 11, 0.01), _ratio_row(0, -1, 0, 1, 0.9)])
    lines = verdict(frame.assign(site=["act", "down"])).splitlines()
    assert lines[0].startswith("act: layer 0 differs")
    assert lines[1].startswith("down: no layer is shown to differ")
    assert len(lines) == 3
