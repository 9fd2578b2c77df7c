"""Paired timing: the two sides in turn, so that a drifting machine hits both alike."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from distviz.cli.process import keep_freed_memory, let_waiting_threads_sleep

keep_freed_memory()  # for both sides, as the command does
if let_waiting_threads_sleep():  # and this before torch is loaded
    os.execv(sys.executable, sys.orig_argv)


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Time one call, or the mean of some in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def paired(
    first: Callable[[], object], second: Callable[[], object], pairs: int, repeats: int = 1
) -> tuple[float, float, float]:
    """Return the medians of both sides in seconds, and the median of first / second by pair."""
    first()
    second()
    times = [(seconds(first, repeats), seconds(second, repeats)) for _ in range(pairs)]
    ratios = [a / b for a, b in times]
    return (
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(ratios),
    )


def model_from_arguments(dtype: torch.dtype) -> tuple[torch.nn.Module, object]:
    """Open the GGUF named on the command line."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} path/to/SmolLM2-135M-Instruct.gguf")
    path = Path(sys.argv[1])
    where = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    model = AutoModelForCausalLM.from_pretrained(path.parent, **where, dtype=dtype)
    return model.eval(), tokenizer


def bare_pass(dtype: torch.dtype) -> tuple[torch.nn.Module, Callable[[], None]]:
    """Return the GGUF named on the command line, and its forward pass of 8 x 512 tokens."""
    model, _ = model_from_arguments(dtype)
    torch.manual_seed(0)
    ids = torch.randint(1000, 40000, (8, 512))
    mask = torch.ones_like(ids)

    def bare() -> None:
        with torch.inference_mode():
            model(ids, attention_mask=mask, use_cache=False)

    return model, bare
