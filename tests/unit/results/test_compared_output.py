"""The output of two models in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from distviz.results.compared_output import output_line

ROWS = pd.DataFrame(
    {
        "quantity": ["log_variance_ratio", "loss_difference", "kl"],
        "ci_low": [0.5, -0.25, 0.011],
        "ci_high": [0.7, 0.75, 0.013],
    }
)


@pytest.mark.parametrize(
    ("output", "rows", "expected"),
    [
        (None, ROWS, ""),
        (
            {"loss_a": 2.0, "loss_b": 2.25, "kl": 0.012, "top1_agreement": 0.975, "reason": ""},
            ROWS,
            (
                "Output: loss 2.0000 → 2.2500 nats (+0.250 [−0.250, +0.750]); "
                "KL(A‖B) 0.0120 [0.0110, 0.0130]; top-1 agreement 97.5 %."
            ),
        ),
        (
            {"loss_a": 2.0, "loss_b": 2.0, "kl": None, "reason": "a reason"},
            ROWS[:1],
            "Output: loss 2.0000 → 2.0000 nats (0); no KL divergence and agreement: a reason.",
        ),
        (
            {"loss_a": None, "loss_b": 1.5, "kl": None, "reason": "why"},
            pd.DataFrame(),
            "Output: loss of B 1.5000 nats; no KL divergence and agreement: why.",
        ),
    ],
)  # fmt: skip
def test_the_output_in_words(output: Any, rows: pd.DataFrame, expected: str) -> None:
    comparison: Any = SimpleNamespace(manifest={"output": output}, inference=rows)
    assert output_line(comparison) == expected
