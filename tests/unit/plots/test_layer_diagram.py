"""The diagram of a layer: brackets where a site is offered, at most 78 columns."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from distviz.plots import layer_lines
from distviz.sites import LayerOrder

SITES = ["q", "k", "v", "attention", "gate", "act", "up", "product", "down", "residual"]


@pytest.mark.parametrize("has_rope", [True, False])
def test_sites_offered_are_in_brackets(has_rope: bool) -> None:
    lines = layer_lines(SITES, "silu", gated=True, has_rope=has_rope)
    text = "\n".join(lines)
    assert all(text.count(f"[{site}]") == 1 for site in SITES)
    assert text.count("RoPE") == 2 * has_rope
    assert max(map(len, lines)) <= 78
    plain = layer_lines(["act"], "silu", gated=True, has_rope=has_rope)
    assert "\n".join(plain).count("[") == 1
    assert [len(line) for line in plain[:-1]] == [len(line) for line in lines[:-1]]


def test_an_mlp_without_gate_has_one_path() -> None:
    text = "\n".join(layer_lines(SITES, "gelu", gated=False))
    assert "(×)" not in text
    assert "[up]" not in text
    assert " up ─[gate]─ gelu ─[act]─ ARM " in text


ORDERS: dict[str, dict[str, Any]] = {
    "before": {"before_attention": 0, "before_mlp": 0},
    "heads": {"on_q": 1, "on_k": 1},
    "sandwich": {"after_attention": ("norm",), "after_mlp": ("norm", "× 0.22")},
    "inner": {"before_output": 1, "before_down": 1},
    "post": {"stream_after_attention": 1, "stream_after_mlp": 1},
    "parallel": {"is_parallel": True},
    "shared": {"is_parallel": True, "shares_norm": True},
}


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(
    "chosen", [*itertools.combinations(ORDERS, 1), *itertools.combinations(ORDERS, 2)]
)
def test_every_step_of_a_layer_is_drawn_once(chosen: tuple[str, ...], gated: bool) -> None:
    order = LayerOrder(**{name: value for one in chosen for name, value in ORDERS[one].items()})
    sites = SITES if gated else [site for site in SITES if site != "up"]
    lines = layer_lines(sites, "SiLU", gated=gated, order=order)
    text = "\n".join(lines)
    assert all(text.count(f"[{site}]") == 1 for site in sites)
    norms = sum(
        value if isinstance(value, int) else value.count("norm")
        for name, value in dataclasses.asdict(order).items()
        if name not in ("is_parallel", "shares_norm")
    )
    norms -= order.is_parallel * order.stream_after_attention  # nothing stands between them
    same = order.shares_norm and order.before_mlp == 0  # "same norm" needs no number
    assert text.count("norm") == norms + same
    assert text.count("(+)") == 2 - order.is_parallel
    assert text.count("× 0.22") == ("sandwich" in chosen)
    assert max(map(len, lines)) <= 78
