"""Figures: functions take a `Run` or a `Comparison`, return a `matplotlib.figure.Figure`.

They never save, show or change what they are given, and keep no global state of pyplot, so they
are safe in threads and notebooks. What is drawn is computed apart, as plain data (``bins``).
"""

from distviz.plots.before_after import draw_paired, paired
from distviz.plots.before_after_data import PairedBins, Panel, paired_bins
from distviz.plots.compared import compared
from distviz.plots.compared_data import ComparedBins, compared_bins
from distviz.plots.comparison_overview import comparison_overview
from distviz.plots.filler import filler_by_count, filler_by_layer
from distviz.plots.filler_positions import filler_positions
from distviz.plots.overview import overview
from distviz.plots.sweep import sweep_overview
from distviz.plots.sweep_by_layer import sweep_by_layer
from distviz.plots.token_classes import token_classes
from distviz.plots.whatif_formats import format_losses
from distviz.plots.whatif_zeros import zeros_kept

__all__ = [
    "ComparedBins",
    "PairedBins",
    "Panel",
    "compared",
    "compared_bins",
    "comparison_overview",
    "draw_paired",
    "filler_by_count",
    "filler_by_layer",
    "filler_positions",
    "format_losses",
    "overview",
    "paired",
    "paired_bins",
    "sweep_by_layer",
    "sweep_overview",
    "token_classes",
    "zeros_kept",
]
