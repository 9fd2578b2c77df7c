"""One choice of axes for all layers of a site."""

from __future__ import annotations

import numpy as np
import pytest
from support.synthetic_runs import place, run_of, silu_run

from distviz.plots.site_axes import AxisChoice, axes_of
from distviz.results.run import Run

GENERATOR = np.random.default_rng(11)
NORMAL = GENERATOR.normal(size=20_000).astype(np.float32)


def _run(*layers: np.ndarray) -> Run:
    return run_of({place(index, "before"): values for index, values in enumerate(layers)})


def test_all_layers_of_a_site_have_one_axis() -> None:
    run = _run(NORMAL, 3 * NORMAL, 2 * NORMAL)
    shared = {axes_of(run, key) for key in run.places()}
    assert len(shared) == 1
    (axes,) = shared
    assert axes.scale.constant is None
    widest = np.quantile(3 * NORMAL, [0.0025, 0.9975])
    assert axes.left < widest[0]
    assert widest[1] < axes.right < 1.15 * np.abs(widest).max()
    own = axes_of(run, place(0, "before"), own=True)
    assert own.right < 0.5 * axes.right


def test_one_sided_values_have_no_empty_half_and_zero_is_inside() -> None:
    run = silu_run().run
    axes = axes_of(run, place(2, "before"))
    assert axes.left < -0.27
    assert -axes.left < 0.25 * axes.right
    centred = axes_of(run, place(2, "before"), AxisChoice(centred=True))
    assert centred.left == -centred.right
    assert centred.right >= axes.right


def test_where_both_sides_hold_mass_the_axis_is_symmetric() -> None:
    shifted = np.where(NORMAL < 0, 0.6 * NORMAL, NORMAL)
    axes = axes_of(_run(shifted), place(0, "before"))
    assert axes.left == -axes.right


def test_the_band_is_inside_where_all_values_are_positive() -> None:
    run = _run(np.abs(NORMAL) + 1)
    axes = axes_of(run, place(0, "before"))
    eps = run.bands[place(0, "before")]
    assert axes.left <= -1.5 * eps < 0


def test_one_value_with_a_tenth_of_the_energy_makes_every_layer_symlog() -> None:
    outlier = NORMAL.copy()
    outlier[7] = 400.0
    assert outlier[7] ** 2 > 0.1 * (outlier.astype(np.float64) ** 2).sum()
    run = _run(NORMAL, outlier)
    axes = axes_of(run, place(0, "before"))
    assert axes.scale.constant is not None
    assert axes.right > 400
    assert axes.log
    assert axes_of(run, place(0, "before"), AxisChoice("linear")).scale.constant is None
    assert axes_of(run, place(0, "before"), own=True).scale.constant is None


def test_layers_that_are_too_unlike_are_symlog() -> None:
    assert axes_of(_run(NORMAL, 9 * NORMAL), place(0, "before")).scale.constant is None
    assert axes_of(_run(NORMAL, 11 * NORMAL), place(0, "before")).scale.constant is not None


@pytest.mark.parametrize("x_axis", ["auto", "linear", "symlog"])
@pytest.mark.parametrize("log", [None, False, True])
def test_runs_without_spread(x_axis: str, log: bool | None) -> None:
    for values in ([np.nan], [0.0, 0.0], [3.7], [1e-38, -1e-38], [3e38, -3e38]):
        run = _run(np.array(values, np.float32))
        axes = axes_of(run, place(0, "before"), AxisChoice(x_axis, log=log))
        assert axes.left < 0 < axes.right
        assert np.isfinite(axes.window).all()


def test_a_choice_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(NORMAL, NORMAL)
    first = axes_of(run, place(0, "before"))
    monkeypatch.setattr("distviz.plots.site_axes._decide", None)
    assert axes_of(run, place(1, "before")) is first
