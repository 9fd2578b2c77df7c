"""Two synthetic runs, compared with one another and one with itself."""

from __future__ import annotations

import pytest
from support.synthetic_comparisons import Made, make

from distviz.results.comparison import Comparison
from distviz.studies import comparison as comparing


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
