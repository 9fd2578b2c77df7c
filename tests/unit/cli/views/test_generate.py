"""Continuations on the terminal: both sides, their common start, what they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from support.terminal import printed

from distviz.cli.views import generate as views


@dataclass
class _Continuations:
    before: list[str]
    after: list[str]
    same: list[int]
    diversity: dict[str, float | None] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)


MANIFEST = {
    "redistribution": "arm", "arm": "c = 0.13", "settings": {"arm_layers": "0"},
    "model": {"name": "tiny"}, "prompt": "Why?", "prompt_tokens": 3,
}  # fmt: skip


def test_one_sample_and_its_common_start() -> None:
    shares = {"before": 0.5, "after": 0.75}
    found = _Continuations(["abc"], ["abd"], [2], shares, MANIFEST)
    lines = printed(views.summary, found).splitlines()
    assert lines[:2] == ["tiny · ARM: c = 0.13, layer 0", "prompt (3 tokens): Why?"]
    assert any(line.split() == ["abc", "abd"] for line in lines)
    assert "the same for 2 tokens" in lines
    assert "different 2-grams: 50.0% off, 75.0% on" in lines


def test_samples_that_differ_from_the_start_or_after_one_token() -> None:
    shares = {"before": None, "after": None}
    for same, line in ((0, "different from the first token"), (1, "the same for 1 token")):
        found = _Continuations(["abc"], ["xyz"], [same], shares, MANIFEST)
        assert line in printed(views.summary, found).splitlines()


def test_several_samples() -> None:
    shares = {"before": None, "after": None}
    found = _Continuations(["a", "b"], ["a", "c"], [1, 0], shares, MANIFEST)
    assert printed(views.summary, found).splitlines()[-1] == "1 of 2 pairs are the same text"
