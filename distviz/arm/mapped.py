"""Redistributions that compute new values from all values of a sequence, none selected first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from distviz.arm.arm import ARM
from distviz.arm.place_table import PlaceTable
from distviz.arm.plan import SequenceRows
from distviz.errors import MeasurementError, RequestError

if TYPE_CHECKING:
    import torch

    from distviz.sites import HookPoint
    from distviz.stats.kernels import Decision

NO_FORMAT = "none"
"""The format that leaves the values as they are."""


@dataclass(frozen=True, kw_only=True)
class Mapped(ARM):
    """New values computed from those of a sequence alone; no values are selected first."""

    is_bounded: ClassVar[bool] = False
    selects: ClassVar[bool] = False

    def new_values(self, values: torch.Tensor) -> torch.Tensor:
        """Return what replaces the (tokens, channels) of one sequence, same shape and type."""
        raise NotImplementedError

    def _redistribute(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        sequence: SequenceRows,
        layer: int,  # noqa: ARG002
        moved: torch.Tensor | None,
    ) -> list[Decision | None]:
        import torch

        from distviz.stats import kernels

        index = kernels.to_device(sequence.rows, source.device)
        own = source[index]
        made = self.new_values(own)
        target[index] = made
        if moved is not None:
            moved[index] = ((made != own) & ~own.isnan()).to(torch.uint8)
        return [None]


@dataclass(frozen=True, kw_only=True)
class Cutoff(Mapped):
    """Set the values up to a magnitude to zero; NaN stays.

    Parameters
    ----------
    largest
        The largest magnitude that becomes zero.
    is_of_counts
        Whether it was found in counts: then a float32 value counts as the bfloat16 nearest to it.
    """

    largest: float
    is_of_counts: bool = False

    def new_values(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values with zeros; a zero stays what it is."""
        import torch

        sizes = values.abs()
        if self.is_of_counts and values.dtype == torch.float32:
            # As in the table, the largest finite values stay finite.
            sizes = sizes.bfloat16().clamp(max=torch.finfo(torch.bfloat16).max)
        return torch.where(sizes.double() <= self.largest, torch.zeros_like(values), values)

    def described(self) -> str:
        """Return the threshold as text."""
        return f"|x| up to {self.largest:g}"


@dataclass(frozen=True, kw_only=True)
class Quantize(Mapped):
    """Quantize the values to a number format and restore them.

    Parameters
    ----------
    format
        A name of `distviz.stats.granular_formats.GRANULAR_FORMATS`, whose scales come from the
        values of the sequence itself; or ``none``, which changes nothing.
    """

    format: str

    def new_values(self, values: torch.Tensor) -> torch.Tensor:
        """Return the restored values, see `distviz.stats.quantizers.quantize`."""
        from distviz.stats import quantize

        if self.format == NO_FORMAT:
            return values
        return quantize(values, self.format)

    def described(self) -> str:
        """Return the format."""
        return self.format


@dataclass(frozen=True, kw_only=True)
class ByPlace(ARM):
    """A `Cutoff` or `Quantize` of its own at each place, see `PlaceTable`."""

    table: PlaceTable
    is_bounded: ClassVar[bool] = False
    selects: ClassVar[bool] = False

    def at(self, point: HookPoint) -> ARM:
        """Return what is done at a place; raise a RequestError if the table does not have it."""
        given = {field.name: getattr(self, field.name) for field in fields(ARM)}
        value = self.table.of(point)
        if self.table.column == "format":
            return Quantize(**given, format=value)
        return Cutoff(**given, largest=value, is_of_counts=self.table.is_of_counts)

    def described(self) -> str:
        """Return where thresholds or formats are from."""
        if self.table.column == "format":
            return f"the formats of {self.table.path}"
        return f"|x| up to the thresholds of {self.table.path}"


@dataclass(frozen=True, kw_only=True)
class Custom(Mapped):
    """The user's own function of one sequence.

    Parameters
    ----------
    function
        Takes (tokens, channels) without padding and returns the same shape and type; it must not
        change its argument. With routed experts it gets a row per token and expert, ordered by
        token and rank of the expert.
    name
        As given: ``module:callable``.

    Raises
    ------
    MeasurementError
        When called, if the function fails or returns anything else.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    name: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function) or not isinstance(self.name, str):
            raise RequestError(
                f"function is {self.function!r}, name {self.name!r}", "give a function and its name"
            )

    def new_values(self, values: torch.Tensor) -> torch.Tensor:
        """Return what the function returns."""
        import torch

        try:
            made = self.function(values.clone())
        except Exception as error:
            raise MeasurementError(
                f"{self.name} failed: {type(error).__name__}: {error}",
                "it is called with (tokens, channels) of one sequence; see --debug",
            ) from error
        is_alike = isinstance(made, torch.Tensor) and made.shape == values.shape
        if not is_alike or made.dtype != values.dtype:
            what = f"a {type(made).__name__}"
            if isinstance(made, torch.Tensor):
                what = f"{tuple(made.shape)} {made.dtype}"
            raise MeasurementError(
                f"{self.name} returned {what}", f"expected {tuple(values.shape)} {values.dtype}"
            )
        return made
