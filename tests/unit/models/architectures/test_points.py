"""Patterns on modules of a model without transformer layers."""

from __future__ import annotations

import pytest
from support.own_modules import NETS

from distviz.errors import RequestError
from distviz.models.architectures.points import find_points


def test_patterns_need_no_layers() -> None:
    net = NETS["lenet"].made()
    points = find_points((), net, ["module:conv*", "module:fc1"])
    assert [(p.layer, p.stack, p.module, p.channel_dim) for p in points] == [
        (-1, "model", "conv1", None), (-1, "model", "conv2", None), (-1, "model", "fc1", -1),
    ]  # fmt: skip


def test_a_pattern_without_a_match_names_what_there_is() -> None:
    with pytest.raises(RequestError, match="module:features matches no module") as failure:
        find_points((), NETS["lenet"].made(), ["module:features"])
    assert "whole paths such as conv1" in str(failure.value.hint)
