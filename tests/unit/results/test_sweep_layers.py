"""Ranks and disagreements of a sweep by layer, on rows written by hand."""

from __future__ import annotations

import math

import pandas as pd

from distviz.results.sweep_layers import costs, disagreements, is_alone, rank_layers


def table() -> pd.DataFrame:
    rows = pd.DataFrame({
        "layers": ["0", "1", "2", "0-2"],
        "sqnr_db": [20.0, 30.0, 10.0, 20.0],
        "kl": [0.01, 0.2, 0.02, 0.3],
        "kl_low": [0.005, 0.1, 0.01, 0.2],
        "kl_high": [0.02, 0.3, 0.15, 0.4],
    })  # fmt: skip
    same = {"redistribution": "quantize:int8", "at": "product", "c": 0.13, "p1": 99.5}
    same |= {"fraction": math.nan, "mode": "replace", "loss_before": 2.0, "loss_after": 2.5}
    return rows.assign(**same)


def test_ranks_are_among_single_layers() -> None:
    found = rank_layers(table())
    assert found["sqnr_rank"].tolist()[:3] == [2, 1, 3]
    assert found["kl_rank"].tolist()[:3] == [1, 3, 2]
    assert found.loc[3, ["sqnr_rank", "kl_rank"]].isna().all()
    assert is_alone(found).tolist() == [True, True, True, False]


def test_a_layer_that_costs_more_at_a_higher_sqnr_is_named() -> None:
    """Of layer 2 the interval overlaps with that of layer 1, so one layer contradicts it."""
    (text,) = disagreements(table())
    assert text == (
        "quantize:int8 at product: layer 1 is number 1 of 3 by SQNR (30.0 dB) and number 3 by cost "
        "(KL 0.20): 1 layer with a lower SQNR costs less"
    )
    unsure = table().assign(kl_low=math.nan, kl_high=math.nan)
    (text,) = disagreements(unsure)  # ten and twenty times as much
    assert text.endswith("2 layers with a lower SQNR cost less")
    assert disagreements(unsure.assign(kl=[0.15, 0.2, 0.15, 0.3])) == []
    agreeing = table().assign(kl=[0.1, 0.01, 0.3, 1.0], kl_low=0.0)
    assert disagreements(agreeing) == []
    assert disagreements(table().drop(columns=["kl_low"])) == []


def test_costs_of_all_layers_and_of_the_worst() -> None:
    (text,) = costs(table())
    assert text == (
        "quantize:int8 at product in layers 0-2: KL 0.30, loss +0.5 nats; most in layer 1 alone: "
        "KL 0.20, loss +0.5 nats"
    )
    assert costs(table().assign(kl=math.nan)) == []
