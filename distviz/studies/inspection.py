"""The study of `distviz inspect`: the layers of a model and their points, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distviz.errors import RequestError
from distviz.models import describe, has_rope, quiet
from distviz.models.architectures import Mlp, count_layers, find_mlps, point_width
from distviz.output import counted
from distviz.settings import build_settings
from distviz.sites import HookPoint, LayerOrder


@dataclass(frozen=True)
class Inspection:
    """One layer of a model, compared with the others.

    Attributes
    ----------
    details
        Of the model, as ``run.json`` records them.
    layer
        The index of the layer.
    mlps
        The MLPs of that layer.
    widths
        Channels of each of its points, where known.
    stacks
        Number of layers of each stack.
    alike
        Layers of the same stack with the same MLP and points.
    points
        Every point of every layer.
    has_rope
        Whether queries and keys are rotated by position.
    order
        Norms, scales and additions of the layer; None where they could not be traced.
    """

    details: dict[str, Any]
    layer: int
    mlps: list[Mlp]
    widths: dict[HookPoint, int]
    stacks: dict[str, int]
    alike: list[int]
    points: list[HookPoint]
    has_rope: bool
    order: LayerOrder | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "schema_version": 1,
            "kind": "inspection",
            "model": self.details,
            "stacks": self.stacks,
            "order": None if self.order is None else self.order.as_dict(),
            "points": [
                {
                    "layer": point.layer,
                    "stack": point.stack,
                    "site": point.site,
                    "module": point.module,
                    "takes": point.takes,
                    "part": None if point.part is None else list(point.part),
                }
                for point in self.points
            ],
        }


def inspect(
    source: str | None,
    layer: int = 0,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Inspection:
    """Return what can be observed, from the configuration alone.

    Raises
    ------
    RequestError
        If the model cannot be described, or has no such layer.
    """
    from distviz.models.architectures import trace_order  # imports torch

    settings = build_settings({"trust_remote_code": trust_remote_code or None}, None, source)
    model, details = describe(
        settings.model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        layer=settings.layer,
    )
    mlps = find_mlps(model)
    stacks = count_layers(mlps)
    chosen = [mlp for mlp in mlps if mlp.layer == layer]
    if not chosen:
        raise RequestError(
            f"--layer {layer}: there is no such layer with an MLP",
            f"this model has {counted(max(stacks.values()), 'layer')}, 0 is the first",
        )
    first = chosen[0]
    alike = [mlp.layer for mlp in mlps if mlp.stack == first.stack and _shape(mlp) == _shape(first)]
    with quiet():
        order = trace_order(model, first)
    return Inspection(
        details=details,
        layer=layer,
        mlps=chosen,
        widths=_widths(model, chosen),
        stacks=stacks,
        alike=sorted(set(alike)),
        points=list(dict.fromkeys(point for mlp in mlps for point in mlp.points)),
        has_rope=has_rope(model.config),
        order=order,
    )


def _shape(mlp: Mlp) -> tuple[Any, ...]:
    return (mlp.activation, mlp.gated, mlp.routed, tuple(point.site for point in mlp.points))


def _widths(model: Any, mlps: list[Mlp]) -> dict[HookPoint, int]:
    """Return the channels of each point, from its projection or from a related point."""
    found: dict[HookPoint, int] = {}
    for mlp in mlps:
        for point in mlp.points:
            if width := point_width(model, point):
                found[point] = width
        product = next((p for p in mlp.points if p.site == "product"), None)
        if product in found:
            found |= {p: found[product] for p in mlp.points if p.site in ("act", "gate")}
        down = next((p for p in mlp.points if p.site == "down"), None)
        if down in found:
            found |= {p: found[down] for p in mlp.points if p.site == "residual"}
    return found
