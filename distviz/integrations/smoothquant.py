"""``act_scales.pt``: the scales of SmoothQuant.

A dict of float32 tensors (channels,): for the path of each linear layer, the largest abs(x) of each
input channel, as SmoothQuant's own calibration writes it. The head of the model is left out.
"""

from __future__ import annotations

from pathlib import Path

from distviz.integrations.linear_places import left_out, linear_places
from distviz.results import Run

FILE = "act_scales.pt"


def write_scales(run: Run, out: Path) -> list[str]:
    """Write ``act_scales.pt`` into a folder; return what is left out.

    Raises
    ------
    RequestError
        If the run lacks what is needed.
    """
    import torch

    scales = {
        module: torch.tensor(place.absmax, dtype=torch.float32)
        for place in linear_places(run, "smoothquant")
        for module in place.modules
    }
    torch.save(scales, out / FILE)
    return left_out(run)
