"""The largest channels of each layer, against brute force over the raw values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from support.synthetic_comparisons import make, outlier_channels, with_channels

from distviz.reports.channels import channel_section, largest_channels
from distviz.reports.page import DataTable
from distviz.results import number, percent


def test_the_largest_channels_of_each_layer() -> None:
    made = make(3, channels=24)
    found = largest_channels(made.run)
    assert len(found) == len(made.raw) == 3
    largest = {}
    for layer, values in made.raw.items():
        flat = np.asarray(values, dtype=np.float64).reshape(-1, values.shape[-1])
        largest[layer] = sorted(range(24), key=lambda c: -max(abs(v) for v in flat[:, c]))[:5]
    for (_, site, layer, _), (heads, *rows) in found.items():
        assert site == "act"
        assert heads == ["channel", "largest |x|", "share of Σx²", "also largest in"]
        flat = made.raw[layer].reshape(-1, 24).astype(np.float64)
        energies = [sum(v * v for v in flat[:, c]) for c in range(24)]
        for row, channel in zip(rows, largest[layer], strict=True):
            assert row[0] == str(channel)
            assert row[1] == number(max(abs(v) for v in flat[:, channel]), 4)
            assert row[2] == percent(energies[channel] / sum(energies))
            others = [n for n in largest if n != layer and channel in largest[n]]
            assert all(str(n) in row[3] for n in others)
            assert (row[3] == "–") == (not others)


def test_a_run_without_channels_has_none() -> None:
    run = replace(make(3).run, channels=pd.DataFrame())
    assert largest_channels(run) == {}
    assert channel_section(run) is None


def test_channels_that_are_not_finite_are_left_out() -> None:
    run = make(3).run
    broken = run.channels.copy()
    broken.loc[broken["channel"] == 2, "absmax"] = np.inf
    for rows in largest_channels(replace(run, channels=broken)).values():
        assert "2" not in {row[0] for row in rows}


def test_what_the_channels_of_each_layer_are() -> None:
    section = channel_section(with_channels(outlier_channels(4)))
    assert section is not None
    (table,) = [b for b in section.blocks if isinstance(b, DataTable) and "each layer" in b.title]
    heads = [name for name, _ in table.columns]
    assert heads[4:] == [
        "channels", "dead", "always on", "largest channel", "largest |x|", "times the median",
        "largest in most tokens", "share of tokens",
    ]  # fmt: skip
    assert [row[heads.index("largest channel")].text for row in table.rows[1:]] == ["7"] * 3
    assert [row[heads.index("dead")].text for row in table.rows] == ["1"] * 4
