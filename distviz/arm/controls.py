"""Other redistributions than ARM, for comparison with it.

Most select the same values of a sequence as `ARM` does with the same parameters (``c``, ``p_min``,
``p_max`` or ``fraction``); they differ in the new values, or in their places. Those of ``Mapped``
take all values.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from distviz.arm.arm import ARM
from distviz.arm.mapped import NO_FORMAT, ByPlace, Custom, Cutoff, Quantize
from distviz.arm.place_table import read_formats, read_thresholds
from distviz.arm.plan import SequenceRows
from distviz.errors import RequestError, nearest
from distviz.option import check_choice
from distviz.stats import GRANULAR_FORMATS, checks_types, is_a

if TYPE_CHECKING:
    import torch

    from distviz.stats.kernels import Decision

_OWN_PASS = 1 << 32
"""Pass number for the places that `Noise` draws; ARM never uses it."""


@dataclass(frozen=True, kw_only=True)
class Threshold(ARM):
    """Set the selected values to zero, as sparsification does: the opposite of ARM."""

    is_bounded: ClassVar[bool] = False

    def _write(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        rows: NDArray[np.int64],
        keys: NDArray[np.uint32],
        decision: Decision,
    ) -> None:
        from distviz.stats import kernels

        kernels.apply(source, target, rows, keys, decision, (0.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class Scale(ARM):
    """Multiply the selected values: near-zero values move outward and keep their order.

    Parameters
    ----------
    factor
        The multiplier; the product is float32, rounded to the tensor's type once.
    """

    factor: float = 2.0
    is_bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_a(self.factor, float) and math.isfinite(self.factor)):
            raise RequestError(f"factor is {self.factor!r}, expected a finite number")

    def _write(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        rows: NDArray[np.int64],
        keys: NDArray[np.uint32],  # noqa: ARG002
        decision: Decision,
    ) -> None:
        import torch

        from distviz.stats import kernels

        moved = _moved(source, rows, decision)
        index = kernels.to_device(rows, source.device)
        own = source[index]
        scaled = (own.float() * self.factor).to(own.dtype)
        target[index] = torch.where(moved[index], scaled, own)


@dataclass(frozen=True, kw_only=True)
class Noise(ARM):
    """Make the changes of ARM at random places: the control experiment.

    As many values change, by the same amounts, but at random places: if the output changes as much,
    the near-zero values were not the cause. The places are the k finite values with the smallest
    hash (`distviz.stats.kernels.rng`, pass 2^32); they get the changes in the order of the hash.
    """

    def _redistribute(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        sequence: SequenceRows,
        layer: int,
        moved: torch.Tensor | None,
    ) -> list[Decision | None]:
        import torch

        from distviz.stats import kernels

        index = kernels.to_device(sequence.rows, source.device)
        origin = source[index]
        changed, own = origin.clone(), torch.zeros_like(origin, dtype=torch.uint8)
        inside = replace(sequence, rows=np.arange(sequence.rows.size))
        decisions = super()._redistribute(origin, changed, inside, layer, own)
        wide, size = torch.promote_types(origin.dtype, torch.float32), origin.numel()
        old = origin.to(wide)
        order = _drawn(sequence.keys(self.seed, layer, _OWN_PASS), old)
        # The n-th change goes to the n-th place, the others beyond the end; no change is NaN.
        places = order.new_full((size,), size).masked_scatter_(own.flatten().bool(), order)
        shifts = torch.full((size + 1,), math.nan, dtype=wide, device=old.device)
        shifts.scatter_(0, places, (changed.to(wide) - old).flatten())
        found = shifts[:size].view_as(old)
        stays = found.isnan()
        target[index] = torch.where(stays, origin, (old + found).to(origin.dtype))
        if moved is not None:
            moved[index] = (~stays).to(torch.uint8)
        return decisions


def _drawn(keys: NDArray[np.uint32], values: torch.Tensor) -> torch.Tensor:
    """Return all flat places, finite values first, in the order of their hash (ties by index)."""
    import torch

    from distviz.stats import kernels

    words = kernels.to_device(keys.view(np.int32), values.device)
    ranks = torch.where(values.isfinite(), kernels.random_bits(words, values.shape[1]), 1 << 24)
    return ranks.flatten().sort(stable=True).indices


def _moved(source: torch.Tensor, rows: NDArray[np.int64], decision: Decision) -> torch.Tensor:
    import torch

    from distviz.stats import kernels

    moved = torch.zeros_like(source, dtype=torch.uint8)
    kernels.find_moved(source, rows, decision, moved)
    return moved.bool()


REDISTRIBUTIONS: dict[str, tuple[type[ARM], str]] = {
    "arm": (ARM, "push the near-zero values outward (the default)"),
    "threshold": (
        Threshold,
        "set the same values to zero; threshold:VALUE those up to VALUE",
    ),
    "scale": (Scale, "multiply the same values (scale:3; 2 unless given)"),
    "noise": (Noise, "make the changes of ARM at random places"),
}
"""Name -> class and description."""


_RESERVED = ("scale", "threshold", "quantize")
"""What stands before a colon and is no module."""


@checks_types
def make_redistribution(name: str, arm: ARM) -> ARM:
    """Return the redistribution of a name with the parameters of ``arm``.

    Parameters
    ----------
    name
        One of `REDISTRIBUTIONS`, ``scale:FACTOR``, ``threshold:VALUE``, ``threshold:FILE`` (see
        ``read_thresholds``), ``quantize:FORMAT`` (see ``Quantize``), ``quantize:FILE`` (see
        ``read_formats``), or ``module:callable`` (see `Custom`).
    arm
        Its parameters.

    Raises
    ------
    RequestError
        If there is no such redistribution, a file cannot be read, or the callable cannot be
        imported.
    """
    word, _, rest = name.partition(":")
    given = {field.name: getattr(arm, field.name) for field in fields(ARM)}
    if word == "scale" and rest:
        return Scale(**given, factor=_factor(name, rest))
    if word == "threshold" and rest:
        return _cutoff(name, rest, given)
    if word == "quantize":
        return _quantized(name, rest, given)
    if name in REDISTRIBUTIONS:
        return replace(arm) if name == "arm" else REDISTRIBUTIONS[name][0](**given)
    if names_callable(name):
        return Custom(**given, function=_import(name, word, rest), name=name)
    raise RequestError(
        f"unknown redistribution '{name}'{nearest(name, REDISTRIBUTIONS)}",
        f"allowed: {', '.join(REDISTRIBUTIONS)}, scale:FACTOR, threshold:VALUE, threshold:FILE, "
        "quantize:FORMAT, quantize:FILE, or module:callable",
    )


def has_bounds(name: str) -> bool:
    """Return whether p1 and the mode play a role in a redistribution, by its name."""
    known = REDISTRIBUTIONS.get(name.partition(":")[0])
    return known is not None and known[0].is_bounded


def has_selection(name: str) -> bool:
    """Return whether c or a fraction selects the values of a redistribution, by its name.

    True for ``module:callable``, of which nothing is known.
    """
    return not name.startswith(("threshold:", "quantize:"))


def names_callable(name: str) -> bool:
    """Return whether a redistribution is ``module:callable``, code to import."""
    word, _, rest = name.partition(":")
    return bool(word and rest) and word not in _RESERVED


def _cutoff(name: str, text: str, given: dict[str, Any]) -> ARM:
    try:
        largest = float(text)
    except ValueError:
        return ByPlace(**given, table=read_thresholds(text, name))
    if not (math.isfinite(largest) and largest >= 0):
        raise RequestError(f"redistribution '{name}': {text} is no magnitude", "such as 0.01")
    return Cutoff(**given, largest=largest)


def _quantized(name: str, text: str, given: dict[str, Any]) -> ARM:
    is_file = "." in text or "/" in text or Path(text).is_file()
    if text not in GRANULAR_FORMATS and is_file:
        return ByPlace(**given, table=read_formats(text, name, {NO_FORMAT, *GRANULAR_FORMATS}))
    check_choice(f"redistribution '{name}': the format", text, tuple(GRANULAR_FORMATS))
    return Quantize(**given, format=text)


def _factor(name: str, text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise RequestError(f"redistribution '{name}': '{text}' is not a number", "such as scale:2")
    return factor


def _import(name: str, module: str, attribute: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import sys

    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise RequestError(
            f"redistribution '{name}' cannot be imported: {type(error).__name__}: {error}",
            "the module is searched in the current folder and in installed packages",
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        raise RequestError(f"redistribution '{name}' is not callable")
    return found  # type: ignore[no-any-return]
