"""Runs and comparisons whose raw values are known."""

from __future__ import annotations

import pytest
from support.synthetic_runs import Synthetic, silu_run


@pytest.fixture(scope="module")
def synthetic() -> Synthetic:
    return silu_run()
