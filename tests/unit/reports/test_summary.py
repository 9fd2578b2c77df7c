"""The findings of a run in sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from support.synthetic_runs import EFFECT, place, run_of, silu_run

from distviz.reports.summary import architecture_line, make_part, run_verdict


def test_a_changed_run() -> None:
    text = run_verdict(silu_run().run)
    assert text.startswith("The output changes too much: loss 2.5000 → 2.6250 nats (+0.1250)")
    assert 'or "distviz sweep". In synthetic, ARM (c = 0.13, p1 = 99.5) moved 1,321 values' in text
    assert "In layer 0 (first) the near-zero share went from 5.40 % to 0.24 %" in text
    assert "Of the other layers, layer 1 changed most" in text


def test_an_output_that_is_kept_is_said_last() -> None:
    kept = dict.fromkeys(("loss_before", "loss_after"), 2.5) | {"kl": 0.001, "top1_agreement": 0.99}
    run = silu_run().run
    run.manifest["effect"] = kept
    assert run_verdict(run).endswith(
        "The output is kept: loss 2.5000 → 2.5000 nats (+0.0000), KL 0.00100, "
        "top-1 agreement 99.0 %."
    )


def test_runs_without_a_change() -> None:
    run = run_of({place(0, "before"): np.linspace(-1, 1, 9, dtype=np.float32)})
    assert run_verdict(run) == (
        "synthetic was measured without any change. At act, the near-zero share ranges from 11.1 % "
        "in layer 0 (first) to 11.1 % in layer 0 (first)."
    )
    empty = run_of({place(0, "before"): np.array([np.nan], dtype=np.float32)})
    assert run_verdict(empty) == "synthetic was observed; it had no finite value."


def test_the_frame_of_a_part() -> None:
    run = run_of(
        {place(0, "before"): np.ones(3, np.float32)}, warnings=["careful"], text={},
        model={"name": "m", "architecture": "Arch", "layers": 1},
    )  # fmt: skip
    assert architecture_line(run) == "Arch · 1 layer · bf16"
    part = make_part(run, "title", "verdict", [], "distviz run")
    assert (part.title, part.subtitle, part.warnings) == (
        "title",
        "Arch · 1 layer · bf16",
        ["careful"],
    )
    assert [section.title for section in part.sections] == ["How this was made"]


def test_a_change_behind_the_observed_site_is_judged_and_counted() -> None:
    values = {
        place(layer, phase, "residual"): np.linspace(-1, 1 + layer, 40, dtype=np.float32)
        for layer in range(2)
        for phase in ("before", "after")
    }
    plans = pd.DataFrame({"layer": [0, 0], "k": [3, 4], "n": [50, 50], "pass": [0, 0]})
    stated: dict[str, Any] = {"arm": {"layers": [0], "c": 0.13}, "effect": EFFECT}
    run = replace(run_of(values, **stated), plans=plans)
    assert "ARM (c = 0.13) moved 7 values (7.00 %) in layer 0." in run_verdict(run)
    assert "In layer 0 (first), at residual, the near-zero share" in run_verdict(run)
    assert "loss 2.5000 → 2.6250 nats" in run_verdict(run)
    twice = replace(run, plans=plans.assign(**{"pass": [0, 1]}))
    assert "ARM (c = 0.13) acted in layer 0." in run_verdict(twice)
    assert "ARM (c = 0.13) acted in layer 0." in run_verdict(run_of(values, **stated))
