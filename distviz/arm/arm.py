"""The Activation Redistribution Module (ARM), exactly.

Source: "Meaningless Tokens, Meaningful Gains", arXiv 2510.01032, sections 3.3 and 4, appendix H,
and the behaviour of the authors' released code (which fixes mode ``replace`` and the bounds).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from distviz.arm.plan import (
    Plan,
    SequenceRows,
    copy_rows,
    one_sequence,
    sequences_of,
    target_of,
)
from distviz.arm.sources import fingerprint_of
from distviz.errors import RequestError, nearest
from distviz.sites import ACT
from distviz.stats import check_key, is_a

if TYPE_CHECKING:
    import torch

    from distviz.sites import HookPoint
    from distviz.stats.kernels import Decision, Request

MODES = ("replace", "add")
PERCENTILES_OF = ("value", "magnitude")


def random_key(layer: int, site: str) -> int:
    """Return the key of the random numbers at a site of a layer, see `ARM.trace_rows`.

    That of ``act`` is the layer; another site adds the CRC-32 of its name, shifted by 31 bits.
    """
    return layer if site == ACT else layer + (zlib.crc32(site.encode()) << 31)


@dataclass(frozen=True, kw_only=True)
class ARM:
    """Move the near-zero values of each sequence away from zero.

    Parameters
    ----------
    c
        Width of the near-zero band: eps = 1.4826 * MAD * c. Positive.
    p1
        The percentile of the values that is the upper bound of the new values, 0 to 100.
    p_min, p_max
        Limits of the fraction of values that move, 0 to 1.
    fraction
        The fraction that moves (the paper sets it for Gemma); None measures it.
    mode
        ``"replace"`` (released code) or ``"add"`` (the paper's text).
    percentile_of
        ``"value"``, or ``"magnitude"`` (released code for Gemma).
    passes
        How often the step is applied, each time to the last result.
    seed
        Key of the random numbers, see `distviz.stats.kernels.rng`.

    Raises
    ------
    RequestError
        If a parameter is out of range; the message names it.
    """

    c: float = 0.13
    p1: float = 99.5
    is_bounded: ClassVar[bool] = True
    """Whether p1 and the mode play a role."""
    selects: ClassVar[bool] = True
    """Whether c or the fraction selects values."""
    p_min: float = 0.02
    p_max: float = 0.25
    fraction: float | None = None
    mode: str = "replace"
    percentile_of: str = "value"
    passes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        if not (self.c > 0 and math.isfinite(self.c)):
            raise RequestError(f"c is {self.c}, it must be above 0", "published: 0.05 to 0.45")
        if not 0 <= self.p1 <= 100:
            raise RequestError(f"p1 is {self.p1}, it must lie between 0 and 100")
        for name in ("p_min", "p_max", "fraction"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise RequestError(f"{name} is {share}, it must lie between 0 and 1")
        if self.p_min > self.p_max:
            raise RequestError(f"p_min {self.p_min} is larger than p_max {self.p_max}")
        for name, allowed in (("mode", MODES), ("percentile_of", PERCENTILES_OF)):
            word = getattr(self, name)
            if word not in allowed:
                raise RequestError(
                    f"{name} is '{word}'{nearest(str(word), allowed)}",
                    f"allowed: {', '.join(allowed)}",
                )
        if self.passes < 1:
            raise RequestError(f"passes is {self.passes}, it must be at least 1")

    def _check_types(self) -> None:
        for name in ("c", "p1", "p_min", "p_max", "fraction"):
            number = getattr(self, name)
            if not is_a(number, float | None if name == "fraction" else float):
                raise RequestError(f"{name} is {number!r}, expected a number")
        for name in ("passes", "seed"):
            check_key(getattr(self, name), name)
        for name in (one.name for one in fields(ARM)):
            if isinstance(value := getattr(self, name), np.generic):
                object.__setattr__(self, name, value.item())

    def at(self, point: HookPoint) -> ARM:  # noqa: ARG002
        """Return the redistribution of the values at one place: the same everywhere."""
        return self

    def fingerprint(self) -> str:
        """Return a digest of what its kind needs besides these parameters; empty if nothing.

        Such as the content of a file, or code.
        """
        own = {f.name for f in fields(self)} - {f.name for f in fields(ARM)}
        return fingerprint_of(getattr(self, name) for name in sorted(own)) if own else ""

    def described(self) -> str:
        """Return the main parameters as text: ``c = 0.13, p1 = 99.5``."""
        first = f"c = {self.c:g}" if self.fraction is None else f"fraction = {self.fraction:g}"
        return f"{first}, p1 = {self.p1:g}" if self.is_bounded else first

    def plan(self, x: torch.Tensor, mask: Any = None) -> Plan | None:
        """Return the plan for one sequence, None if it has no finite value.

        ``x`` has any shape; ``mask`` has its leading dimensions, true where a token takes part.
        """
        return Plan.of(self._decide(*one_sequence(x, mask)))

    def _decide(self, values: torch.Tensor, rows: NDArray[np.int64]) -> Decision:
        from distviz.stats import kernels

        return kernels.decide(values, rows, self._request)

    @cached_property
    def _request(self) -> Request:
        from distviz.stats import kernels

        shares = (self.p_min, self.p_max) if self.fraction is None else (self.fraction,) * 2
        is_of_magnitude = self.percentile_of == "magnitude"
        least, most = map(float, shares)
        return kernels.Request(float(self.c), self.p1 / 100, least, most, is_of_magnitude)

    def selected(self, x: torch.Tensor, mask: Any = None) -> NDArray[np.int64]:
        """Return the flat indices of the values that the first pass moves, ascending."""
        import torch

        from distviz.stats import kernels

        values, rows = one_sequence(x, mask)
        moved = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
        kernels.find_moved(values, rows, self._decide(values, rows), moved)
        return np.flatnonzero(moved.cpu().numpy())

    def __call__(
        self,
        x: torch.Tensor,
        mask: Any = None,
        out: torch.Tensor | None = None,
        *,
        layer: int = 0,
        documents: Any = None,
        tokens: Any = None,
    ) -> torch.Tensor:
        """Redistribute a batch.

        Parameters
        ----------
        x
            (batch, tokens, channels), or (tokens, channels) for one sequence; any floating type.
        mask
            Tensor or array (batch, tokens), false for padding; None means no padding.
        out
            The result, same shape and type as ``x``; may be ``x``. None allocates a new tensor.
        layer
            Key of the random numbers.
        documents, tokens
            Further keys: (batch,) and (batch, tokens) integers. By default the row of the batch
            and the index among the row's unpadded tokens.

        Returns
        -------
        Tensor
            ``out``. Padding, NaN and infinite values are unchanged.
        """
        sequences = sequences_of(x, mask, documents, tokens)
        return self.redistribute_rows(x, sequences, out, layer=layer, find_moved=False)[0]

    def trace(
        self,
        x: torch.Tensor,
        mask: Any = None,
        out: torch.Tensor | None = None,
        *,
        layer: int = 0,
        documents: Any = None,
        tokens: Any = None,
        find_moved: bool = True,
    ) -> tuple[torch.Tensor, list[list[Plan | None]], torch.Tensor | None]:
        """Redistribute a batch and return details; arguments as of a call.

        Returns
        -------
        out
            The result.
        plans
            One list per sequence, one plan per pass (None if the sequence has no finite value).
        moved
            uint8, shape of ``x``: 1 where a value was selected in any pass; None without
            ``find_moved``.
        """
        sequences = sequences_of(x, mask, documents, tokens)
        return self.trace_rows(x, sequences, out, layer=layer, find_moved=find_moved)

    def trace_rows(
        self,
        x: torch.Tensor,
        sequences: Iterable[SequenceRows],
        out: torch.Tensor | None = None,
        *,
        layer: int = 0,
        find_moved: bool = True,
    ) -> tuple[torch.Tensor, list[list[Plan | None]], torch.Tensor | None]:
        """Redistribute sequences of arbitrary rows; arguments as of `redistribute_rows`."""
        found = self.redistribute_rows(x, sequences, out, layer=layer, find_moved=find_moved)
        result, decisions, moved = found
        return result, [[*map(Plan.of, own)] for own in decisions], moved

    def redistribute_rows(
        self,
        x: torch.Tensor,
        sequences: Iterable[SequenceRows],
        out: torch.Tensor | None = None,
        *,
        layer: int = 0,
        find_moved: bool = True,
    ) -> tuple[torch.Tensor, list[list[Decision | None]], torch.Tensor | None]:
        """Redistribute sequences of arbitrary rows; other arguments as of `trace`.

        Decisions take the place of plans, see `Plan.of`; on a device nothing waits for them.

        Parameters
        ----------
        x
            (..., channels); rows are numbered over all leading dimensions.
        sequences
            The rows of each; rows in no sequence are unchanged.
        """
        from distviz.stats import kernels

        layer = check_key(layer, "layer")
        values = x.detach().contiguous()
        flat = values.view(math.prod(values.shape[:-1]), values.shape[-1])
        target = target_of(flat, x, out)
        parts = list(sequences)
        is_whole = sum(part.rows.size for part in parts) == flat.shape[0]
        if not is_whole and target.data_ptr() != flat.data_ptr():
            left_out = np.ones(flat.shape[0], bool)
            for part in parts:
                left_out[part.rows] = False
            copy_rows(flat, target, np.flatnonzero(left_out))
        moved = None
        if find_moved:
            import torch

            moved = torch.zeros_like(flat, dtype=torch.uint8)

        def one(part: SequenceRows) -> list[Decision | None]:
            return self._redistribute(flat, target, part, layer, moved)

        # A function of the user may not be made for several threads.
        decisions = (
            kernels.share_sequences(flat, one, parts) if self.selects else [*map(one, parts)]
        )
        result = target.view(x.shape)
        if out is not None:
            if result.data_ptr() != out.data_ptr():
                out.copy_(result)
            result = out
        return result, decisions, None if moved is None else moved.view(x.shape)

    def _redistribute(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        sequence: SequenceRows,
        layer: int,
        moved: torch.Tensor | None,
    ) -> list[Decision | None]:
        """Apply every pass to one sequence; the first reads ``source``, all write ``target``."""
        from distviz.stats import kernels

        rows = sequence.rows
        decisions: list[Decision | None] = []
        for number in range(self.passes):
            decision = self._decide(source, rows)
            decisions.append(decision)
            if moved is not None:
                of_pass = moved if number == 0 else moved.new_zeros(moved.shape)
                kernels.find_moved(source, rows, decision, of_pass)
                if number:
                    index = kernels.to_device(rows, moved.device)
                    moved[index] |= of_pass[index]
            keys = sequence.keys(self.seed, layer, number)
            self._write(source, target, rows, keys, decision)
            source = target
        return decisions

    def _write(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        rows: NDArray[np.int64],
        keys: NDArray[np.uint32],
        decision: Decision,
    ) -> None:
        """Write the result of one pass for the rows of one sequence."""
        from distviz.stats import kernels

        kernels.apply(source, target, rows, keys, decision, adds=self.mode == "add")
