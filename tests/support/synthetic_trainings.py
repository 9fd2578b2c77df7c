"""Trainings from seeded values: what snapshots, curves and drift are tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from distviz.results.training import Training
from distviz.stats import statistics
from distviz.stats.sketch import Sketch
from support.synthetic_runs import place, run_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from distviz.results.run import Run
    from distviz.sites import SiteKey

STEPS = (0, 10, 20, 30)
LAYERS = 4
DOCUMENTS, TOKENS, CHANNELS = 10, 24, 16


@dataclass(frozen=True)
class TrainedValues:
    """A training in memory, and its values, (documents, tokens, channels) by step and layer."""

    training: Training
    raw: dict[int, dict[int, NDArray[np.float32]]]


def activations(
    step: int, layer: int, activation: str = "relu", n_documents: int = DOCUMENTS
) -> NDArray[np.float32]:
    """Return values of a layer whose spread grows by step in layer 1, and that dies in layer 2."""
    rng = np.random.default_rng([step, layer])
    gate = rng.normal(0, 1 + 0.05 * step * (layer == 1), (n_documents, TOKENS, CHANNELS))
    gate *= rng.uniform(0.7, 1.3, (n_documents, 1, 1))
    if layer == 2:
        gate[..., : step // 5] = -1.0
    if layer == 3:
        gate[:, 0, 3] += step
    if activation == "relu":
        return np.maximum(gate, 0).astype(np.float32)
    slope = 1.702 if activation == "gelu" else 1.0
    return (gate / (1 + np.exp(-slope * gate))).astype(np.float32)


def snapshot(values: dict[int, NDArray[np.float32]], site: str = "act") -> Run:
    """Return a run of the values of each layer, with its documents and channels."""
    keys = {layer: place(layer, "before", site) for layer in values}
    run = run_of({keys[layer]: array for layer, array in values.items()}, dtype="float32")
    documents = [
        _key(keys[layer]) | {"document": number} | _described(array[number])
        for layer, array in values.items()
        for number in range(len(array))
    ]
    channels = [
        _key(keys[layer]) | {"channel": number} | _channel(array[..., number])
        for layer, array in values.items()
        for number in range(array.shape[-1])
    ]
    run.manifest["model"] |= {"layers": len(values)}
    n_documents = len(next(iter(values.values())))
    run.manifest["text"] |= {"documents": n_documents, "tokens": n_documents * TOKENS}
    return type(run)(run.manifest, run.sketches, pd.DataFrame(documents), pd.DataFrame(channels))


def training(
    steps: Sequence[int] = STEPS,
    activation: str = "relu",
    layers: int = LAYERS,
    n_documents: int = DOCUMENTS,
) -> TrainedValues:
    """Return the snapshots of some layers, see `activations`."""
    raw = {
        step: {layer: activations(step, layer, activation, n_documents) for layer in range(layers)}
        for step in steps
    }
    found = Training.of({step: snapshot(values) for step, values in raw.items()}, every=10)
    return TrainedValues(found, raw)


def _key(key: SiteKey) -> dict[str, Any]:
    return key._asdict()


def _described(values: NDArray[np.float32]) -> dict[str, Any]:
    sketch = Sketch().add(values)
    own = statistics.describe(sketch, statistics.near_zero_eps(sketch, 0.13))
    names = ("count", "mean", "std", "eps", "near_zero", "l1", "l2", "gini")
    absmax = float(np.abs(values[np.isfinite(values)]).max())
    return {name: own[name] for name in names} | {"absmax": absmax}


def _channel(values: NDArray[np.float32]) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    return {
        "count": values.size,
        "mean": float(values.mean(dtype=np.float64)),
        "std": float(values.std(dtype=np.float64)),
        "min": low,
        "max": high,
        "absmax": max(abs(low), abs(high)),
        "zeros": int((values == 0).sum()),
        "positive": int((values > 0).sum()),
    }
