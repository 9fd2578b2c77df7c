"""Routed experts: every row gets its token, expert and slot, whatever order the rows come in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.brute_force import hook_count, plain_arm
from support.tiny_experts import (
    FAMILIES,
    IMPLEMENTATIONS,
    Told,
    activation_of,
    call,
    tiny_experts,
)
from support.tiny_gguf import load_packed, tiny_hybrid, write_hybrid_gguf
from torch import nn

import distviz
from distviz import hooks
from distviz.arm.arm import ARM
from distviz.errors import MeasurementError
from distviz.models.architectures.mlp import find_mlps
from distviz.models.architectures.points import find_points
from distviz.models.open import open_model

if TYPE_CHECKING:
    from distviz.hooks.tokens import Tokens
    from distviz.sites import HookPoint

CASES = [
    (name, implementation)
    for name, family in FAMILIES.items()
    for implementation in (IMPLEMENTATIONS if family.switchable else ("eager",))
]


def batch(seed: int = 0, rows: int = 3, length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 64, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[1, 4:] = 0
    mask[2, 1:] = 0
    return ids, mask


def routed_points(model: Any, layer: int, sites: list[str]) -> list[HookPoint]:
    mlps = find_mlps(model)
    points = find_points(mlps, model, sites, [layer])
    return [point for point in points if point.experts is not None]


def routing_of(model: Any, points: list[HookPoint]) -> Any:
    """Return how the rows of the only point were routed in one call."""
    watched: list[Any] = []
    with hooks.observe(model, points, lambda _p, _v, t: watched.append(t.routed), hooks.Tracker()):
        call("mixtral", model, *batch())
    (routed,) = watched
    return routed


@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_every_row_is_the_output_of_its_expert_for_its_token(
    name: str, implementation: str
) -> None:
    model = tiny_experts(name, implementation)
    family = FAMILIES[name]
    told = Told(name, model)
    act = activation_of(name, model)
    found: dict[str, tuple[torch.Tensor, Tokens]] = {}
    points = routed_points(model, family.layer, ["gate", "act"])
    points = [point for point in points if point.module == family.act]
    assert {(point.site, point.experts) for point in points} == {
        ("gate", family.experts),
        ("act", family.experts),
    }

    def receive(point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
        assert point.site not in found  # all rows of a call come at once
        found[point.site] = (values.clone(), tokens)

    ids, mask = batch()
    with hooks.observe(model, points, receive, hooks.Tracker()):
        call(name, model, ids, mask)
    assert told.chosen
    experts = model.get_submodule(family.experts)
    for site, (values, tokens) in found.items():
        routed = tokens.routed
        assert routed is not None
        assert (routed.n_tokens, routed.n_experts) == (21, 4)
        real = routed.tokens >= 0
        whose = zip(routed.tokens[real].tolist(), routed.slots[real].tolist(), strict=True)
        assert dict(zip(whose, routed.experts[real].tolist(), strict=True)) == told.chosen
        assert real.sum() == len(told.chosen)
        with torch.no_grad():
            for row in np.flatnonzero(real):
                token, slot = int(routed.tokens[row]), int(routed.slots[row])
                expected = family.gate(
                    experts, int(routed.experts[row]), told.entering(token, slot)
                )
                if site == "act":
                    expected = act(expected)
                torch.testing.assert_close(values[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_documents_hold_their_own_tokens_and_no_padding(name: str, implementation: str) -> None:
    """Each document alone, by hand, token by token; against the padded batch that was watched."""
    model = tiny_experts(name, implementation)
    family = FAMILIES[name]
    ids, mask = batch()
    with distviz.watch(model, layers=[family.layer], sites="act") as watched:
        call(name, model, ids, mask)
    run = watched.run()
    rows = run.documents[run.documents["module"] == family.act]
    told, act = Told(name, model), activation_of(name, model)
    call(name, model, ids, mask)
    experts = model.get_submodule(family.experts)
    for document, row in enumerate(rows.to_dict("records")):
        values = [
            act(family.gate(experts, expert, told.entering(token, slot))).detach().double().numpy()
            for (token, slot), expert in told.chosen.items()
            if token // 7 == document and mask.reshape(-1)[token]
        ]
        together = np.concatenate(values)
        assert row["document"] == document
        assert row["count"] == together.size
        assert row["mean"] == pytest.approx(together.mean(), rel=1e-3, abs=1e-5)
        assert row["std"] == pytest.approx(together.std(), rel=1e-3, abs=1e-5)
        assert row["l1"] == pytest.approx(np.abs(together).sum(), rel=1e-2)


def test_the_order_of_rows_depends_on_the_implementation() -> None:
    """If it did not, the tests above would prove little."""
    orders = []
    for implementation in IMPLEMENTATIONS:
        model = tiny_experts("mixtral", implementation)
        points = routed_points(model, 1, ["act"])
        routed = routing_of(model, points)
        orders.append(list(zip(routed.tokens, routed.slots, strict=True)))
    assert len({tuple(order) for order in orders}) == 3


def test_the_implementation_is_restored() -> None:
    model = tiny_experts("mixtral", "eager")
    before = hook_count(model)
    with distviz.redistribute(model, layers=[0, 1]):
        assert model.config._experts_implementation == "grouped_mm"
        call("mixtral", model, *batch())
    assert model.config._experts_implementation == "eager"
    assert hook_count(model) == before
    with pytest.raises(ZeroDivisionError), distviz.redistribute(model):
        raise ZeroDivisionError
    assert model.config._experts_implementation == "eager"


def test_rows_that_contradict_the_routing_are_an_error() -> None:
    model = tiny_experts("mixtral")
    experts = model.get_submodule(FAMILIES["mixtral"].experts)
    plain = experts.forward

    def meddled(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return plain(hidden[:-1], index[:-1], weights[:-1])

    experts.forward = meddled
    with (
        pytest.raises(MeasurementError, match=r"experts.act_fn \(site act\) has 40 rows where 42"),
        distviz.watch(model, layers=[1]),
    ):
        call("mixtral", model, *batch())


def test_experts_that_keep_the_blocks_of_a_gguf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_hybrid_gguf(tiny_hybrid("qwen3_5_moe_text"), tmp_path / "tiny.gguf")
    plain = open_model(str(path), needs_tokenizer=False).model
    packed = load_packed(path, monkeypatch)
    experts = packed.model.layers[0].mlp.experts
    assert type(experts).__name__ == "GgufExperts"
    assert experts.gate_up_proj.dtype == torch.uint8
    ids = torch.randint(2, 32, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    found, changed = [], []
    for model in (plain, packed):
        with torch.no_grad(), distviz.watch(model, sites="gate,act,product") as watched:
            model(ids, attention_mask=mask)
        found.append(watched.run())
        with torch.no_grad(), distviz.redistribute(model, ARM(fraction=1.0), "all"):
            changed.append(model(ids, attention_mask=mask).logits[mask.bool()])
    columns = ["layer", "site", "module", "document", "expert", "count", "tokens", "mean", "std"]
    for tables in zip(*((run.stats(), run.experts, run.documents) for run in found), strict=True):
        kept = [name for name in columns if name in tables[0]]
        assert len(tables[0])
        pd.testing.assert_frame_equal(*(table[kept] for table in tables), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*changed, rtol=1e-3, atol=1e-4)


def test_experts_that_are_never_reached_are_an_error() -> None:
    model = tiny_experts("mixtral", "eager")
    experts = model.get_submodule(FAMILIES["mixtral"].experts)
    plain = experts.forward

    def meddled(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        kept = (index == index.min()).any(dim=1)
        return plain(hidden[kept], index[kept][:, :1] * 0 + index.min(), weights[kept][:, :1])

    experts.forward = meddled
    with pytest.raises(MeasurementError, match="experts"), distviz.watch(model, layers=[1]):
        call("mixtral", model, *batch())


def test_a_slot_without_an_expert_belongs_to_no_token() -> None:
    """Under expert parallelism an index past the last expert marks what another process does."""
    for implementation in IMPLEMENTATIONS:
        model = tiny_experts("mixtral", implementation)
        experts = model.get_submodule(FAMILIES["mixtral"].experts)
        experts._is_expert_parallel = True
        experts.register_forward_pre_hook(
            lambda _m, args: (args[0], torch.where(args[1] == 2, 4, args[1]), args[2])
        )
        told = Told("mixtral", model)
        routed = routing_of(model, routed_points(model, 1, ["act"]))
        assert 4 not in told.chosen.values()
        real = routed.tokens >= 0
        assert set(routed.experts[real].tolist()) <= {0, 1, 3}
        whose = zip(routed.tokens[real].tolist(), routed.slots[real].tolist(), strict=True)
        assert set(whose) == set(told.chosen)
        with distviz.watch(model, layers=[1]) as watched:
            call("mixtral", model, *batch())
        valid = batch()[1].reshape(-1)
        expected = sum(int(valid[token]) for token, _ in told.chosen) * 24
        assert int(watched.stats()["count"].iloc[0]) == expected


# Experts in a plain list, as in code that comes with a checkpoint ------------------------------


class _Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(16, 12), nn.Linear(16, 12)
        self.down_proj = nn.Linear(12, 16)
        self.act_fn = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class _Gate(nn.Module):
    """Tells the chosen experts and their weights, as DeepSeek's own code does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 16))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = (x.reshape(-1, 16) @ self.weight.T).softmax(dim=-1)
        weights, index = scores.topk(2, dim=-1)
        return index, weights


