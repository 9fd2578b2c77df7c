"""One ARM call on 8 M values against the plain version and against a copy; a decoding step.

python tests/benchmarks/arm_call.py

A batch of 8 x 1 M is compared with 8 calls of the plain version, each on one sequence.
"""

from __future__ import annotations

import functools
import statistics

import numpy as np
import torch
from timing import paired, seconds

from distviz import ARM, redistribute

SHAPES = [(1, 5461, 1536), (8, 683, 1536)]
STEP = (1, 1, 8192)


def plain(x: torch.Tensor, c: float = 0.13, p1: float = 99.5) -> torch.Tensor:
    """The plain version: clone, two medians, CPU percentile, topk over a flat copy, write back."""
    out = x.clone()
    magnitudes = out.abs()
    center = magnitudes.median()
    mad = (magnitudes - center).abs().median().clamp(min=1e-12)
    share = float((magnitudes < 1.4826 * mad * c).float().mean())
    k = max(1, round(min(max(share, 0.02), 0.25) * out.numel()))
    flat = out.flatten()
    index = torch.topk(flat.abs(), k, largest=False).indices
    upper = float(np.percentile(flat.numpy(), p1))
    chosen = flat[index]
    bound = torch.where(chosen >= 0, upper, float(min(flat.min(), 0.0)))
    flat[index] = torch.rand(k) * bound
    return flat.view_as(x)


def plain_batch(x: torch.Tensor) -> torch.Tensor:
    """The plain version of each sequence."""
    return torch.stack([plain(sequence) for sequence in x])


def time_step(arm: ARM, values: torch.Tensor) -> tuple[float, float]:
    """Return the microseconds of a call on one token: the least and the median of 2,000."""
    out = torch.empty_like(values)
    times = [seconds(lambda: arm(values, out=out)) for _ in range(2_050)][50:]
    return 1e6 * min(times), 1e6 * statistics.median(times)


def time_hooked_step(dtype: torch.dtype) -> tuple[float, float]:
    """Return the microseconds that ARM adds to a decoding step of a small model, and its time.

    The model has one layer of 8,192 channels; the medians of 300 steps without and with ARM.
    """
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": STEP[-1], "num_attention_heads": 4}
    config = LlamaConfig(num_hidden_layers=1, vocab_size=128, **sizes)
    model = LlamaForCausalLM(config).to(dtype).eval()
    one = torch.ones(1, 1, dtype=torch.long)

    def steps() -> list[float]:
        cache = DynamicCache(config=config)
        step = functools.partial(model, one, past_key_values=cache, use_cache=True)
        with torch.inference_mode():
            return [seconds(step) for _ in range(320)][20:]

    steps()
    bare = statistics.median(steps())
    with redistribute(model):
        steps()
        watched = statistics.median(steps())
    return 1e6 * (watched - bare), 1e6 * bare


def main() -> None:
    """Print one line a shape and type; each side alone, and three times in a row."""
    arm = ARM()
    torch.manual_seed(0)
    print("ns a value; alone: right after other torch work, whose threads still spin; in a row: x3")
    print("shape, dtype: ARM alone, in a row | plain | plain/ARM alone, in a row | copy | ARM/copy")
    for shape in SHAPES:
        x = torch.nn.functional.silu(torch.randn(*shape) - 0.5)
        for values in (x, x.bfloat16()):
            out = torch.empty_like(values)
            n = values.numel() / 1e9
            alone, theirs, ratio = paired(lambda: arm(values, out=out), lambda: plain_batch(x), 5)
            row, _, ratio_row = paired(lambda: arm(values, out=out), lambda: plain_batch(x), 3, 3)
            _, copied, to_copy = paired(
                lambda: arm(values, out=out), lambda: out.copy_(values), 9, 5
            )
            print(
                f"{shape} {str(values.dtype)[6:]:8}: {alone / n:5.2f}, {row / n:5.2f} | "
                f"{theirs / n:5.1f} | {1 / ratio:5.1f}, {1 / ratio_row:5.1f} | "
                f"{copied / n:5.2f} | {to_copy:5.1f}"
            )
    for dtype in (torch.float32, torch.bfloat16):
        least, median = time_step(arm, torch.nn.functional.silu(torch.randn(STEP) - 0.5).to(dtype))
        added, bare = time_hooked_step(dtype)
        print(
            f"{STEP} {str(dtype)[6:]:8}: {least:.0f} us at least, {median:.0f} us in the median | "
            f"in a hook, one layer: {added:.0f} us beside {bare:.0f} us"
        )


if __name__ == "__main__":
    main()
