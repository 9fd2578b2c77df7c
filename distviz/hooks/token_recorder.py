"""A recorder with statistics of every counted token.

The statistics are over the channels of one token, on the values themselves (float64 arithmetic,
not rounded to a grid); the near-zero band of a token is that of its document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from distviz.hooks.moe_layouts import Routed
from distviz.hooks.recorder import Recorder
from distviz.hooks.tokens import Tokens
from distviz.sites import HookPoint, SiteKey

if TYPE_CHECKING:
    import torch

STATISTICS = ("near_zero", "variance", "l1", "l2", "gini")
"""The columns of a row, see `token_statistics`."""

_CHUNK = 1 << 17
"""Values per step: their float64 copies fit into the CPU cache."""


@dataclass
class PositionRecorder(Recorder):
    """A recorder that also stores the statistics of every counted token.

    Documents must have one window each, so that their near-zero band is known after one call.
    Memory: 40 bytes per token, layer and site. The values of a token in several experts are
    described together.

    Attributes
    ----------
    given
        (document, key) -> eps of another run, used instead of the documents' own.
    bands
        The eps in use.
    rows
        (key, document) -> float64 (tokens, statistics), the counted tokens in order.
    """

    given: Mapping[tuple[int, SiteKey], float] | None = None
    bands: dict[tuple[int, SiteKey], float] = field(default_factory=dict)
    rows: dict[tuple[SiteKey, int], NDArray[np.float64]] = field(default_factory=dict)

    def add(
        self,
        point: HookPoint,
        phase: str,
        values: torch.Tensor,
        tokens: Tokens,
        moved: torch.Tensor | None = None,
    ) -> None:
        """Count like `Recorder.add`, then describe each counted token."""
        super().add(point, phase, values, tokens, moved)
        if moved is not None:
            return
        self.flush()  # bands are needed now
        key = SiteKey(point.layer, point.stack, point.site, phase, point.module)
        length = tokens.counted.shape[1]
        for row, document in enumerate(tokens.documents.tolist()):
            own = row * length + np.flatnonzero(tokens.counted[row])
            eps = self.documents.band(document, key)
            if self.given is not None:
                eps = self.given.get((document, key), math.nan)
            self.bands[document, key] = eps
            self.rows[key, document] = _of_tokens(values, own, tokens.routed, eps)

    def __add__(self, other: Self) -> Self:
        """Return the observations of both, of different documents; see `Recorder`."""
        total = super().__add__(other)
        total.bands, total.rows = self.bands | other.bands, self.rows | other.rows
        return total

    def state(self) -> dict[str, Any]:
        """Return everything but ``given`` as a tree for `distviz.stats.encode`."""
        rows = [[list(key), document, table] for (key, document), table in self.rows.items()]
        bands = [[document, list(key), eps] for (document, key), eps in self.bands.items()]
        return super().state() | {"rows": rows, "bands": bands}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return the recorder of a `state`."""
        found = super().from_state(state)
        found.rows = {(SiteKey(*key), document): table for key, document, table in state["rows"]}
        found.bands = {(document, SiteKey(*key)): eps for document, key, eps in state["bands"]}
        return found


def _of_tokens(
    values: torch.Tensor, own: NDArray[np.int64], routed: Routed | None, eps: float
) -> NDArray[np.float64]:
    """Describe the tokens ``own`` (indices in the flat batch) of (rows, channels)."""
    if routed is None:
        return token_statistics(_exact(values, own), eps)
    order = np.lexsort((routed.slots, routed.tokens))
    begin, end = (np.searchsorted(routed.tokens[order], own, side) for side in ("left", "right"))
    found = np.full((own.size, len(STATISTICS)), math.nan)
    for visits in set((end - begin).tolist()) - {0}:
        which = np.flatnonzero(end - begin == visits)
        rows = order[begin[which, None] + np.arange(visits)]
        exact = _exact(values, rows.ravel()).reshape(which.size, -1)
        found[which] = token_statistics(exact, eps)
    return found


def _exact(values: torch.Tensor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return some rows; float32 represents the 16-bit types exactly."""
    import torch

    chosen = values.detach()[torch.from_numpy(rows).to(values.device)]
    return np.asarray(chosen.float().cpu().numpy())


def token_statistics(values: NDArray[np.float32], eps: float) -> NDArray[np.float64]:
    """Describe each row by the columns of `STATISTICS`, float64 (rows, 5).

    Near-zero fraction (abs(x) < eps), population variance, L1, L2 and the Gini coefficient of
    abs(x) over the finite values of a row, (rows, channels); NaN without finite values, and for
    the Gini coefficient of all-zero rows.
    """
    found = np.empty((len(values), len(STATISTICS)))
    finite = np.isfinite(values).all(axis=1)
    step = max(_CHUNK // max(values.shape[1], 1), 1)
    whole = np.flatnonzero(finite)
    for start in range(0, len(whole), step):
        rows = whole[start : start + step]
        found[rows] = _describe(values[rows], eps)
    for row in np.flatnonzero(~finite):
        kept = values[row][np.isfinite(values[row])]
        found[row] = _describe(kept[None], eps)[0] if kept.size else math.nan
    return found


def _describe(values: NDArray[np.float32], eps: float) -> NDArray[np.float64]:
    """Describe rows of finite values."""
    n = values.shape[1]
    exact = values.astype(np.float64)
    sizes = np.abs(values)
    sizes.sort(axis=1)
    ascending = sizes.astype(np.float64)
    l1 = ascending.sum(axis=1)
    weighted = ascending @ np.arange(1.0, n + 1)
    with np.errstate(invalid="ignore"):
        gini = 2 * weighted / (n * l1) - (n + 1) / n
    near = (ascending < eps).sum(axis=1) / n if not math.isnan(eps) else np.full(len(l1), eps)
    l2 = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    return np.stack([near, exact.var(axis=1), l1, l2, gini], axis=1)
