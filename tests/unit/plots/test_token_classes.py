"""Near-zero shares by token class: the bars against the raw values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.figure_checks import problems
from support.synthetic_comparisons import EVERY, Made, eps_of
from support.synthetic_runs import silu_run

from distviz import plots
from distviz.errors import RequestError
from distviz.plots.figures import figure_specs
from distviz.results.comparison import Comparison
from distviz.results.run import Run
from distviz.stats import Magnitudes


def _bars(axes: Any, series: str) -> list[float]:
    return [bar.get_height() for bar in axes.patches if bar.get_gid() == f"bars-{series}"]


def test_class_bars_of_a_comparison(comparison: Comparison, first: Made, second: Made) -> None:
    figure = plots.token_classes(comparison)
    assert [axes.get_title("left") for axes in figure.axes] == [
        "layer 0 (first)",
        "layer 1",
        "layer 2 (last)",
    ]
    for layer, axes in enumerate(figure.axes):
        eps = eps_of(first.raw[layer])
        for side, made in (("A", first), ("B", second)):
            x = np.abs(made.raw[layer].reshape(-1, 24))
            is_digit = np.arange(len(x)) % EVERY == 0
            expected = [(x[is_digit] < eps).mean(), (x[~is_digit] < eps).mean()]
            assert _bars(axes, side) == pytest.approx(expected)
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == ["digits\n20 / 27", "other\n40 / 53"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_class_bars_of_a_run(first: Made) -> None:
    figure = plots.token_classes(first.run)
    x = np.abs(first.raw[0].reshape(60, -1))
    is_digit = np.arange(60) % EVERY == 0
    eps = eps_of(first.raw[0])
    expected = [(x[is_digit] < eps).mean(), (x[~is_digit] < eps).mean()]
    assert _bars(figure.axes[0], "before") == pytest.approx(expected)
    with pytest.raises(RequestError, match="measure with --classes all"):
        plots.token_classes(silu_run().run)


def test_a_site_without_classes_is_refused(comparison: Comparison) -> None:
    with pytest.raises(RequestError, match="not kept apart at site 'gate'"):
        plots.token_classes(comparison, "gate")


def _grouped(run: Run, n_groups: int) -> Run:
    """Give every place of a run positions, and the same groups as roles."""
    groups, names = {}, ["0", *(f"{2**n}-{2 ** (n + 1) - 1}" for n in range(n_groups - 1))]
    for key in run.keys:
        values, counts = run.merged[key].magnitude_pairs()
        parts = [Magnitudes(values[at::n_groups], counts[at::n_groups]) for at in range(n_groups)]
        roles = Magnitudes(values[:50], counts[:50]), Magnitudes(values[50:], counts[50:])
        groups[key] = {
            "role": dict(zip(("user", "rest"), roles, strict=True)),
            "position": dict(zip(names, parts, strict=True)),
        }
    stated = {"position": dict.fromkeys(names, 1234), "role": {"user": 5, "rest": 55}}
    return replace(run, groups=groups, manifest=run.manifest | {"token_groups": stated})


@pytest.mark.parametrize("width", [None, "single", "double"])
def test_roles_are_bars_and_positions_a_line(width: str | None, first: Made) -> None:
    run = _grouped(first.run, 12)
    table = run.classes()
    here = table[(table["layer"] == 0) & (table["phase"] == "before")].set_index("token_class")
    figure = plots.token_classes(run, partition="role", width=width)
    expected = here.loc[["user", "rest"], "near_zero"].tolist()
    assert _bars(figure.axes[0], "before") == pytest.approx(expected)
    assert figure.axes[0].get_xticklabels()[0].get_text() == "user\n5"
    assert not problems(figure, 6.0)
    figure = plots.token_classes(run, partition="position", width=width)
    (line,) = [line for line in figure.axes[0].lines if line.get_gid() == "line-before"]
    own = here.loc[here["partition"] == "position", "near_zero"]
    assert line.get_ydata() == pytest.approx(own.to_numpy())
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == [name.replace("-", "–") for name in own.index]
    assert not problems(figure, 6.0)


def test_figures_by_role_and_position_where_they_are_known(first: Made) -> None:
    plain = {name for name in figure_specs(first.run) if name.startswith("token")}
    grouped = {name for name in figure_specs(_grouped(first.run, 3)) if name.startswith("token")}
    assert plain == {"token_classes"}
    assert grouped == {"token_classes", "token_roles", "token_positions"}
    with pytest.raises(RequestError, match="roles of tokens were not kept apart at site 'act'"):
        plots.token_classes(first.run, partition="role")
