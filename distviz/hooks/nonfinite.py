"""The first NaN or infinity that is observed: its place, token and channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from distviz.sites import SiteKey
from distviz.stats import kernels

if TYPE_CHECKING:
    import torch

    from distviz.hooks.recorder import Recorder
    from distviz.hooks.tokens import Tokens


@dataclass
class FirstNonfinite:
    """Looks for the first value that is NaN or infinite, in the order of observing.

    On the CPU the counts, which are known, decide whether a call has one; only then its values are
    looked at. On other devices each call enqueues one more pass over its values.

    Parameters
    ----------
    report
        Called once with the place, as soon as it is known.

    Attributes
    ----------
    found
        ``layer``, ``stack``, ``site``, ``module``, ``kind`` (``nan`` or ``inf``), and for values
        with tokens ``document``, ``position``, ``channel`` and, where known, ``token_id``.
    """

    report: Callable[[dict[str, Any]], None]
    found: dict[str, Any] | None = None
    _counts: dict[SiteKey, int] = field(default_factory=dict)
    _waiting: list[tuple[SiteKey, torch.Tensor, int, Tokens]] = field(default_factory=list)

    def see(self, recorder: Recorder, key: SiteKey, values: torch.Tensor, tokens: Tokens) -> None:
        """Look at (rows, channels) that were just recorded."""
        if self.found is not None or not values.numel():
            return
        if kernels.counts_on_device(values):
            self._waiting.append((key, _first_on_device(values, tokens), values.shape[1], tokens))
            return
        if self.see_counts(recorder, key):
            row, channel, is_nan = _first_here(values, tokens)
            self._take(key, is_nan, _place_of(row, channel, tokens))

    def see_counts(self, recorder: Recorder, key: SiteKey) -> bool:
        """Return whether more values at a place are not finite than before."""
        known = self._counts.get(key, 0)
        now = sum(one.nan + one.inf for one in recorder.sketches.get(key, {}).values())
        self._counts[key] = now
        return now > known

    def see_sketch(self, recorder: Recorder, key: SiteKey) -> None:
        """Look at values without tokens that were just counted."""
        if self.found is None and self.see_counts(recorder, key):
            self._take(key, any(one.nan for one in recorder.sketches[key].values()), {})

    def finish(self) -> None:
        """Take what is still on devices; waits for it."""
        waiting, self._waiting = self._waiting, []
        for key, first, width, tokens in waiting:
            if self.found is not None:
                return
            has_one, index, is_nan = first.tolist()
            if has_one:
                self._take(key, bool(is_nan), _place_of(index // width, index % width, tokens))

    def _take(self, key: SiteKey, is_nan: bool, place: dict[str, Any]) -> None:
        where = {"layer": key.layer, "stack": key.stack, "site": key.site, "module": key.module}
        self.found = where | {"kind": "nan" if is_nan else "inf"} | place
        self.report(self.found)


def _first_here(values: torch.Tensor, tokens: Tokens) -> tuple[int, int, bool]:
    """Return row and channel of the first value in a counted row, and whether it is NaN."""
    import torch

    is_bad = ~torch.isfinite(values).cpu().numpy() & tokens.rows_that_count()[:, None]
    row, channel = divmod(int(is_bad.argmax()), values.shape[1])
    return row, channel, bool(values[row, channel].isnan())


def _first_on_device(values: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """Return int64 (3,): whether a counted row has one, its flat index, whether it is NaN."""
    import torch

    def copied() -> torch.Tensor:
        return kernels.to_device(tokens.rows_that_count().copy(), values.device)

    counted = tokens.once(("counted", values.device), copied)
    is_bad = (~torch.isfinite(values) & counted[:, None]).flatten()
    index = is_bad.byte().argmax()
    is_nan = values.flatten().take(index).isnan()
    return torch.stack([is_bad.any().long(), index, is_nan.long()])


def _place_of(row: int, channel: int, tokens: Tokens) -> dict[str, Any]:
    """Return document, position, channel and, where known, the token id of a row."""
    owner = row if tokens.routed is None else int(tokens.routed.tokens[row])
    document = tokens.documents[owner // tokens.valid.shape[1]]
    position = int(tokens.index.ravel()[owner]) & 0xFFFFFFFF
    place = {"document": int(document), "position": position, "channel": channel}
    if tokens.ids is not None:
        place["token_id"] = int(np.ravel(tokens.ids)[owner])
    return place
