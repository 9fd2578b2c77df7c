"""Two synthetic runs and their comparison."""

from __future__ import annotations

import pytest
from support.synthetic_comparisons import Made, make

from distviz.results.comparison import Comparison
from distviz.studies.comparison import compare_runs


@pytest.fixture(scope="session")
def first() -> Made:
    return make(1)


@pytest.fixture(scope="session")
def second() -> Made:
    return make(2, scale=1.3)


@pytest.fixture(scope="session")
def comparison(first: Made, second: Made) -> Comparison:
    return compare_runs(first.run, second.run)
