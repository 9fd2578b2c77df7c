"""Runs and comparisons whose raw values are known."""

from __future__ import annotations

import pytest
from support.synthetic_runs import Synthetic, silu_run

from distviz.results import WhatIf
from distviz.studies.whatif import evaluate_whatif, parse_whatif


@pytest.fixture(scope="module")
def synthetic() -> Synthetic:
    return silu_run()


@pytest.fixture(scope="module")
def asked(synthetic: Synthetic) -> WhatIf:
    questions = parse_whatif(sparsity="25,50,90", thresholds="0.05,1", percentile=99)
    return evaluate_whatif(synthetic.run, questions, "mine")
