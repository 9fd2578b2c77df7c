"""Counting the values of one tensor: the sketch against what other tools do for a distribution.

Ratios come from the median of rounds in which all take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distviz import Sketch


def ways(values: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; all read the same tensor."""
    found: dict[str, Callable[[], Any]] = {
        "distviz.Sketch.add (whole distribution)": lambda: Sketch().add(values),
        "torch.bincount of the 16-bit codes": lambda: torch.bincount(
            values.to(torch.bfloat16).view(torch.int16).int().flatten() + 32768, minlength=65536
        ),
        "torch.histc, 2,048 bins": lambda: torch.histc(values.float(), 2048, -8, 8),
        "numpy.histogram, 2,048 bins": lambda: np.histogram(
            values.float().numpy(), 2048, range=(-8, 8)
        ),
        "torch.median (one quantile)": lambda: values.float().median(),
        "torch.sort (all quantiles)": lambda: values.float().flatten().sort(),
    }
    return found


def main() -> None:
    """Print nanoseconds per value and the ratio to the sketch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=8_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for dtype in (torch.bfloat16, torch.float32):
        values = torch.randn(
            given.values // 1536, 1536, generator=torch.Generator().manual_seed(0)
        ).to(dtype)
        timed = ways(values)
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for number in range(given.rounds + 1):
            for name, work in timed.items():
                start = time.perf_counter()
                work()
                if number:  # the first round compiles and warms up
                    seconds[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(one) for name, one in seconds.items()}
        least = next(iter(medians.values()))
        for name, one in medians.items():
            print(f"{dtype}  {name:42s} {one / given.values * 1e9:7.2f} ns  {one / least:6.1f}")


if __name__ == "__main__":
    main()
