"""``act_scales.pt``, against the largest magnitudes that plain hooks see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distviz.integrations.smoothquant import write_scales

if TYPE_CHECKING:
    from pathlib import Path

    from distviz.results import Run


def test_the_scales_are_those_of_plain_hooks(
    linear_run: tuple[Run, Path], raw_inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert write_scales(linear_run[0], tmp_path) == []
    scales = torch.load(tmp_path / "act_scales.pt", weights_only=True)
    assert sorted(scales) == sorted(raw_inputs)
    for module, x in raw_inputs.items():
        assert scales[module].dtype == torch.float32
        assert torch.equal(scales[module], x.abs().amax(dim=0))
