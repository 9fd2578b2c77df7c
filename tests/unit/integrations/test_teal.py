"""TEAL's histograms, against histograms by torch, and the thresholds that they give."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from distviz.errors import RequestError
from distviz.integrations.teal import histogram, write_histograms
from distviz.stats.sketch import Sketch

if TYPE_CHECKING:
    from pathlib import Path

    from distviz.results import Run


def by_torch(values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return bins and counts as TEAL's calibration defines them: 1 % of the values outside."""
    ordered = values.double().flatten().sort().values
    outside = len(ordered) // 100
    inner = torch.linspace(ordered[outside], ordered[-outside], 9_999, dtype=torch.float64)
    edges = torch.cat([ordered[:1], inner, ordered[-1:]])
    counts, _ = torch.histogram(ordered, bins=edges)
    return edges.numpy(), counts.numpy()


@pytest.mark.parametrize("kind", ["normal", "skewed", "ties"])
def test_bins_and_counts_are_those_of_the_calibration(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(40_000, generator=generator)
    values = {"normal": values, "skewed": values.exp(), "ties": (values * 4).round()}[kind]
    values = values.to(torch.bfloat16)
    centers, counts = histogram(Sketch().add(values))
    edges, expected = by_torch(values)
    np.testing.assert_allclose(centers, (edges[1:] + edges[:-1]) / 2, rtol=1e-9, atol=1e-12)
    assert counts.sum() == values.numel()
    # A value on an edge may change its bin by the rounding of the edge.
    np.testing.assert_array_less(np.abs(np.cumsum(counts) - np.cumsum(expected)), 0.02 * 40_000)
    assert (counts != expected).mean() < 0.01


def threshold(content: dict[str, torch.Tensor], name: str, share: float) -> tuple[float, float]:
    """Return the magnitude below which a share of the values lies, and the width of its bin."""
    centers, counts = content[f"{name}_centers"].double(), content[name].double()
    order = centers.abs().argsort()
    running = counts[order].cumsum(0) / counts.sum()
    place = int(torch.searchsorted(running, share))
    inner = centers[2:-2]
    return float(centers.abs()[order][place]), float(inner[1] - inner[0])


def test_thresholds_lie_within_a_bin_of_the_values(
    linear_run: tuple[Run, Path], raw_inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert write_histograms(linear_run[0], tmp_path) == []
    reads = {
        ("mlp", "h1"): "mlp.gate_proj", ("mlp", "h2"): "mlp.down_proj",
        ("self_attn", "h1"): "self_attn.q_proj", ("self_attn", "h2"): "self_attn.o_proj",
    }  # fmt: skip
    folders = sorted(path.name for path in (tmp_path / "histograms").iterdir())
    assert folders == [f"layer-{layer}" for layer in range(6)]
    for layer in range(6):
        for (part, name), module in reads.items():
            path = tmp_path / "histograms" / f"layer-{layer}" / part / "histograms.pt"
            content = torch.load(path, weights_only=True)
            assert set(content) == {"h1", "h1_centers", "h2", "h2_centers"}
            assert {tuple(one.shape) for one in content.values()} == {(10_000,)}
            x = raw_inputs[f"model.layers.{layer}.{module}"].abs().double().flatten()
            assert content[name].sum() == x.numel()
            for share in (0.25, 0.5, 0.9):
                found, width = threshold(content, name, share)
                exact = float(x.quantile(share))
                assert abs(found - exact) <= width + 2**-8 * exact


def test_what_cannot_be_written_is_refused(
    linear_run: tuple[Run, Path], demo_run: Run, tmp_path: Path
) -> None:
    run, _ = linear_run
    with pytest.raises(RequestError, match="teal needs sites attn_in"):
        write_histograms(demo_run, tmp_path)
    gone = next(key for key in run.keys if (key.layer, key.site) == (3, "attention"))
    rest = {key: sketch for key, sketch in run.sketches.items() if key != gone}
    with pytest.raises(RequestError, match="site attention, which layer 3 does not have"):
        write_histograms(replace(run, sketches=rest), tmp_path)
    with pytest.raises(RequestError, match="at least 100 values"):
        histogram(Sketch().add(np.ones(99)))
