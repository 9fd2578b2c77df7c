"""Results of every kind whose figures are checked: shallow and deep, with and without ARM."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from distviz.studies import comparison as comparing
from distviz.studies import whatif as questions
from support import synthetic_fillers
from support.synthetic_allocations import allocation_of
from support.synthetic_comparisons import make, outlier_channels, with_channels
from support.synthetic_elementwise import comparison_of, values_of
from support.synthetic_runs import place, run_of, silu_run
from support.synthetic_sweeps import sweep_of
from support.synthetic_trainings import training

if TYPE_CHECKING:
    from collections.abc import Callable

    from distviz.results.result import Result
    from distviz.results.run import Run

_MANY = ("gate", "up", "act", "product", "down", "q", "k", "v", "module:model.layers.*.mlp")
LONG = "organisation/a-model-with-quite-a-long-name-70B-Instruct-v0.2"
DEEP = 48


def layers_of(
    n_layers: int, arm: tuple[int, ...] = (0,), *, tail: float = 0.0, name: str = "synthetic"
) -> Run:
    """Return a run of layers that widen with depth; ARM moves what is near zero."""
    rng = np.random.default_rng(n_layers)
    values: dict[Any, Any] = {}
    for layer in range(n_layers):
        before = rng.standard_normal(2_000).astype(np.float32) * np.float32(1 + layer / 4)
        before[:2] *= np.float32(1 + tail)
        values[place(layer, "before")] = before
        if not arm:
            continue
        near = np.abs(before) < 0.1
        is_arm = layer in arm
        values[place(layer, "after")] = np.where(near, before + 2, before) if is_arm else before
        if is_arm:
            values[place(layer, "moved_before")] = before[near]
            values[place(layer, "moved_after")] = before[near] + np.float32(2)
            if layer > min(arm):
                values[place(layer, "arm_input")] = before
    settings = {"c": 0.13, "p1": 99.5, "fraction": None, "percentile_of": "magnitude"}
    return run_of(
        values,
        model={"name": name, "activation": "silu", "layers": n_layers},
        arm=settings | {"layers": list(arm)} if arm else None,
    )


def with_gaps() -> Run:
    """Return a run with layers of zeros, of NaN, and of one value."""
    normal = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    layers = (
        normal,
        np.zeros(500, np.float32),
        np.full(500, np.nan, np.float32),
        normal * 0 + 2,
        normal,
    )
    return run_of({place(layer, "before"): values for layer, values in enumerate(layers)})


def _whatif(run: Run) -> Result:
    return questions.evaluate_whatif(run, questions.parse_whatif(), "run")


def _comparison(**different: Any) -> Result:
    other = make(2, **{"scale": 1.3, "tokens": 8, "layers": 3} | different)
    return comparing.compare_runs(make(1).run, other.run)


def _by_value(*values: Any, **more: Any) -> Result:
    """Return a comparison value by value, without its distributions."""
    return replace(comparison_of(*values, **more), pairs=[])


RESULTS: dict[str, Callable[[], Result]] = {
    "run": lambda: silu_run().run,
    "several": lambda: layers_of(30, (1, 4, 9), tail=300.0, name=LONG),
    "deep": lambda: layers_of(DEEP),
    "one layer": lambda: layers_of(1),
    "no ARM": lambda: layers_of(6, ()),
    "gaps": with_gaps,
    "classes": lambda: make(1).run,
    "channels": lambda: with_channels(outlier_channels(30), model={"name": LONG, "layers": 30}),
    "few channels": lambda: with_channels(outlier_channels(1, 9)),
    "comparison": lambda: _comparison(model={"name": LONG, "layers": 3}),
    "depths": lambda: _comparison(layers=5),
    "equal": lambda: comparing.compare_runs(make(1).run, make(1).run),
    "elementwise": lambda: _by_value(values_of(6, first=2), own=0.3),
    "elementwise deep": lambda: _by_value(values_of(DEEP, channels=99), documents=4),
    "elementwise many": lambda: _by_value(values_of(12, _MANY, first=4), own=0.3),
    "elementwise equal": lambda: _by_value(values_of(3, first=9)),
    "elementwise one layer": lambda: _by_value(values_of(1, ("act",), noise=1e-9)),
    "filler": synthetic_fillers.study,
    "causal filler": lambda: synthetic_fillers.study(is_causal=True),
    "sweep": sweep_of,
    "by layer": lambda: sweep_of(by_layer=True),
    "allocation": allocation_of,
    "formats by layer": lambda: allocation_of(formats=True),
    "training": lambda: training().training,
    "training gelu": lambda: training((0, 5), "gelu", layers=12).training,
    "training deep": lambda: training((0, 500, 20_000), layers=DEEP, n_documents=2).training,
    "training long": lambda: training(range(0, 90, 2), layers=2, n_documents=2).training,
    "training one step": lambda: training((7,)).training,
    "whatif": lambda: _whatif(silu_run().run),
    "whatif several": lambda: _whatif(layers_of(30, (1, 4, 9), name=LONG)),
    "whatif deep": lambda: _whatif(layers_of(DEEP)),
    "whatif one layer": lambda: _whatif(layers_of(1, ())),
    "whatif gaps": lambda: _whatif(with_gaps()),
}
"""By name; each is made when called."""

result_of = cache(lambda name: RESULTS[name]())
"""Return a result, made once."""
