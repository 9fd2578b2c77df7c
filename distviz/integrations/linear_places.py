"""The values of a run that enter linear layers, with their channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.output import first_of, listed
from distviz.results import Run
from distviz.sites import LINEAR, SiteKey, optional_sites

_COLUMNS = {*SiteKey._fields, "channel", "count", "mean", "std", "absmax"}


@dataclass(frozen=True)
class LinearPlace:
    """A place whose values enter linear layers.

    Attributes
    ----------
    key
        The place, in phase ``before``.
    modules
        Paths of the linear layers.
    count
        Tokens.
    squares
        Sum of x^2 of each channel, float64 (channels,).
    absmax
        Largest abs(x) of each channel, float64 (channels,).
    """

    key: SiteKey
    modules: tuple[str, ...]
    count: int
    squares: NDArray[np.float64]
    absmax: NDArray[np.float64]


def linear_places(run: Run, tool: str) -> list[LinearPlace]:
    """Return the places of a run whose values enter linear layers, in the order of the run.

    Raises
    ------
    RequestError
        If the run lacks a site, the channels, or the names of the linear layers that ``tool``
        needs, or values are not finite; the message says how to measure them.
    """
    need_sites(run, tool)
    known = run.manifest.get("linear_inputs")
    if not known:
        raise RequestError(
            "run.json does not name the linear layers that read the values",
            "measure again with --sites linear",
        )
    if not set(run.channels) >= _COLUMNS:
        raise RequestError("channels.parquet lacks columns that the export needs", "measure again")
    found = [*_places(run, known)]
    if not found:
        raise RequestError(f"no values of the run enter a linear layer, nothing for {tool}")
    return found


def left_out(run: Run) -> list[str]:
    """Return a warning that names the linear layers that no place of a run enters."""
    names = run.manifest.get("linear_left_out") or []
    return [f"no site is the input of {first_of(names)}: left out"] if names else []


def need_sites(run: Run, tool: str) -> None:
    """Raise a RequestError that names the sites that a tool needs and the run lacks."""
    there = {key.site for key in run.keys if key.phase == "before"}
    missing = [site for site in LINEAR if site not in there]
    if missing and not _has_all(run):
        raise RequestError(
            f"{tool} needs {listed('site', ', '.join(missing))}, which the run does not have",
            "measure again with --sites linear",
        )


def _has_all(run: Run) -> bool:
    """Return whether every site that the model has was asked for."""
    settings = run.manifest.get("settings") or {}
    return bool(optional_sites(str(settings.get("sites", ""))))


def _places(run: Run, known: dict[str, dict[str, list[str]]]) -> Iterator[LinearPlace]:
    rows = run.channels[run.channels["phase"] == "before"]
    by_place = dict(list(rows.groupby(["stack", "layer", "site", "module"], sort=False)))
    for key in run.keys:
        modules = known.get(key.site, {}).get(key.module)
        if key.phase != "before" or not modules:
            continue
        own = by_place.get((key.stack, key.layer, key.site, key.module))
        if own is None:
            raise RequestError(f"channels.parquet lacks {key.module}", "measure again")
        own = own.sort_values("channel")
        count = own["count"].to_numpy()
        mean, std, absmax = (own[name].to_numpy(np.float64) for name in ("mean", "std", "absmax"))
        squares = count * (mean**2 + std**2)
        if (count != count[0]).any() or not np.isfinite(squares).all():
            raise RequestError(
                f"{key.module} has values that are not finite, which no tool can use",
                "measure a part of the text, or in float32",
            )
        yield LinearPlace(key, tuple(modules), int(count[0]), squares, absmax)
