"""Documents whose counts are still on a device: their statistics are computed there.

Memory on the device: one table per unfinished document and key, and at most `_MOST` tables of
finished ones, whose statistics are computed together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distviz.sites import SiteKey
from distviz.stats import float_grid

if TYPE_CHECKING:
    import torch

    from distviz.stats.kernels import DeviceObservation

_MOST = 256
_INT32 = 1 << 31


@dataclass(frozen=True)
class DevicePart:
    """The values of one document at one key so far; two of one origin add.

    Attributes
    ----------
    table
        int32 (65536,); int64 where more values may have been counted than it holds.
    powers
        (0 or 5,): see `DeviceObservation`.
    center
        (): what the powers are about.
    most
        As many values may have been counted.
    grid, is_rounded
        As of an observation.
    """

    table: torch.Tensor
    powers: torch.Tensor
    center: torch.Tensor
    most: int
    grid: str
    is_rounded: bool

    @classmethod
    def each(cls, seen: DeviceObservation, most: int) -> list[DevicePart]:
        """Return the part of each slot, one per document, of at most ``most`` values each."""
        grid = float_grid.grid_for_dtype(str(seen.dtype))
        pairs = zip(seen.tables.unbind(0), seen.powers.unbind(1), strict=True)
        return [cls(*pair, seen.origin.center, most, grid, seen.is_rounded) for pair in pairs]

    def __add__(self, other: DevicePart) -> DevicePart:
        most = self.most + other.most
        mine = self.table if most < _INT32 else self.table.long()
        rest = (self.center, most, self.grid, self.is_rounded)
        return DevicePart(mine + other.table, self.powers + other.powers, *rest)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The table, the powers and the center."""
        return [self.table, self.powers, self.center]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What parts have in common that are described together."""
        return self.table.device, self.table.dtype, self.grid, self.is_rounded


@dataclass
class DeviceDocuments:
    """The parts of documents on devices, and the near-zero bands found there.

    Parameters
    ----------
    c
        Width of the near-zero band.
    known
        The bands of documents at keys (with no phase) that the host knows.
    """

    c: float
    known: dict[tuple[int, SiteKey], float]
    parts: dict[int, dict[SiteKey, DevicePart]] = field(default_factory=dict)
    bands: dict[tuple[int, SiteKey], torch.Tensor] = field(default_factory=dict)
    _finished: list[tuple[int, SiteKey, DevicePart]] = field(default_factory=list)
    rows: list[tuple[list[tuple[int, SiteKey]], list[torch.Tensor]]] = field(default_factory=list)
    """Finished documents with their statistics, powers and centers, for the host to take."""

    def add(self, key: SiteKey, document: int, part: DevicePart, *, is_whole: bool) -> None:
        """Add a part of a document; ``is_whole`` means that there are no others."""
        if is_whole:
            self._finished.append((document, key, part))
            if len(self._finished) >= _MOST:
                self.describe()
            return
        own = self.parts.setdefault(document, {})
        own[key] = own[key] + part if key in own else part

    def close(self, document: int) -> None:
        """Finish a document."""
        parts = self.parts.pop(document, {})
        self._finished += [(document, key, part) for key, part in parts.items()]

    def describe(self) -> None:
        """Compute the statistics of finished documents; those of phase ``before`` give bands."""
        groups: dict[tuple[Any, ...], list[tuple[int, SiteKey, DevicePart]]] = {}
        for one in sorted(self._finished, key=lambda one: one[1].phase != "before"):
            groups.setdefault((one[1].phase == "before", *one[2].kind), []).append(one)
        self._finished = []
        for (is_before, *_), group in groups.items():
            for start in range(0, len(group), _MOST):
                self._describe(group[start : start + _MOST], is_before=is_before)

    def _describe(self, group: list[tuple[int, SiteKey, DevicePart]], *, is_before: bool) -> None:
        import torch

        from distviz.stats import kernels

        parts, places = [part for _, _, part in group], [(d, key) for d, key, _ in group]
        bands = [(document, key._replace(phase="")) for document, key in places]
        like: dict[str, Any] = {"dtype": torch.float64, "device": parts[0].table.device}
        if is_before:
            given = torch.full((len(parts),), -1.0, **like)
        else:
            known = [self.bands.get(band, self.known.get(band, math.nan)) for band in bands]
            given = torch.stack(
                [torch.full((), one, **like) if isinstance(one, float) else one for one in known]
            )
        tables = torch.stack([part.table for part in parts])
        found = kernels.summarise_on_device(tables, parts[0].grid, self.c, given)
        if is_before:
            self.bands |= dict(zip(bands, found[:, 3].unbind(0), strict=True))
        powers = torch.stack([part.powers for part in parts])
        centers = torch.stack([part.center for part in parts])
        self.rows.append((places, [found, powers, centers]))

    @property
    def is_used(self) -> bool:
        """Whether anything is left here."""
        return bool(self.parts or self._finished or self.rows)

    def forget(self, documents: Iterable[int]) -> None:
        """Drop the bands of documents that have no further phase."""
        self.describe()
        gone = set(documents)
        self.bands = {place: band for place, band in self.bands.items() if place[0] not in gone}
