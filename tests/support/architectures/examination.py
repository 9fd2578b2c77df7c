"""The checks of one type: what distviz observes and changes, against what the model computes."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import distviz
from distviz.arm.arm import ARM
from distviz.errors import DistvizError
from distviz.hooks import Redistribution, Tracker
from distviz.hooks.attach import attach_hook
from distviz.models.architectures.mlp import Mlp
from distviz.sites import SITES, HookPoint
from support.architectures.capture import Capture
from support.architectures.inputs import BATCH, call

SEED = ARM(c=1.0, p1=95.0, seed=3)
Values = dict[HookPoint, list[torch.Tensor]]


@dataclass
class Examination:
    """Collects the problems of one model in `wrong`, and facts for the table in `notes`.

    Parameters
    ----------
    model, mlps, inputs
        The examined model, the MLPs that distviz found, and the inputs of a call.
    is_causal
        In a causal language model every point must fire when it reads text, and a change of an
        activation must change the output. Other models may have parts that their input does not
        reach: these are noted as silent.
    """

    model: nn.Module
    mlps: list[Mlp]
    inputs: dict[str, Any]
    is_causal: bool
    wrong: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        with Capture(self.model) as self.capture:
            self.plain = call(self.model, self.inputs)
        self.seen = self.observe()
        self.taken: dict[Mlp, list[int]] = {}
        for mlp in self.mlps:
            self.check_activation(mlp)
            self.check_product(mlp)
        self.check_readers()
        used = {number for numbers in self.taken.values() for number in numbers}
        self.notes["elsewhere"] = self.capture.elsewhere(used)
        self.check_watch()
        # Activations of audio decoders may be all zero: then ARM moves nothing.
        vary = [mlp for mlp in self.taken if self.at(mlp, "act")[0].unique().numel() > 1]
        if not vary:
            self.wrong.append("no activation varies")
        first = next(iter(vary), None)
        dense = next((mlp for mlp in vary if not mlp.routed), None)
        for mlp in dict.fromkeys(one for one in (first, dense) if one is not None):
            self.check_arm(mlp)

    def observe(self) -> Values:
        """Return the raw values at every point; observing must not change the output."""
        points = list(dict.fromkeys(point for mlp in self.mlps for point in mlp.points))
        with ExitStack() as stack:
            seen = _keep(self.model, points, stack)
            output = call(self.model, self.inputs)
        if not torch.equal(output, self.plain):
            self.wrong.append("observing changes the output")
        rows = {point: sum(map(len, values)) for point, values in seen.items()}
        silent = [p for p in points if not rows.get(p) and p.experts is None]
        names = dict.fromkeys(f"{p.site} of {re.sub(r'[.][0-9]+', '.N', p.module)}" for p in silent)
        if self.is_causal:
            self.wrong += [f"{name} never fired" for name in names]
        elif names:
            self.notes["silent"] = list(names)
            self.mlps = [mlp for mlp in self.mlps if _point(mlp, "act") not in silent]
        return seen

    # Values -----------------------------------------------------------------------------------

    def at(self, mlp: Mlp, site: str) -> list[torch.Tensor]:
        point = _point(mlp, site)
        return self.seen.get(point, []) if point else []

    def check_activation(self, mlp: Mlp) -> None:
        """Check that each activation was computed by the model, from the gate."""
        used = {number for numbers in self.taken.values() for number in numbers}
        acts, gates = self.at(mlp, "act"), self.at(mlp, "gate")
        if len(acts) != len(gates):
            self.wrong.append(f"{mlp.path}: {len(gates)} gates, {len(acts)} activations")
        numbers = []
        for act, gate in zip(acts, gates, strict=False):
            number = self.capture.find(act, used)
            if number is None:
                self.wrong.append(f"{mlp.path}: an activation that the model did not compute")
                return
            used.add(number)
            numbers.append(number)
            op = self.capture.ops[number]
            # If an activation takes several operations, its gate is the input of the first.
            if op.is_activation and not _equal(op.inputs[0], gate):
                self.wrong.append(f"{mlp.path}: the input of the activation is not its gate")
        if numbers:
            self.taken[mlp] = numbers

    def check_product(self, mlp: Mlp) -> None:
        """Check that the product contains the activation and enters the down projection."""
        acts, products = self.at(mlp, "act"), self.at(mlp, "product")
        if len(products) != len(acts):
            self.wrong.append(f"{mlp.path}: {len(acts)} activations, {len(products)} products")
        for act, product in zip(acts, products, strict=False):
            if _has_norm(self.model, mlp):
                self.notes["norm"] = True
            elif not mlp.gated and not _equal(act, product):
                self.wrong.append(f"{mlp.path}: not gated, but another value enters down")
            elif mlp.gated and not any(_equal(act, x) for x in self.capture.factors(product)):
                self.wrong.append(f"{mlp.path}: the product does not contain the activation")
            # Inkling weights its shared experts before the down projection.
            weighted = (op.output for op in self.capture.multiplied(product))
            if not self.enters_down(mlp, product) and not any(
                self.enters_down(mlp, value) for value in weighted
            ):
                self.wrong.append(f"{mlp.path}: the product does not enter the down projection")

    def check_readers(self) -> None:
        """Check that what enters attention and MLP enters each of their first projections."""
        for point, values in self.seen.items():
            if point.site not in ("attn_in", "mlp_in") or point.experts is not None:
                continue
            for path in (point.module, *point.also):
                storages = (
                    one.untyped_storage().data_ptr()
                    for one in self.model.get_submodule(path).parameters()
                )
                entered = [x for one in storages for x in self.capture.entering.get(one, [])]
                if entered and not any(_equal(x, value) for x in entered for value in values):
                    self.wrong.append(f"{point.site}: another value enters {path}")

    def enters_down(self, mlp: Mlp, product: torch.Tensor) -> bool:
        """Return whether `product` was the input of a linear layer of this MLP."""
        point = _point(mlp, "product")
        paths = [mlp.path.split(".*")[0]]
        if point is not None and "*" not in point.module:
            paths.append(point.module)
        for path in paths:
            for parameter in self.model.get_submodule(path).parameters():
                storage = parameter.untyped_storage().data_ptr()
                entered = self.capture.entering.get(storage, [])
                if any(_equal(one, product) for one in entered):
                    return True
                # Experts that split their rows before the down projection.
                if entered and _equal(torch.cat([x.reshape(-1) for x in entered]), product):
                    return True
        return False

    # The public functions ------------------------------------------------------------------

    def check_watch(self) -> None:
        """Check that `watch` matches all rows, counts all values, finds the same maximum."""
        points = {point for mlp in self.mlps for point in mlp.points}
        # Requesting a silent site is an error, by design.
        mute = {point.site for point in points - set(self.seen) if point.experts is None}
        sites = [site for site in SITES if site in {p.site for p in points} - mute]
        layers: Any = "all"
        if "silent" in self.notes:
            layers = {
                mlp.stack: {m.layer for m in self.mlps if m.stack == mlp.stack} for mlp in self.mlps
            }
        try:
            with distviz.watch(self.model, layers, sites) as watched:
                output = call(self.model, self.inputs)
        except DistvizError as error:
            self.wrong.append(f"watch: {error}")
            return
        if not torch.equal(output, self.plain):
            self.wrong.append("watching changes the output")
        columns = ("layer", "stack", "site", "module")
        by_place = {tuple(getattr(p, name) for name in columns): p for p in self.seen}
        stats = watched.stats().to_dict("records")
        if len(stats) < len({place for place, p in by_place.items() if p.experts is None}):
            self.wrong.append("watch: a point has no row")
        for row in stats:
            point = by_place[tuple(row[name] for name in columns)]
            values = torch.cat([value.reshape(-1) for value in self.seen[point]])
            is_all = row["count"] + row["nan"] + row["inf"] == values.numel()
            # Experts may compute rows that belong to no token: these are not counted.
            if not is_all and point.experts is None:
                self.wrong.append(f"watch: {row['site']} of {row['module']}: {row['count']} values")
            elif is_all and values.numel() and row["max"] != float(values.max()):
                self.wrong.append(f"watch: {row['site']} of {row['module']}: another maximum")

    def check_arm(self, mlp: Mlp) -> None:
        """Check that ARM changes this activation and the product, but nothing before it."""
        act, gate, product = (_point(mlp, site) for site in ("act", "gate", "product"))
        assert act is not None
        assert gate is not None
        points = [point for point in (gate, act, product) if point is not None]
        work = Redistribution(SEED, [act], Tracker())
        try:
            with ExitStack() as stack:
                seen = _keep(self.model, points, stack)
                stack.enter_context(work.active(self.model))
                capture = stack.enter_context(Capture(self.model))
                found = call(self.model, self.inputs)
        except DistvizError as error:
            self.wrong.append(f"ARM on {mlp.path}: {error}")
            return
        if not torch.equal(call(self.model, self.inputs), self.plain):
            self.wrong.append(f"ARM on {mlp.path} remains active")
        acts, gates = _last(seen[act], self.seen[act]), _last(seen[gate], self.seen[gate])
        if not _alike(gates, self.seen[gate], any_order=mlp.routed):
            self.wrong.append(f"ARM on {mlp.path} changes its gate")
        if _alike(acts, self.seen[act], any_order=mlp.routed):
            self.wrong.append(f"ARM on {mlp.path} does not change the activation")
        if self.is_causal and torch.equal(found, self.plain):
            self.wrong.append(f"ARM on {mlp.path} does not change the output")
        for one, other in zip(acts, seen.get(product, [])[-len(acts) :], strict=False):
            factors = capture.factors(other) if mlp.gated else [other]
            if not _has_norm(self.model, mlp) and not any(_equal(one, x) for x in factors):
                self.wrong.append(f"ARM on {mlp.path}: the down projection has another input")
        if not mlp.routed:
            self.check_by_hand(mlp, found)

    def check_by_hand(self, mlp: Mlp, found: torch.Tensor) -> None:
        """Check that the output equals bit for bit that of a model with ARM in its own code."""

        def changed(x: torch.Tensor) -> torch.Tensor:
            batch = x.reshape(BATCH, -1, x.shape[-1])
            return SEED.trace(batch, layer=mlp.layer)[0].reshape(x.shape)

        with Capture(self.model, replace=dict.fromkeys(self.taken[mlp], changed)):
            expected = call(self.model, self.inputs)
        if not torch.equal(found, expected):
            self.wrong.append(f"ARM on {mlp.path} differs from ARM by hand")


def _keep(model: nn.Module, points: list[HookPoint], stack: ExitStack) -> Values:
    seen: Values = {}

    def keep(point: HookPoint, value: torch.Tensor) -> None:
        seen.setdefault(point, []).append(value.detach().clone())

    attach_hook(model, points, keep, stack)
    return seen


def _last(seen: list[torch.Tensor], plain: list[torch.Tensor]) -> list[torch.Tensor]:
    """Drop the rows of experts that ran ahead: keep as many as without ARM."""
    rows, kept = sum(map(len, plain)), []
    for value in reversed(seen):
        if rows > 0:
            kept.insert(0, value)
            rows -= len(value)
    return kept


def _alike(one: list[torch.Tensor], other: list[torch.Tensor], *, any_order: bool) -> bool:
    """Return whether the values are equal; for a module called several times, in its first call.

    With ARM, experts compute all rows at once: in another order, with other rounding of sums.
    """
    if not any_order:
        return _equal(one[0], other[0])
    left, right = (torch.cat([x.reshape(-1) for x in xs]).sort().values for xs in (one, other))
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-5, atol=1e-7)


def _point(mlp: Mlp, site: str) -> HookPoint | None:
    return next((point for point in mlp.points if point.site == site), None)


def _has_norm(model: nn.Module, mlp: Mlp) -> bool:
    """Return whether the MLP has a norm before its down projection (BitNet)."""
    if "*" in mlp.path:
        return False
    names = [name for name, _ in model.get_submodule(mlp.path).named_children()]
    return any("norm" in name for name in names) and not any("att" in name for name in names)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.reshape(-1), other.reshape(-1))
