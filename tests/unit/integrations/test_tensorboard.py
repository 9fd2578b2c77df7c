"""TensorBoard events, read with TensorBoard's own accumulator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.packages import need

from distviz.integrations.tensorboard import write_events

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from distviz.results import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def accumulated(folder: Path) -> Any:
    reader = need("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), {reader.HISTOGRAMS: 0, reader.SCALARS: 0})
    return found.Reload()


def test_a_step_is_a_layer_and_a_run_is_a_phase(demo_run: Run, tmp_path: Path) -> None:
    assert write_events(demo_run, tmp_path) == []
    stats, bins = demo_run.stats(), demo_run.histograms()
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == set(stats["phase"])
    for phase, rows in stats.groupby("phase"):
        found = accumulated(tmp_path / "tensorboard" / str(phase))
        for name in ("near_zero", "std", "kurtosis", "count", "p99_9"):
            events = found.Scalars(f"act/{name}")
            drawn = {event.step: event.value for event in events}
            expected = dict(zip(rows["layer"], rows[name], strict=True))
            expected = {layer: value for layer, value in expected.items() if math.isfinite(value)}
            assert drawn == pytest.approx(expected, rel=1e-6)
        for event in found.Histograms("act"):
            row = rows[rows["layer"] == event.step].iloc[0]
            own = bins[(bins["layer"] == event.step) & (bins["phase"] == phase)]
            counted = event.histogram_value
            assert counted.num == row["count"] == sum(counted.bucket)
            assert (counted.min, counted.max) == (row["min"], row["max"])
            assert counted.sum == pytest.approx(row["mean"] * row["count"])
            assert counted.sum_squares == pytest.approx(row["l2"] ** 2)
            np.testing.assert_array_equal(counted.bucket, own["count"])
            np.testing.assert_array_equal(counted.bucket_limit, own["bin_right"])


def test_several_sites_have_their_own_tags_and_bytes_repeat(
    linear_run: tuple[Run, Path], tmp_path: Path
) -> None:
    files = []
    for name in "ab":
        (tmp_path / name).mkdir()
        write_events(linear_run[0], tmp_path / name)
        files += [*(tmp_path / name).rglob("events*")]
    assert files[0].read_bytes() == files[1].read_bytes()
    tags = accumulated(files[0].parent).Tags()["histograms"]
    assert sorted(tags) == ["attention", "attn_in", "mlp_in", "product"]
