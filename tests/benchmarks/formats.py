"""Seven number formats at two sites of every layer against the bare forward pass, 8 x 512 tokens.

python tests/benchmarks/formats.py path/to/SmolLM2-135M-Instruct.gguf
"""

from __future__ import annotations

import statistics

import torch
from timing import model_from_arguments, seconds

import distviz
from distviz.hooks import FormatLosses

FORMATS = ("nvfp4", "mxfp4", "mxfp8", "int8-token", "fp8-token", "int8-channel", "int4-group128")
SITES = "mlp_in,product"


def main() -> None:
    """Print one line a type."""
    for dtype in (torch.bfloat16, torch.float32):
        model, _ = model_from_arguments(dtype)
        torch.manual_seed(0)
        ids = torch.randint(1000, 40000, (8, 512))
        mask = torch.ones_like(ids)

        def bare() -> None:
            with torch.inference_mode():
                model(ids, attention_mask=mask, use_cache=False)

        def watched(formats: tuple[str, ...], rotations: tuple[str, ...] = ("none",)) -> None:
            with distviz.watch(model, sites=SITES) as seen:
                seen.recorder.formats = FormatLosses(formats, rotations)
                bare()

        ways = {
            "counts": lambda: watched(()),
            "with formats": lambda: watched(FORMATS),
            "with rotated formats": lambda: watched(FORMATS, ("hadamard",)),
        }
        bare()
        for way in ways.values():
            way()
        times = [[seconds(bare), *map(seconds, ways.values())] for _ in range(5)]
        ratios = {
            name: statistics.median(one[1 + number] / one[0] for one in times)
            for number, name in enumerate(ways)
        }
        words = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        whole = statistics.median(one[0] for one in times)
        print(f"{str(dtype)[6:]:8}: bare {whole:.2f} s; times that: {words}")


if __name__ == "__main__":
    main()
