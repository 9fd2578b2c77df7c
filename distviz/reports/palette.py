"""The colours of the page: those of the figures on light ground, the same hues on dark ground."""

from __future__ import annotations

from distviz.plots import BAND, DARK, GRID, INK, LIGHT, LINE

__all__ = ["DISTANCES", "PALETTES"]

DISTANCES = {
    "ks": ("KS", "$ks"),
    "wasserstein_normalized": ("W1 / std A", "$w1"),
    "js_divergence": ("JS (bits)", "$js"),
}
"""Columns of compare.csv, with a name and a colour, as in the figures."""

_LIGHT = {
    "ground": "#ffffff",
    "ink": INK,
    "muted": "#5c646b",
    "grid": GRID,
    "band": BAND,
    "before": LINE["before"],
    "before-light": LIGHT["before"],
    "before-dark": DARK["before"],
    "after": LINE["after"],
    "after-light": LIGHT["after"],
    "after-dark": DARK["after"],
    "ks": "#009e73",
    "w1": "#cc79a7",
    "js": "#56a0c8",
}
_DARK = {
    "ground": "#16191d",
    "ink": "#e6e8ea",
    "muted": "#a3abb2",
    "grid": "#30363c",
    "band": "#3a4148",
    "before": "#56b4e9",
    "before-light": "#2f6f96",
    "before-dark": "#a8dbfa",
    "after": "#f08a4b",
    "after-light": "#9c5a30",
    "after-dark": "#ffc9a3",
    "ks": "#2fc79a",
    "w1": "#dd9cc0",
    "js": "#7fbfe0",
}
PALETTES = {"light": _LIGHT, "dark": _DARK}
"""By scheme. On dark ground the mass that moves is the brighter tone: what stands out stays so."""