class _Block(nn.Module):
    """Sorts tokens by expert (DeepSeek), or asks every expert in turn (the first Mixtral)."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.gate = _Gate() if style == "sorted" else nn.Linear(16, 4, bias=False)
        self.experts = nn.ModuleList([_Expert() for _ in range(4)])
        self.shared_experts = _Expert()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.reshape(-1, 16)
        if self.style == "sorted":
            index, weights = self.gate(hidden)
        else:
            weights, index = self.gate(flat).softmax(dim=-1).topk(2, dim=-1)
        total = torch.zeros_like(flat)
        order = index.reshape(-1).argsort(stable=True)
        for number, expert in enumerate(self.experts):
            mine = order[index.reshape(-1)[order] == number]
            if self.style == "sorted" and not mine.numel():
                continue
            given = flat[mine // 2] if self.style == "sorted" else flat[None, mine // 2][0]
            total.index_add_(0, mine // 2, expert(given) * weights.reshape(-1)[mine, None])
        return total.view(hidden.shape) + self.shared_experts(hidden)


class _Layer(nn.Module):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.mix = nn.GRU(16, 16, batch_first=True)
        self.mlp = _Block(style)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.mix(hidden)[0]
        return hidden + self.mlp(hidden)


class _Foreign(nn.Module):
    """A model from elsewhere, two layers."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 16)
        self.layers = nn.ModuleList([_Layer(style), _Layer(style)])

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def foreign(style: str) -> _Foreign:
    torch.manual_seed(1)
    model = _Foreign(style).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    return model


