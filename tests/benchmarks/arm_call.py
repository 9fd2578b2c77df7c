"""One ARM call on 8 M values against the plain version and against a copy.

python tests/benchmarks/arm_call.py
"""

from __future__ import annotations

import numpy as np
import torch
from timing import paired

from distviz import ARM

SHAPES = [(1, 5461, 1536), (8, 683, 1536), (16, 341, 1536)]


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


def main() -> None:
    """Print one line a shape and type; each side alone, and five times in a row."""
    arm = ARM()
    torch.manual_seed(0)
    print("ns a value; alone: right after other torch work, whose threads still spin; in a row: x5")
    print("shape, dtype: ARM alone, in a row | plain | plain/ARM alone, in a row | copy | ARM/copy")
    for shape in SHAPES:
        x = torch.nn.functional.silu(torch.randn(*shape) - 0.5)
        for values in (x, x.bfloat16()):
            out = torch.empty_like(values)
            n = values.numel() / 1e9
            alone, theirs, ratio = paired(lambda: arm(values, out=out), lambda: plain(x), 5)
            row, _, ratio_row = paired(lambda: arm(values, out=out), lambda: plain(x), 3, 5)
            _, copied, to_copy = paired(
                lambda: arm(values, out=out), lambda: out.copy_(values), 9, 5
            )
            print(
                f"{shape} {str(values.dtype)[6:]:8}: {alone / n:5.2f}, {row / n:5.2f} | "
                f"{theirs / n:5.1f} | {1 / ratio:5.1f}, {1 / ratio_row:5.1f} | "
                f"{copied / n:5.2f} | {to_copy:5.1f}"
            )


if __name__ == "__main__":
    main()
