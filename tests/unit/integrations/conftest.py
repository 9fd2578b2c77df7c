"""The demo measured at all inputs of its linear layers, and the same values by plain hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support.texts import TEXTS

import distviz

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from distviz.results import Run


@pytest.fixture(scope="session")
def linear_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """The run without ARM, a document a batch, and its folder."""
    options = {"sites": "linear", "arm_layers": "none", "batch_size": 1, "max_length": 32}
    run = distviz.run(text=TEXTS, device="cpu", dtype="float32", **options)
    folder = run.save(tmp_path_factory.mktemp("linear") / "run")
    return distviz.Run.load(folder), folder


@pytest.fixture(scope="session")
def raw_inputs(demo_folder: Path, demo_tokenizer: Any) -> dict[str, torch.Tensor]:
    """What enters each linear layer of the decoder, (tokens, channels), from plain hooks."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(demo_folder, dtype=torch.float32)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_hook(
                lambda _, given, __, name=name: seen.setdefault(name, []).append(given[0][0])
            )
    for text in TEXTS:
        ids = demo_tokenizer(text, add_special_tokens=False).input_ids
        for start in range(0, len(ids), 31):
            with torch.inference_mode():
                model(torch.tensor([[0, *ids[start : start + 31]]]))
    return {name: torch.cat(values) for name, values in seen.items()}
