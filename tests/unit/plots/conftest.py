"""Runs and comparisons whose raw values are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.synthetic_comparisons import Made, make
from support.synthetic_runs import Synthetic, silu_run

from distviz.studies import comparison as comparing

if TYPE_CHECKING:
    from distviz.results.comparison import Comparison


@pytest.fixture(scope="module")
def synthetic() -> Synthetic:
    return silu_run()


@pytest.fixture(scope="module")
def first() -> Made:
    return make(1)


@pytest.fixture(scope="module")
def second() -> Made:
    return make(2, scale=1.3, tokens=8)


@pytest.fixture(scope="module")
def comparison(first: Made, second: Made) -> Comparison:
    return comparing.compare_runs(first.run, second.run)


@pytest.fixture(scope="module")
def same(first: Made) -> Comparison:
    return comparing.compare_runs(first.run, first.run)
