"""What `watch` and `redistribute` refuse before anything is hooked."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
from support.brute_force import hook_count
from torch import nn

import distviz
from distviz.errors import RequestError

NET = nn.Sequential(nn.Linear(4, 4), nn.GELU())
OF_BOTH: list[tuple[dict[str, Any], str]] = [
    ({"model": "gpt2"}, r"model is a str\n.*distviz\.run measures a checkpoint"),
    ({"model": nn.GELU}, r"model is the class GELU\ngive an instance"),
    ({"model": None}, "model is a NoneType\ngive a torch.nn.Module"),
    ({"sites": 3}, "sites is 3\ngive names"),
    ({"sites": ["act", 1]}, r"sites is \['act', 1\]"),
    ({"sites": []}, "sites is empty"),
    ({"sites": "act,mlp"}, "unknown site 'mlp'"),
    ({"sites": "up"}, "site 'up' does not exist in Sequential, which has no layers with MLPs"),
    ({"sites": "module:conv*"}, r"module:conv\* matches no module of Sequential\n.*such as 0;"),
    ({"layers": 1.5}, "layers is 1.5\ngive 'all'"),
    ({"layers": True}, "layers is True"),
    ({"layers": [0, "1"]}, r"layers is \[0, '1'\]"),
    ({"layers": {"model": 0.5}}, "layers is 0.5"),
    ({"layers": {"decoder": 0}}, "no stack 'decoder'\nallowed: model"),
    ({"layers": -1}, "layers '-1' is not a list of layers"),
    ({"channel_dim": "1"}, "channel_dim is '1'\ngive a dimension"),
    ({"channel_dim": {0: 1}}, r"channel_dim is \{0: 1\}"),
    ({"channel_dim": {"0": None}}, "channel_dim is"),
    ({"sites": "module:0", "channel_dim": {"1": 1}}, "'1' matches no observed module\nobserved: 0"),
]


@pytest.mark.parametrize("function", [distviz.watch, distviz.redistribute])
@pytest.mark.parametrize(("given", "message"), OF_BOTH)
def test_other_arguments_are_refused(function: Any, given: dict[str, Any], message: str) -> None:
    refused(function(**{"model": NET} | given), message)


def refused(context: AbstractContextManager[Any], message: str) -> None:
    with pytest.raises(RequestError, match=message), context:
        pass
    assert hook_count(NET) == 0


@pytest.mark.parametrize("c", [0, -0.1, "0.13", float("nan"), None, True])
def test_the_band_is_a_number_above_zero(c: Any) -> None:
    refused(distviz.watch(NET, c=c), "c is .*, it must be a number above 0\npublished: ")


@pytest.mark.parametrize("tokenizer", ["gpt2", 3, object(), nn.GELU])
def test_a_tokenizer_decodes(tokenizer: Any) -> None:
    refused(distviz.watch(NET, tokenizer=tokenizer), "tokenizer is .*\ngive a loaded tokenizer")


def test_a_redistribution_is_an_arm() -> None:
    refused(distviz.redistribute(NET, {"c": 0.1}), "arm is a dict\ngive distviz.ARM")  # type: ignore[arg-type]
    refused(distviz.redistribute(NET, 0.5), "arm is a float")  # type: ignore[arg-type]
