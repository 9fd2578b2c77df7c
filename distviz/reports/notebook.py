"""Runs and comparisons in notebooks: their HTML, and figures such as ``run.plot.paired()``."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distviz import plots
from distviz.errors import RequestError
from distviz.reports.cells import data_table
from distviz.reports.rendering import render_display
from distviz.reports.summary import architecture_line, run_verdict
from distviz.results import alignment, model_name, side_names

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from distviz.results import Comparison, Run

_RUN_COLUMNS = ["layer", "site", "phase", "near_zero", "std", "gini", "min", "max", "module"]
_PAIR_COLUMNS = [
    *("layer_a", "layer_b", "site", "near_zero_a", "near_zero_b", "std_ratio", "ks"),
    *("wasserstein_normalized", "js_divergence"),
]
_DOTS_PER_INCH = 110


class _Plots:
    """The figures of a result; each method returns a `matplotlib.figure.Figure`.

    All take ``width="single"`` or ``"double"``, the columns of a paper.
    """

    def __init__(self, result: Any) -> None:
        self._result = result

    def token_classes(self, site: str = "act", **options: Any) -> Figure:
        """Draw the near-zero share of digits, operators, conjunctions and other tokens."""
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


def run_html(run: Run) -> str:
    """Return the verdict, the figure of the first changed layer and the main statistics."""
    key = next((key for key in run.keys if key.phase == "moved_after"), None)
    key = key or next(iter(run.keys), None)
    figure = key and plots.paired(run, key.layer, key.site, module=key.module)
    stats = run.stats()
    shown = stats[stats["phase"].isin(["before", "after"])] if len(stats) else stats
    return _html(
        model_name(run),
        architecture_line(run),
        run_verdict(run),
        figure,
        "stats",
        shown,
        _RUN_COLUMNS,
    )


def comparison_html(comparison: Comparison) -> str:
    """Return the verdict, the overview by depth and the distances."""
    return _html(
        " against ".join(side_names(comparison)),
        alignment(comparison),
        str(comparison.manifest.get("verdict") or ""),
        plots.comparison_overview(comparison, comparison.pairs[0].a.site),
        "compare",
        comparison.table,
        _PAIR_COLUMNS,
    )


def _html(
    title: str,
    subtitle: str,
    verdict: str,
    figure: Figure | None,
    name: str,
    table: pd.DataFrame,
    columns: Sequence[str],
) -> str:
    picture = None if figure is None else _png(figure)
    return render_display(title, subtitle, verdict, picture, data_table(name, table, columns))


def _png(figure: Figure) -> str:
    """Return a figure as base64."""
    buffer = io.BytesIO()
    with plots.styled():
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()
