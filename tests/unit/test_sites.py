"""Layers and sites as options name them."""

from __future__ import annotations

import pytest

from distviz.errors import RequestError
from distviz.sites import check_layers, join_layers, parse_layers, parse_sites, pattern_of


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", list(range(12))),
        (" None ", []),
        ("3,0", [0, 3]),
        ("0, 8 - 11,3,9", [0, 3, 8, 9, 10, 11]),
    ],
)
def test_layers(text: str, layers: list[int]) -> None:
    assert parse_layers(text, 12) == layers
    assert parse_layers(join_layers(layers), 12) == layers
    check_layers(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a list of layers"),
        ("1,,2", "is not a list of layers"),
        ("-1", "is not a list of layers"),
        ("3-1", "the range 3-1 runs backwards"),
    ],
)
def test_layers_that_cannot_be_read(text: str, message: str) -> None:
    for check in (lambda: parse_layers(text, 12, "--arm-layers"), lambda: check_layers(text)):
        with pytest.raises(RequestError, match=message):
            check()


def test_a_layer_that_the_model_lacks() -> None:
    with pytest.raises(RequestError, match="--layers 0,12: layer 12 does not exist"):
        parse_layers("0,12", 12)


def test_sites_are_in_their_order_and_patterns_follow() -> None:
    assert parse_sites("down, module:*.x,gate,module:*.x") == ["gate", "down", "module:*.x"]
    for text, message in (
        ("", "--sites is empty"), ("gat", "unknown site 'gat'"), ("module:", "unknown site"),
        ("input:", "unknown site"), ("inputs:*.x", "unknown site"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=message):
            parse_sites(text)


def test_linear_stands_for_what_enters_linear_layers() -> None:
    named = ["mlp_in", "product", "attn_in", "attention"]
    assert sorted(parse_sites("linear,input:*.x")) == sorted([*named, "input:*.x"])
    known = {"act", "input:*.kv_b_proj", "module:*.x"}
    assert sorted(parse_sites("linear", known=known)) == sorted([*named, "input:*.kv_b_proj"])
    places = [pattern_of(site) for site in ("module:*.x", "input:*.x", "input:", "act")]
    assert places == ["*.x", "*.x", "", ""]


def test_sites_of_a_result_are_allowed() -> None:
    known = ["act", "gradient:act", "weight:mlp.up_proj"]
    assert parse_sites("weight:mlp.up_proj,act", known=known) == ["act", "weight:mlp.up_proj"]
    with pytest.raises(RequestError, match="unknown site 'gradient:act'"):
        parse_sites("gradient:act")
    with pytest.raises(RequestError, match="unknown site 'gradient:up'"):
        parse_sites("gradient:up", known=known)
