"""The diagram of a layer: brackets where a site is offered, at most 78 columns."""

from __future__ import annotations

import pytest

from distviz.plots import layer_lines

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
