"""The ``[layer]`` table: values that build no layer are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from distviz.errors import RequestError
from distviz.settings import (
    LayerSettings,
)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"layers": 0}, r"layer\.layers is 0"),
        ({"hidden_size": 10, "heads": 3}, r"layer\.hidden_size 10 is not a multiple"),
        ({"heads": 8, "kv_heads": 3, "hidden_size": 64}, r"layer\.heads 8 is not a multiple"),
        ({"input": "text"}, r"layer\.input is 'text'"),
        ({"scale": 0.0}, r"layer\.scale is 0"),
        ({"scale": float("nan")}, r"layer\.scale is nan"),
        ({"scale": float("inf")}, r"layer\.scale is inf"),
        ({"tokens": 0}, r"layer\.tokens is 0"),
    ],
    ids=str,
)
def test_layers_that_cannot_be_built(table: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        LayerSettings(**table)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": "1"}, "^layer.layers is '1', expected a whole number"),
        ({"hidden_size": 1.5}, "^layer.hidden_size is 1.5, expected a whole number"),
        ({"scale": "x"}, "^layer.scale is 'x', expected a number"),
        ({"config": 3}, "^layer.config is 3, expected a table"),
        ({"weights_layers": "0"}, "^layer.weights_layers is '0', expected a list of whole"),
    ],
)
def test_settings_of_another_type_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        LayerSettings(**given)
