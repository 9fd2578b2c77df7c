"""Count magnitudes by the role of tokens, and by their position in the window.

Memory: 256 KiB for each group of tokens and place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distviz.data import ROLES
from distviz.results import TokenGroups
from distviz.sites import SiteKey
from distviz.stats import (
    Magnitudes,
    Sketch,
    float_grid,
    kernels,
    magnitude_table,
    pack_tables,
    unpack_tables,
)

if TYPE_CHECKING:
    import torch

    from distviz.hooks.tokens import Tokens

_REST = ROLES.index("rest")
_WINDOW = 32


class Positioned(Protocol):
    """Tokens with role and position, int64 (batch, tokens)."""

    @property
    def roles(self) -> NDArray[np.int64] | None:
        """Indices into `ROLES`; None where no token has one."""

    @property
    def index(self) -> NDArray[np.int64]:
        """2^32 window + position."""


def group_numbers(tokens: Positioned) -> dict[str, NDArray[np.int64]]:
    """Return the group of each token, int64 (batch, tokens), in each partition of the tokens.

    ``role``: index into `ROLES`. ``position``: 0 for position 0, 1 for 1, 2 for 2 and 3, 3 for 4
    to 7, and so on.
    """
    position = tokens.index & ((1 << _WINDOW) - 1)
    found = {"position": np.frexp(position.astype(np.float64))[1].astype(np.int64)}
    return found if tokens.roles is None else {"role": tokens.roles} | found


def group_name(partition: str, number: int) -> str:
    """Return the name of a group: a role, or the positions, such as ``4-7``."""
    if partition == "role":
        return ROLES[number]
    first, last = 1 << number >> 1, (1 << number) - 1
    return str(first) if last <= first else f"{first}-{last}"


def count_tokens(batches: Iterable[Any]) -> dict[str, dict[str, int]]:
    """Return the number of counted tokens by partition and group; no roles if all are ``rest``."""
    totals: dict[str, NDArray[np.int64]] = {}
    for batch in batches:
        for partition, numbers in group_numbers(batch).items():
            found = np.bincount(numbers[batch.counted], minlength=64)
            totals[partition] = totals.get(partition, 0) + found
    return {
        partition: {
            group_name(partition, n): int(counts[n]) for n in np.flatnonzero(counts).tolist()
        }
        for partition, counts in totals.items()
        if partition != "role" or counts[:_REST].any()
    }


def _slots(tokens: Tokens) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return by partition the groups that occur, and the index of each row's group or -1."""
    found = {}
    for partition, numbers in group_numbers(tokens).items():
        is_wanted = tokens.counted
        if partition == "role":
            is_wanted = is_wanted & (numbers != _REST)
        slots = np.where(is_wanted, numbers, -1).ravel()
        used = np.unique(slots[slots >= 0])
        if used.size:
            slots = np.where(slots >= 0, np.searchsorted(used, slots), -1)
            found[partition] = used, slots if tokens.routed is None else tokens.routed.spread(slots)
    return found


@dataclass
class GroupCounter:
    """Counts of magnitudes by place, partition and group; two of them add."""

    tables: dict[SiteKey, dict[tuple[str, int], NDArray[np.int64]]] = field(default_factory=dict)
    _on_device: dict[tuple[SiteKey, str, tuple[int, ...], torch.device], torch.Tensor] = field(
        default_factory=dict, repr=False
    )

    def add(self, key: SiteKey, values: torch.Tensor, tokens: Tokens) -> None:
        """Count (rows, channels); the role ``rest`` is what is left of all values, see `groups`."""
        for partition, (used, slots) in tokens.once("groups", lambda: _slots(tokens)).items():
            if not kernels.counts_on_device(values):
                self._take(key, partition, used, kernels.count_magnitudes(values, slots, used.size))
                continue
            device, rows = values.device, np.flatnonzero(slots >= 0)
            on_device = tokens.once(
                (partition, device),
                partial(kernels.DeviceRows.of, rows, slots, used.size, device),
            )
            place = (key, partition, tuple(used.tolist()), device)
            found = kernels.magnitudes_on_device(values.detach(), on_device)
            known = self._on_device.get(place)
            self._on_device[place] = found if known is None else known + found

    def _take(
        self, key: SiteKey, partition: str, used: Iterable[int], found: Iterable[NDArray[Any]]
    ) -> None:
        mine = self.tables.setdefault(key, {})
        for number, table in zip(used, found, strict=True):
            place = (partition, int(number))
            mine.setdefault(place, np.zeros(float_grid.SIGN, np.int64))[:] += table

    def flush(self) -> None:
        """Take what was counted on devices; waits for it."""
        tables, self._on_device = self._on_device, {}
        arrays = kernels.to_host([*tables.values()])
        for (key, partition, used, _), found in zip(tables, arrays, strict=True):
            self._take(key, partition, used, found)

    def __add__(self, other: GroupCounter) -> GroupCounter:
        """Return the counts of both; neither side may be used afterwards."""
        for key, theirs in other.tables.items():
            mine = self.tables.setdefault(key, {})
            for group, table in theirs.items():
                mine[group] = mine[group] + table if group in mine else table
        return self

    def groups(self, whole: Mapping[SiteKey, Sketch]) -> TokenGroups:
        """Return the magnitudes by place, partition and name of the group, in order.

        ``whole`` are the distributions of all tokens. There are no roles where all are ``rest``.
        """
        found: TokenGroups = {}
        for key, tables in self.tables.items():
            grid = whole[key].grid or "bf16"
            roles = [table for (partition, _), table in tables.items() if partition == "role"]
            rest = magnitude_table(whole[key]) - sum(roles) if roles else None
            own = tables if rest is None else tables | {("role", _REST): rest}
            for partition, number in sorted(own, key=lambda group: (group[0] != "role", group[1])):
                counted = Magnitudes.of_table(grid, own[partition, number])
                if counted.count:
                    by_name = found.setdefault(key, {}).setdefault(partition, {})
                    by_name[group_name(partition, number)] = counted
        return found

    def state(self) -> list[Any]:
        """Return everything as a tree for `distviz.stats.encode`."""
        return [
            [list(key), [list(group) for group in tables], pack_tables(list(tables.values()))]
            for key, tables in self.tables.items()
        ]

    @classmethod
    def from_state(cls, state: list[Any]) -> GroupCounter:
        """Return the counter of a `state`."""
        return cls({
            SiteKey(*key): {
                (partition, number): table[: float_grid.SIGN]
                for (partition, number), table in zip(groups, unpack_tables(packed), strict=True)
            }
            for key, groups, packed in state
        })  # fmt: skip
