"""Results in notebooks: their HTML, and figures such as ``run.plot.paired()``."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distviz import plots
from distviz.errors import RequestError
from distviz.reports.cells import data_table
from distviz.reports.rendering import render_display
from distviz.reports.summary import architecture_line, run_verdict
from distviz.results import (
    NAMED,
    Allocation,
    Comparison,
    FillerStudy,
    Run,
    Sweep,
    Training,
    WhatIf,
    alignment,
    comparison_verdict,
    filler_name,
    model_name,
    side_names,
    whatif_verdict,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distviz.reports.page import DataTable
    from distviz.results import Result

_RUN_COLUMNS = ["layer", "site", "phase", "near_zero", "std", "gini", "min", "max", "module"]
_PAIR_COLUMNS = [
    *("layer_a", "layer_b", "site", "near_zero_a", "near_zero_b", "std_ratio", "ks"),
    *("wasserstein_normalized", "js_divergence"),
]
_SWEEP_COLUMNS = [*NAMED, "near_zero_removed", "kl", "loss_before", "loss_after", "top1_agreement"]
_WHATIF_COLUMNS = [
    *("layer", "site", "phase", "question", "format", "range", "level", "threshold"),
    *("sqnr_db", "sqnr_rest_db", "clipped", "zeroed", "zeros", "l1_kept", "l2_kept"),
    *("l2_kept_rest", "top_energy", "module"),
]
_DOTS_PER_INCH = 110


class _Plots:
    """The figures of a result; each method returns a `matplotlib.figure.Figure`.

    All take ``width="single"`` or ``"double"``, the columns of a paper.
    """

    def __init__(self, result: Any) -> None:
        self._result = result

    def token_classes(self, site: str = "act", **options: Any) -> Figure:
        """Draw the near-zero share by token class; ``partition="role"`` or ``"position"``."""
        return plots.token_classes(self._result, site, **options)


class RunPlots(_Plots):
    """The figures of a run."""

    def paired(self, layer: int = 0, site: str = "act", **options: Any) -> Figure:
        """Draw one layer before and after ARM; options as of `distviz.plots.paired`."""
        return plots.paired(self._result, layer, site, **options)

    def overview(self, site: str = "act", **options: Any) -> Figure:
        """Draw the main statistics of every layer, before and after."""
        return plots.overview(self._result, site, **options)


class ComparisonPlots(_Plots):
    """The figures of a comparison."""

    def compared(self, layer: int = 0, site: str = "act", **options: Any) -> Figure:
        """Draw a layer of A against the paired layer of B; `RequestError` if there is none."""
        pairs = {(pair.a.layer, pair.a.site): pair for pair in reversed(self._result.pairs)}
        if (layer, site) not in pairs:
            known = ", ".join(f"{layer} ({site})" for layer, site in reversed(pairs))
            raise RequestError(
                f"layer {layer}, site {site} was not compared", f"compared layers: {known}"
            )
        return plots.compared(self._result, pairs[layer, site], **options)

    def overview(self, site: str = "act", **options: Any) -> Figure:
        """Draw the distances of the sides by depth, with the significant ones marked."""
        return plots.comparison_overview(self._result, site, **options)

    def elementwise(self, **options: Any) -> Figure:
        """Draw the error of each layer, of models that were compared value by value."""
        return plots.elementwise(self._result, **options)


def result_html(result: Result) -> str:
    """Return a result as a notebook shows it: its verdict, a figure and the main numbers.

    A run shows its first changed layer; the others show the first figure of their folder.
    """
    for kind, display in _DISPLAYS.items():
        if isinstance(result, kind):
            return display(result)
    raise TypeError(f"{type(result).__name__} has no display")


def _run(run: Run) -> str:
    key = next((key for key in run.keys if key.phase == "moved_after"), None)
    key = key or next(iter(run.keys), None)
    figure = key and plots.paired(run, key.layer, key.site, module=key.module)
    stats = run.stats()
    shown = stats[stats["phase"].isin(["before", "after"])] if len(stats) else stats
    name, line = model_name(run), architecture_line(run)
    return _html(name, line, run_verdict(run), figure, data_table("stats", shown, _RUN_COLUMNS))


def _comparison(comparison: Comparison) -> str:
    return _html(
        " against ".join(side_names(comparison)),
        alignment(comparison),
        comparison_verdict(comparison),
        _overview(comparison) if comparison.pairs else _first(comparison),
        data_table("compare", comparison.table, _PAIR_COLUMNS),
    )


def _filler(study: FillerStudy) -> str:
    title, line = f"{model_name(study)}: {filler_name(study)}", architecture_line(study)
    return _html(title, line, study.verdict, _first(study), data_table("filler", study.table))


def _sweep(sweep: Sweep) -> str:
    found = sweep.recommendation
    verdict = "\n".join(filter(None, (f"{found.reason}.", found.command)))
    title, line = f"{model_name(sweep)}: sweep", architecture_line(sweep)
    table = data_table("sweep", sweep.table, _SWEEP_COLUMNS)
    return _html(title, line, verdict, _first(sweep), table)


def _allocation(found: Allocation) -> str:
    verdict, title = f"{found.verdict}.\n{found.command}", f"{model_name(found)}: allocation"
    table = data_table("allocation", found.table)
    return _html(title, architecture_line(found), verdict, _first(found), table)


def _training(found: Training) -> str:
    title, line = f"{model_name(found)}: training", found.sample
    return _html(title, line, found.verdict, _first(found), data_table("drift", found.drift))


def _whatif(results: WhatIf) -> str:
    """Show the worst layer of every answer."""
    rows = results.worst()
    title, line = f"{model_name(results)}: what if", architecture_line(results)
    table = data_table("whatif", rows, _WHATIF_COLUMNS)
    return _html(title, line, whatif_verdict(results), _first(results), table)


_DISPLAYS: dict[type[Result], Callable[[Any], str]] = {
    Run: _run,
    Comparison: _comparison,
    FillerStudy: _filler,
    Sweep: _sweep,
    Allocation: _allocation,
    Training: _training,
    WhatIf: _whatif,
}


def _overview(comparison: Comparison) -> Figure:
    return plots.comparison_overview(comparison, comparison.pairs[0].a.site)


def _first(result: Result) -> Figure | None:
    return next((draw() for draw in plots.figure_specs(result).values()), None)


def _html(title: str, subtitle: str, verdict: str, figure: Figure | None, table: DataTable) -> str:
    picture = None if figure is None else _png(figure)
    return render_display(title, subtitle, verdict, picture, table)


def _png(figure: Figure) -> str:
    """Return a figure as base64."""
    buffer = io.BytesIO()
    with plots.styled():
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()
