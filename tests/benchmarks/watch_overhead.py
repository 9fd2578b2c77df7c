"""Watching `act` in every layer against the bare forward pass, 8 x 512 tokens.

python tests/benchmarks/watch_overhead.py path/to/SmolLM2-135M-Instruct.gguf
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from timing import bare_pass, seconds

import distviz
from distviz.hooks.recorder import Recorder


def main() -> None:
    """Print one line a type."""
    inside = [0.0]
    add = Recorder.add

    def timed(self: Recorder, *args: object) -> None:
        start = time.perf_counter()
        add(self, *args)
        inside[0] += time.perf_counter() - start

    Recorder.add = timed
    for dtype in (torch.bfloat16, torch.float32):
        model, bare = bare_pass(dtype)

        def watched(model: torch.nn.Module = model, bare: Callable[[], None] = bare) -> None:
            with distviz.watch(model) as seen:
                bare()
                seen.run()

        bare()
        watched()
        pairs = []
        for _ in range(5):
            inside[0] = 0.0
            pairs.append((seconds(watched), seconds(bare), inside[0]))
        ratio = statistics.median(a / b for a, b, _ in pairs)
        share = statistics.median(hooks / b for _, b, hooks in pairs)
        bare_seconds = statistics.median(b for _, b, _ in pairs)
        print(
            f"{str(dtype)[6:]:8}: bare {bare_seconds:.2f} s, watched / bare {ratio:.3f}, "
            f"inside the hooks {share:.2%} of the bare pass"
        )


if __name__ == "__main__":
    main()