@pytest.mark.parametrize("style", ["sorted", "every"])
def test_experts_in_a_list_are_matched_by_their_input(style: str) -> None:
    """Two documents begin alike: their first tokens are the same to the last bit."""
    model = foreign(style)
    ids, mask = batch()
    ids[1, 0] = ids[0, 0]
    (mlp,) = [m for m in find_mlps(model) if m.routed and m.layer == 1]
    assert mlp.path == "layers.1.mlp.experts.*"
    points = [p for p in mlp.points if p.experts is not None]
    assert {p.experts for p in points} == {"layers.1.mlp"}
    assert {(p.site, p.module.rpartition(".")[2]) for p in points} == {
        ("gate", "act_fn"), ("act", "act_fn"), ("up", "up_proj"), ("product", "down_proj"),
        ("down", "down_proj"), ("mlp_in", "gate_proj"),
    }  # fmt: skip
    found: dict[str, Any] = {}
    block = model.layers[1].mlp
    given: list[torch.Tensor] = []
    block.register_forward_pre_hook(lambda _m, args: given.append(args[0].reshape(-1, 16)))

    def receive(point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
        assert point.site not in found
        found[point.site] = (values.clone(), tokens.routed)

    with torch.no_grad(), hooks.observe(model, points, receive, hooks.Tracker()):
        model(ids, mask)
    weight = block.gate.weight
    chosen = (given[0] @ weight.T).topk(2, dim=-1).indices.tolist()
    expected = {(t, s): e for t, pair in enumerate(chosen) for s, e in enumerate(pair)}
    for site, (values, routed) in found.items():
        whose = zip(routed.tokens.tolist(), routed.slots.tolist(), strict=True)
        assert dict(zip(whose, routed.experts.tolist(), strict=True)) == expected
        with torch.no_grad():
            for row, (token, expert) in enumerate(
                zip(routed.tokens.tolist(), routed.experts.tolist(), strict=True)
            ):
                own, x = block.experts[expert], given[0][token]
                act = torch.nn.functional.silu(own.gate_proj(x))
                by_hand = {
                    "gate": own.gate_proj(x), "act": act, "up": own.up_proj(x),
                    "product": act * own.up_proj(x), "down": own(x), "mlp_in": x,
                }  # fmt: skip
                torch.testing.assert_close(values[row], by_hand[site], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("style", ["sorted", "every"])
def test_arm_on_experts_in_a_list(style: str) -> None:
    model = foreign(style)
    ids, mask = batch()
    points = [p for p in find_points(find_mlps(model), model, ["act"], [1]) if p.experts]
    arm = ARM(seed=4)
    plain: dict[tuple[int, int], torch.Tensor] = {}
    changed: dict[tuple[int, int], torch.Tensor] = {}

    def into(rows: dict[tuple[int, int], torch.Tensor]) -> Any:
        def receive(_point: HookPoint, values: torch.Tensor, tokens: Tokens) -> None:
            routed = tokens.routed
            assert routed is not None
            whose = zip(routed.tokens.tolist(), routed.slots.tolist(), strict=True)
            rows.update(zip(whose, values.clone(), strict=True))

        return receive

    with torch.no_grad(), hooks.observe(model, points, into(plain), hooks.Tracker()):
        untouched = model(ids, mask)
    work = hooks.Redistribution(arm, points, hooks.Tracker())
    with (
        torch.no_grad(),
        work.active(model),
        hooks.observe(model, points, into(changed), hooks.Tracker()),
    ):
        found = model(ids, mask)
    for row in range(3):
        owners = sorted(o for o in plain if o[0] // 7 == row and mask.reshape(-1)[o[0]])
        expected, _, _ = plain_arm(
            torch.stack([plain[o] for o in owners]),
            [(row, token % 7) for token, _ in owners],
            slots=[slot for _, slot in owners],
            layer=1,
            seed=4,
        )
        for owner, by_hand in zip(owners, expected, strict=True):
            assert torch.equal(changed[owner], by_hand)
    assert not torch.equal(found[0], untouched[0])
    with torch.no_grad():
        assert torch.equal(model(ids, mask), untouched)


def test_experts_with_other_inputs_are_an_error() -> None:
    model = foreign("sorted")
    for expert in model.layers[0].mlp.experts:
        expert.register_forward_pre_hook(lambda _m, args: args[0] * 2, prepend=True)
    with (
        torch.no_grad(),
        pytest.raises(MeasurementError, match=r"the experts of layers\.0\.mlp are not"),
        distviz.watch(model, layers=[0]),
    ):
        model(*batch())
