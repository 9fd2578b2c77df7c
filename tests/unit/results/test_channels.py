"""What the channels of a layer are, against brute force over the raw values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.synthetic_comparisons import make, outlier_channels, with_channels

from distviz.results.channels import channel_summary


def test_a_row_for_each_layer() -> None:
    raw = outlier_channels(4)
    found = channel_summary(with_channels(raw)).set_index("layer")
    assert len(found) == 4
    for layer, x in raw.items():
        row, sizes = found.loc[layer], np.abs(x).max(axis=0)
        assert row["channels"] == x.shape[1]
        assert row["dead"] == sum(not column.any() for column in x.T) == 1
        assert row["always_on"] == sum((column > 0).all() for column in x.T) == 1
        assert row["largest"] == sizes.argmax()
        assert row["absmax"] == sizes.max()
        assert row["ratio"] == pytest.approx(sizes.max() / np.median(sizes))
        firsts = [np.abs(token).argmax() for token in x]
        most = max(range(x.shape[1]), key=firsts.count)
        assert row["persistent"] == most
        assert row["share"] == firsts.count(most) / len(firsts)
    assert (found["largest"][1:] == 7).all()


def test_what_was_not_measured_is_missing() -> None:
    run = with_channels(outlier_channels(2), top=False)
    assert channel_summary(run)["share"].isna().all()
    bare = replace(run, channels=run.channels.drop(columns=["zeros", "positive"]))
    assert channel_summary(bare)["dead"].isna().all()
    assert channel_summary(replace(run, channels=pd.DataFrame())).empty
    assert channel_summary(make(0, phase="after").run).empty


def test_channels_without_finite_values_are_not_the_largest() -> None:
    run = with_channels(outlier_channels(2))
    broken = run.channels.copy()
    broken.loc[broken["channel"] == 0, ["absmax"]] = np.nan
    broken.loc[broken["channel"] == 1, ["absmax"]] = np.inf
    broken.loc[broken["channel"] == 2, ["count", "zeros", "positive"]] = 0
    found = channel_summary(replace(run, channels=broken))
    assert not set(found["largest"]) & {0, 1}
    assert found["dead"].tolist() == found["always_on"].tolist() == [1, 1]
