"""What a `Monitor` costs: a training of the demo model, and of SmolLM2 if a GGUF is named.

python tests/benchmarks/monitor.py [path/to/SmolLM2-135M-Instruct.gguf]

Every ratio is of one run, in processor time: the steps that are due, their snapshots included,
against the others.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import model_from_arguments

import distviz

EVERY = 100


def main() -> None:
    """Print a line for each kind of snapshot."""
    name, model, batch, pairs = opened()
    for what, options in {
        "act": {},
        "act, gradients": {"gradients": True},
        "act, gradients, weights": {"gradients": True, "weights": True},
    }.items():
        due, others, hooks = steps_of(model, batch, pairs, options)
        share = (due - others) / (EVERY * others)
        print(
            f"{name}, {what}: step {others:.3f} s, due step {due:.3f} s (of which snapshot "
            f"{hooks:.3f} s), at every={EVERY} {share:.2%} of the training"
        )


def opened() -> tuple[str, Any, tuple[int, int], int]:
    """Return the name, the model, the shape of a batch and the number of due steps."""
    if len(sys.argv) > 1:
        return "SmolLM2-135M", model_from_arguments(torch.float32)[0].train(), (1, 512), 2
    from transformers import AutoModelForCausalLM

    folder = Path(distviz.__file__).parent / "demo"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return "demo", model.train(), (8, 128), 8


def steps_of(
    model: Any, batch: tuple[int, int], pairs: int, options: dict[str, Any]
) -> tuple[float, float, float]:
    """Return the median processor seconds of due steps, of others, and of writing a snapshot."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    times: dict[bool, list[float]] = {True: [], False: []}
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        with distviz.Monitor(model, every=2, out=out, **options) as monitor:
            for step in range(2 * pairs + 2):
                ids = torch.randint(3, 2000, batch)
                start = time.process_time()
                model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                middle = time.process_time()
                monitor.end_step()
                monitor.begin_step()
                if step > 1:  # the first ones compile
                    times[step % 2 == 0].append(time.process_time() - start)
                    ends.append(time.process_time() - middle)
    return statistics.median(times[True]), statistics.median(times[False]), max(ends)


if __name__ == "__main__":
    main()
