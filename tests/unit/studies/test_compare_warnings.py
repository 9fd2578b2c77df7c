"""How two compared runs differ, in words."""

from __future__ import annotations

from typing import Any

import pytest
from support.synthetic_comparisons import Made

from distviz.results.run import Run
from distviz.studies import comparison as comparing


def test_settings_that_differ_are_named(first: Made) -> None:
    runs = [
        Run(first.run.manifest | {"settings": {"max_length": n}}, first.run.sketches,
            first.run.documents, first.run.channels)
        for n in (64, 512)
    ]  # fmt: skip
    found = comparing.compare_runs(*runs).manifest["warnings"]
    assert found == ["the sides differ in max_length: 64 and 512"]


@pytest.mark.parametrize(
    ("text", "classes", "same"),
    [
        ({}, {}, True),
        ({"tokens": 61}, {}, False),
        ({}, {"token_classes": {"digits": 21, "other": 39}}, False),
        ({"counted": 50}, {"token_classes": {"digits": 10, "other": 40}}, True),
    ],
)
def test_other_tokens_of_one_text_are_said(
    first: Made, text: dict[str, Any], classes: dict[str, Any], same: bool
) -> None:
    manifest = first.run.manifest | classes
    manifest["text"] = manifest["text"] | text
    run = first.run
    other = Run(manifest, run.sketches, run.documents, run.channels)
    found = comparing.compare_runs(run, other).manifest
    assert found["same_tokenizer"] is same
    assert ("the two sides tokenize the text differently" in found["warnings"]) is not same
