"""Bytes on disk of a result, from the number of rows of its tables and the number of its figures.

The bytes of a row are those of the demo and of SmolLM2: they vary with the digits of numbers and
with how well a table compresses.
"""

from __future__ import annotations

from dataclasses import dataclass

from distviz.results import ROW
from distviz.settings import RunSettings

_LARGEST, _WORST, _BINS = 20, 50, 192
_FIGURE = {"png": 105_000, "svg": 160_000, "pdf": 40_000}
_FIXED = 40_000
"""Manifest and the schemas of the parquet files."""


@dataclass(frozen=True)
class RunSize:
    """The rows of the tables of a run.

    Attributes
    ----------
    is_wide
        Whether values have more than 16 bits.
    places, moved
        Layers and sites by the phases of all values, and by those of moved ones.
    whole, split
        Places with one sketch, and with one for each token class.
    classes, groups
        Number of token classes, and of other groups of tokens.
    channels
        Channels of all ``places``.
    documents, windows, tokens
        Of the text.
    plans
        Rows of ``plans.csv`` per window.
    """

    is_wide: bool
    places: int
    moved: int
    whole: int
    split: int
    classes: int
    groups: int
    channels: int
    documents: int
    windows: int
    tokens: int
    plans: int

    def tables(self, settings: RunSettings) -> int:
        """Return the bytes of all tables."""
        keys, split = self.places + self.moved, max(self.split - self.moved, 0)
        losses = len(settings.formats) * len(settings.rotate)
        rows = {
            "counts": 11_500 * self.whole + 6_800 * self.classes * self.split,
            "token_groups": 2_550 * self.groups * split,
            "classes": 90 * (self.classes + self.groups) * split,
            "stats": 420 * keys,
            "histograms": 96 * _BINS * keys,
            "channels": (38 if self.is_wide else 26) * self.channels,
            "channel_details": 11 * self.channels * settings.channels,
            "documents": 80 * self.documents * self.places,
            "extremes": (112 if self.is_wide else 100) * _LARGEST * self.places,
            "plans": 145 * self.windows * self.plans,
            "tokens": (39 if self.is_wide else 28) * self.tokens * self.places * settings.tokens,
            "formats": 220 * losses * self.places,
        }
        return sum(rows.values()) + _FIXED

    def temporary(self, settings: RunSettings) -> int:
        """Return the bytes of the rows of ``--tokens`` while they are measured."""
        return ROW.itemsize * self.tokens * self.places * settings.tokens


def compared_tables(pairs: int, groups: int, channels: int, by_value: int, documents: int) -> int:
    """Return the bytes of the tables of a comparison beside those of its sides.

    Parameters
    ----------
    pairs, by_value
        Places that are compared, and those that are compared value by value.
    groups
        Token classes and other groups of tokens.
    channels
        The most that are listed of a place: those of the widest.
    documents
        Of the text.
    """
    distributions = 290 + 2 * 170 + 142 * groups + 225 * min(channels, _WORST)
    values = 240 + 170 + 70 * documents + (113 + 118) * _WORST
    return pairs * distributions + by_value * values + _FIXED // 4


def figures(settings: RunSettings, points: int, sites: int, more: int = 0) -> int:
    """Return the bytes of a figure of each place, five of each site, and some more."""
    return (points + 5 * sites + more) * sum(_FIGURE[kind] for kind in settings.figures)
