"""The judgement of a redistribution by loss and KL divergence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.synthetic_runs import place, run_of

from distviz.results import Run
from distviz.results.output_verdict import output_verdict

VALUES = np.linspace(-1, 1, 9, dtype=np.float32)
PHASES = ("before", "moved_before", "moved_after", "after")


def _run(effect: Any, **settings: Any) -> Run:
    return run_of({place(0, phase): VALUES for phase in PHASES}, effect=effect, settings=settings)


def _effect(after: float | None, kl: float | None, agreement: float | None) -> dict[str, Any]:
    return {"loss_before": 2.0, "loss_after": after, "kl": kl, "top1_agreement": agreement}


@pytest.mark.parametrize(
    ("effect", "is_kept", "said"),
    [
        (_effect(2.0, 0.0, 1.0), True, "KL 0, top-1 agreement 100.0 %"),
        (_effect(2.09, 0.05, 0.5), True, "loss 2.0000 → 2.0900 nats (+0.0900), KL 0.0500"),
        (_effect(1.0, 0.0, 1.0), True, "(−1.0000)"),
        (_effect(2.0, None, None), True, "The output is kept: loss 2.0000 → 2.0000 nats"),
        (_effect(2.11, 0.01, 0.9), False, "; the loss may rise by at most 0.1 nats."),
        (_effect(2.0, 0.051, 0.9), False, "; KL may be at most 0.05."),
        (_effect(2.0, 0.0128, 0.19), True, "KL 0.0128, top-1 agreement 19.0 %."),
        (_effect(4.3, 2.5, 0.4), False, "by at most 0.1 nats and KL may be at most 0.05."),
        (_effect(None, None, None), False, "from 2.0000 nats to NaN"),
        (None, None, "was not measured"),
        ({}, None, "was not measured"),
    ],
)
def test_the_limits(effect: Any, is_kept: bool | None, said: str) -> None:
    found = output_verdict(_run(effect))
    assert found is not None
    assert found.is_kept is is_kept
    assert said in found.text
    assert bool(found.commands) == (is_kept is False)


def test_without_ripple_nothing_is_known() -> None:
    found = output_verdict(_run(_effect(None, None, None), ripple=False))
    assert found is not None
    assert found.is_kept is None


def test_without_redistribution_nothing_is_judged() -> None:
    plain = run_of({place(0, "before"): VALUES}, effect=_effect(9.0, 9.0, 0.0))
    assert output_verdict(plain) is None


def test_the_advice_names_commands_for_this_model() -> None:
    bad = _effect(9.0, 9.0, 0.1)
    found = output_verdict(_run(bad, model="my models/a", text=["b.txt"]))
    assert found is not None
    sweep = "distviz sweep 'my models/a' --text b.txt"
    assert found.commands == ("distviz run 'my models/a' --text b.txt --preset auto", sweep)
    assert str(found).endswith(f'are found by "{found.commands[0]}" or "{sweep}".')
    auto = output_verdict(_run(bad, preset="auto"))
    assert auto is not None
    assert auto.commands == ("distviz sweep",)
