"""ARM behind routed experts: one set a sequence, tokens x slots x channels, however rows come."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.brute_force import plain_arm
from support.tiny_experts import FAMILIES, IMPLEMENTATIONS, call, tiny_experts

import distviz
from distviz import hooks
from distviz.arm.arm import ARM
from distviz.arm.plan import SequenceRows
from distviz.models.architectures.mlp import find_mlps
from distviz.models.architectures.points import find_points
from distviz.stats import kernels

if TYPE_CHECKING:
    from distviz.hooks.tokens import Tokens
    from distviz.sites import HookPoint

CASES = [
    (name, implementation)
    for name, family in FAMILIES.items()
    for implementation in (IMPLEMENTATIONS if family.switchable else ("eager",))
]
LENGTH = 7


def batch(side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 64, (3, LENGTH), generator=torch.Generator().manual_seed(2))
    mask = torch.zeros_like(ids)
    for row, size in enumerate((7, 4, 1)):
        mask[row, slice(None, size) if side == "right" else slice(LENGTH - size, None)] = 1
    return ids, mask


class WatchResult:
    """Rows of one point as they came, and the (token, slot) of each; one entry a forward call."""

    def __init__(self, name: str, model: Any) -> None:
        family = FAMILIES[name]
        points = find_points(find_mlps(model), model, ["act"], [family.layer])
        self.points = [point for point in points if point.module == family.act]
        self.values: list[torch.Tensor] = []
        self.owners: list[list[tuple[int, int]]] = []
        self.watch = hooks.observe(model, self.points, self.receive, hooks.Tracker())

    def receive(self, _point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
        routed = tokens.routed
        assert routed is not None
        self.values.append(values.clone())
        self.owners.append(list(zip(routed.tokens.tolist(), routed.slots.tolist(), strict=True)))

    def rows(self, step: int = 0) -> dict[tuple[int, int], torch.Tensor]:
        return {
            owner: row
            for owner, row in zip(self.owners[step], self.values[step], strict=True)
            if owner[0] >= 0
        }


def expected_rows(
    before: dict[tuple[int, int], torch.Tensor],
    mask: torch.Tensor,
    starts: list[int],
    layer: int,
    arm: ARM,
) -> dict[tuple[int, int], torch.Tensor]:
    """Every sequence's rows, gathered by (token, slot), through the plain reference."""
    length = mask.shape[1]
    expected = dict(before)
    of_sequence: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for token, slot in sorted(before):
        if mask.reshape(-1)[token]:
            of_sequence[token // length].append((token, slot))
    for row, owners in of_sequence.items():
        rank = (mask[row].cumsum(0) - 1 + starts[row]).tolist()
        made, _, _ = plain_arm(
            torch.stack([before[owner] for owner in owners]),
            [(row, rank[token % length]) for token, _ in owners],
            slots=[slot for _, slot in owners],
            layer=layer,
            seed=arm.seed,
            passes=arm.passes,
            mode=arm.mode,
            c=arm.c,
            p1=arm.p1,
            fraction=arm.fraction,
            percentile_of=arm.percentile_of,
        )
        expected |= dict(zip(owners, made, strict=True))
    return expected


def assert_same(
    found: dict[tuple[int, int], torch.Tensor], expected: dict[tuple[int, int], torch.Tensor]
) -> None:
    assert found.keys() == expected.keys()
    for owner, row in expected.items():
        assert torch.equal(found[owner], row), owner


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_redistribute_is_the_reference_over_the_gathered_values(
    name: str, implementation: str, side: str
) -> None:
    model = tiny_experts(name, implementation)
    ids, mask = batch(side)
    arm = ARM(seed=7, p1=97.0)
    layer = FAMILIES[name].layer
    plain, changed = WatchResult(name, model), WatchResult(name, model)
    if FAMILIES[name].switchable and implementation == "eager":
        model.set_experts_implementation("grouped_mm")  # what ARM will run on
    with plain.watch:
        untouched = call(name, model, ids, mask)[0]
    if FAMILIES[name].switchable:
        model.set_experts_implementation(implementation)
    with distviz.redistribute(model, arm, layers=[layer]), changed.watch:
        found = call(name, model, ids, mask)[0]
    expected = expected_rows(plain.rows(), mask, [0, 0, 0], layer, arm)
    assert_same(changed.rows(), expected)
    assert not torch.equal(found, untouched)


@pytest.mark.parametrize(
    ("name", "implementation"), [case for case in CASES if FAMILIES[case[0]].function is None]
)
def test_experts_continue_with_the_output_of_arm(name: str, implementation: str) -> None:
    model = tiny_experts(name, implementation)
    ids, mask = batch()
    changed = WatchResult(name, model)
    # The experts alone: `redistribute` would change the shared experts of the layer as well.
    work = hooks.Redistribution(ARM(seed=3), changed.points, hooks.Tracker())
    with work.active(model), changed.watch:
        found = call(name, model, ids, mask)[0]
    if FAMILIES[name].switchable and implementation == "eager":
        model.set_experts_implementation("grouped_mm")
    whole, place = changed.values[0], 0

    def put(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal place
        begin, place = place, place + output.reshape(-1, output.shape[-1]).shape[0]
        return whole[begin:place].reshape(output.shape)

    for path, module in model.named_modules():
        pattern = FAMILIES[name].act.split("*")
        if path.startswith(pattern[0]) and path.endswith(pattern[-1]):
            module.register_forward_hook(put)
    expected = call(name, model, ids, mask)[0]
    assert place == whole.shape[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "arm",
    [
        ARM(seed=5, passes=2),
        ARM(seed=5, mode="add"),
        ARM(seed=5, fraction=0.5, percentile_of="magnitude"),
        ARM(seed=5, fraction=1.0, p1=100.0),
    ],
    ids=["passes", "add", "magnitude", "all"],
)
@pytest.mark.parametrize("forced", [False, True], ids=["compiled", "torch"])
def test_every_mode_on_either_path(arm: ARM, forced: bool) -> None:
    model = tiny_experts("qwen3_moe")
    ids, mask = batch()
    plain, changed = WatchResult("qwen3_moe", model), WatchResult("qwen3_moe", model)
    with plain.watch:
        call("qwen3_moe", model, ids, mask)
    with distviz.redistribute(model, arm, layers=[1]), changed.watch:
        if forced:
            with kernels.force_torch():
                call("qwen3_moe", model, ids, mask)
        else:
            call("qwen3_moe", model, ids, mask)
    assert_same(changed.rows(), expected_rows(plain.rows(), mask, [0, 0, 0], 1, arm))


def test_ties_go_by_token_then_slot_then_channel() -> None:
    """All values equal: the first k of the gathered order move, whatever the rows' order is."""
    rows = torch.full((6, 4), -1.0)
    owners = [(0, 1), (0, 0), (2, 1), (2, 0), (1, 1), (1, 0)]  # (token, slot) of each row
    order = np.array(sorted(range(6), key=owners.__getitem__))
    sequence = SequenceRows(
        order,
        0,
        np.array([owners[row][0] for row in order]),
        np.array([owners[row][1] for row in order]),
    )
    for forced in (False, True):
        arm = ARM(fraction=0.25)
        if forced:
            with kernels.force_torch():
                _, plans, moved = arm.trace_rows(rows, [sequence])
        else:
            _, plans, moved = arm.trace_rows(rows, [sequence])
        assert moved is not None
        assert plans[0][0] is not None
        assert plans[0][0].k == 6
        expected = torch.zeros(6, 4, dtype=torch.uint8)
        expected[1] = 1  # (0, 0)
        expected[0, :2] = 1  # half of (0, 1)
        assert torch.equal(moved, expected)


def test_implementations_agree() -> None:
    """The same numbers for a token and a slot on batched, grouped and eager experts."""
    arm = ARM(fraction=1.0, p1=100.0, seed=2)
    found = []
    for implementation in IMPLEMENTATIONS:
        model = tiny_experts("mixtral", implementation)
        seen = WatchResult("mixtral", model)
        with distviz.redistribute(model, arm, layers=[1]), seen.watch:
            call("mixtral", model, *batch())
        found.append(seen.rows())
    for other in found[1:]:
        for owner, row in found[0].items():
            torch.testing.assert_close(other[owner], row, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("on", ["both", "prefill", "decode"])
def test_the_steps_of_a_cache(on: str, implementation: str) -> None:
    """Left padding, one token a step: each step is a set of its own, its tokens go on counting."""
    model = tiny_experts("mixtral", "grouped_mm")
    ids = torch.randint(3, 64, (2, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    arm = ARM(seed=9)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    model.set_experts_implementation(implementation)
    changed = WatchResult("mixtral", model)
    raw: list[torch.Tensor] = []
    act = model.get_submodule(FAMILIES["mixtral"].act)
    with distviz.redistribute(model, arm, layers=[1], on=on), changed.watch:
        early = act.register_forward_hook(
            lambda _m, _a, output: raw.append(output.clone()), prepend=True
        )
        model.generate(ids, attention_mask=mask, **options)
        early.remove()
    assert len(changed.values) == len(raw) == 4
    for step, values in enumerate(raw):
        before = dict(zip(changed.owners[step], values, strict=True))
        touched = on == "both" or (on == "decode") == (step > 0)
        now = mask if step == 0 else torch.ones(2, 1, dtype=torch.int64)
        starts = [0, 0] if step == 0 else [5 + step - 1, 3 + step - 1]
        expected = expected_rows(before, now, starts, 1, arm) if touched else before
        assert_same(changed.rows(step), expected)


def test_gradients_flow_through_what_experts_did_not_move() -> None:
    grads = {}
    for arm in (None, ARM(fraction=1.0, p1=100.0)):
        model = tiny_experts("mixtral")
        gate_up = model.get_submodule(FAMILIES["mixtral"].experts).gate_up_proj
        ids, _ = batch()
        if arm is None:
            model(input_ids=ids)[0].sum().backward()
        else:
            with distviz.redistribute(model, arm, layers=[1]):
                model(input_ids=ids)[0].sum().backward()
        grads[arm] = gate_up.grad.chunk(2, dim=1)[0]
    untouched, through_nothing = grads.values()
    assert untouched.abs().sum() > 0
    assert through_nothing.abs().sum() == 0
