"""Whether two models can be compared value by value, as far as no weights are needed to know.

Tokens, layers, sites and widths follow from configurations, headers and the text, so a comparison
that is impossible is refused before any weight is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from distviz.errors import RequestError
from distviz.output import counted
from distviz.sites import HookPoint, parse_sites

if TYPE_CHECKING:
    from distviz.data import Corpus
    from distviz.models import LoadedModel
    from distviz.settings import RunSettings
    from distviz.studies.compare_sides import CompareSide

SITES = ("residual", "act", "product", "attention")
"""What is compared unless sites are given."""
_OPTIONS = ("--elementwise", "--local")


class UnalignedError(RequestError):
    """Two models cannot be compared value by value as asked.

    Parameters
    ----------
    message, hint
        As of `RequestError`; the hint says what can still be compared.
    without
        Options without which the same command can be carried out.
    sites
        Sites with which it can, instead; empty for none.
    """

    def __init__(
        self, message: str, hint: str, *, without: Sequence[str] = _OPTIONS, sites: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.without, self.sites = tuple(without), sites


def check_models(sides: Sequence[CompareSide], *, elementwise: bool, local: bool) -> None:
    """Refuse a side that is a saved run or not rippled, several processes, and ``local`` alone.

    Raises
    ------
    RequestError
        For each of them.
    """
    if not elementwise:
        if local:
            raise RequestError("--local has no effect without --elementwise", "add --elementwise")
        return
    for name, side in zip("AB", sides, strict=True):
        if side.run is not None:
            raise UnalignedError(
                f"{name} is a saved run, which has no single values: --elementwise needs the model",
                "give the model's folder; the distributions can be compared without --elementwise",
            )
        if side.settings.arm_layers != "none" and not side.settings.ripple:
            raise UnalignedError(
                f"{name} is set to ripple = false: --elementwise compares what ARM passes on",
                "leave ripple out; the distributions can be compared without --elementwise",
            )


def check_alignment(sides: Sequence[CompareSide], sites: str | None, *, local: bool) -> None:
    """Check two sides whose models were checked; ``sites`` as of `compare_elementwise`.

    Raises
    ------
    UnalignedError
        If their tokens or layers differ, or no site has a counterpart of the same width.
    """
    checked = [side.checked for side in sides if side.checked is not None]
    first, second = (one.empty.opened for one in checked)
    _check_tokens(*(one.corpus for one in checked))
    _check_depths(first, second)
    watched = [
        points_of(one.empty.opened, side.settings, sites)
        for one, side in zip(checked, sides, strict=True)
    ]
    left_out = _left_out(first, second, partners(*watched))
    if all(left_out.values()):
        point, reason = next(iter(left_out.items()))
        raise _nothing(point, reason, _comparable(sides, first, second))
    if local:
        paths = paired_layers(first, second)
        widths = [one.details.get("hidden_size") for one in (first, second)]
        if not paths or widths[0] != widths[1]:
            raise UnalignedError(
                "--local feeds each layer of B with what enters that of A: A has hidden states of "
                f"width {widths[0]}, B of width {widths[1]}"
                if paths
                else "--local needs layers that return their output, which were not found in both "
                "models",
                "leave out --local: the values can be compared without it",
                without=["--local"],
            )


def points_of(opened: LoadedModel, settings: RunSettings, sites: str | None) -> list[HookPoint]:
    """Return the points that are compared; without ``sites``, at those of `SITES` that exist."""
    from dataclasses import replace

    from distviz.measure import choose_points

    chosen = ",".join(parse_sites(sites) if sites is not None else _offered(opened))
    return choose_points(replace(settings, sites=chosen), opened.model, opened.mlps)[0]


def _offered(opened: LoadedModel) -> list[str]:
    offered = {point.site for mlp in opened.mlps for point in mlp.points}
    return [site for site in SITES if site in offered]


def partners(a: Iterable[HookPoint], b: Iterable[HookPoint]) -> dict[HookPoint, HookPoint]:
    """Return the points of B with those of A at the same layer, stack and site.

    Those of one module are partners; the others of a place are, in order.

    Raises
    ------
    UnalignedError
        If there are none.
    """
    by_place: dict[tuple[Any, ...], list[HookPoint]] = {}
    for point in a:
        by_place.setdefault(_place(point), []).append(point)
    found = {}
    points = list(b)
    known = {(*_place(one), one.module) for one in points}
    for point in points:
        there = by_place.get(_place(point), [])
        same = [one for one in there if one.module == point.module]
        free = [one for one in there if (*_place(one), one.module) not in known]
        for partner in (same or free)[:1]:
            there.remove(partner)
            found[point] = partner
    if not found:
        raise UnalignedError(
            "A and B have no layer and site in common",
            "the distributions of other layers and sites can be compared without --elementwise",
        )
    return found


def _place(point: HookPoint) -> tuple[str, int, str]:
    return point.stack, point.layer, point.site


def paired_layers(a: LoadedModel, b: LoadedModel) -> tuple[list[str], list[str]] | None:
    """Return the paths of the layers of two models of one depth; None where they are unknown."""
    found: list[list[str]] = []
    for side in (a, b):
        points = [one for mlp in side.mlps for one in mlp.points if one.site == "residual"]
        found.append(list(dict.fromkeys(point.module for point in points)))
    return (found[0], found[1]) if found[0] and len(found[0]) == len(found[1]) else None


def _check_tokens(a: Corpus, b: Corpus) -> None:
    for one, other in zip_longest(a.windows, b.windows):
        if one is None or other is None or not _is_same(one, other):
            document = (one or other).document
            raise UnalignedError(
                "A and B read different tokens, so their values cannot be aligned: the tokenizers "
                f"or their settings differ (first in document {document})",
                "the distributions, and the loss of each side, can be compared without "
                "--elementwise",
            )


def _is_same(one: Any, other: Any) -> bool:
    """Whether two windows are the same part of the text, with the same input."""
    if (one.document, one.window) != (other.document, other.window):
        return False
    if not np.array_equal(one.ids, other.ids):
        return False
    if one.hidden is None or other.hidden is None:
        return bool(one.hidden is other.hidden)
    return bool(np.array_equal(one.hidden, other.hidden))


def _check_depths(a: LoadedModel, b: LoadedModel) -> None:
    from distviz.models.architectures import count_layers

    depths = [dict(count_layers(one.mlps)) for one in (a, b)]
    if depths[0] != depths[1]:
        shown = [
            " and ".join(f"{counted(n, 'layer')} in its {stack}" for stack, n in one.items())
            for one in depths
        ]
        raise UnalignedError(
            f"A has {shown[0]}, B has {shown[1]}: their layers cannot be aligned",
            "the distributions of layers at the same relative depth, and the output, can be "
            "compared without --elementwise",
        )


def _left_out(
    a: LoadedModel, b: LoadedModel, points: Mapping[HookPoint, HookPoint]
) -> dict[HookPoint, str]:
    """Return why points of A cannot be compared; empty where they can, as far as is known."""
    from distviz.hooks import ROUTED, of_widths

    found = {}
    for other, point in points.items():
        if point.experts is not None or other.experts is not None:
            found[point] = ROUTED
            continue
        own, there = _width(a, point), _width(b, other)
        found[point] = of_widths(own, there) if own and there and own != there else ""
    return found


def _width(opened: LoadedModel, point: HookPoint) -> int | None:
    from distviz.models.architectures import point_width

    if point.site == "residual":
        return opened.details.get("hidden_size")
    if point.site == "act":  # its module has no weights; the product is as wide
        offered = [one for mlp in opened.mlps for one in mlp.points if one.site == "product"]
        place = (point.stack, point.layer)
        point = next((one for one in offered if (one.stack, one.layer) == place), point)
    return point_width(opened.model, point)


def _comparable(sides: Sequence[CompareSide], a: LoadedModel, b: LoadedModel) -> str:
    """Return the sites that both models have with the same width, separated by commas."""
    shared = [site for site in _offered(a) if site in _offered(b)]
    points = [
        points_of(one, side.settings, ",".join(shared))
        for one, side in zip((a, b), sides, strict=True)
        if shared
    ]
    reasons = _left_out(a, b, partners(*points)) if shared else {}
    free = {point.site for point, reason in reasons.items() if not reason}
    return ",".join(site for site in shared if site in free)


def _nothing(point: HookPoint, reason: str, sites: str) -> UnalignedError:
    return UnalignedError(
        f"nothing can be compared value by value: at {point.module}, {reason}",
        f"{sites.replace(',', ', ')} can be compared value by value"
        if sites
        else "the distributions can be compared without --elementwise",
        without=[] if sites else _OPTIONS,
        sites=sites,
    )
