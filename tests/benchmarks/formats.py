"""Seven number formats at two sites of every layer against the bare forward pass, 8 x 512 tokens.

python tests/benchmarks/formats.py path/to/SmolLM2-135M-Instruct.gguf
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch
from timing import bare_pass

import distviz
from distviz.hooks import FormatLosses

FORMATS = ("nvfp4", "mxfp4", "mxfp8", "int8-token", "fp8-token", "int8-channel", "int4-group128")
SITES = "mlp_in,product"
GOAL, ROUNDS = 1.6, 5


def spent(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call by the clock, and of all its threads on processors."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(dtype: torch.dtype) -> None:
    """Print a table: a row a way, its time by the clock and on processors over that of the pass."""
    model, bare = bare_pass(dtype)

    def watched(formats: tuple[str, ...], rotation: str = "none") -> None:
        with distviz.watch(model, sites=SITES) as seen:
            seen.recorder.formats = FormatLosses(formats, (rotation,))
            bare()

    ways = {
        "bare pass": bare,
        "counting, no format": lambda: watched(()),
        f"seven formats (goal {GOAL})": lambda: watched(FORMATS),
        "seven formats, rotated": lambda: watched(FORMATS, "hadamard"),
    }
    for way in ways.values():  # compiles, and fills caches
        way()
    rounds = [[spent(way) for way in ways.values()] for _ in range(ROUNDS)]
    name = str(dtype).removeprefix("torch.")
    load = os.getloadavg()[0]
    print(f"{name}, {torch.get_num_threads()} threads, load of the machine {load:.1f}")
    print(f"{'':28}{'by the clock':>16}{'on processors':>16}")
    for number, way in enumerate(ways):
        cells = []
        for clock in (0, 1):
            times = [one[number][clock] for one in rounds]
            ratios = [one[number][clock] / one[0][clock] for one in rounds]
            values = times if number == 0 else ratios
            unit = " s" if number == 0 else " x"
            cells.append(f"{statistics.median(values):.2f}{unit}")
        print(f"{way:28}" + "".join(f"{cell:>16}" for cell in cells))
    print()


def main() -> None:
    """Print medians over rounds in which every way has its turn."""
    print(f"times the bare pass; medians of {ROUNDS} rounds; {SITES}, all layers, 8 x 512 tokens\n")
    for dtype in (torch.float32, torch.bfloat16):
        measure(dtype)


if __name__ == "__main__":
    main()
