"""Models whose values change when padding stands behind a text: refused, right one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.tiny_models import save_tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer

import distviz
from distviz.errors import MeasurementError
from distviz.results import Run

TEXTS = ["Two and two are four, because the numbers say so. " * 3, "Short one.", "A b c d e"]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
BERT = SIZES | {"num_attention_heads": 4}
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "fnet": (SIZES | {"type_vocab_size": 2}, "encoder.layer.1"),
    "yoso": (BERT, "encoder.layer.1"),
    "convbert": (BERT | {"embedding_size": 32, "conv_kernel_size": 3}, "encoder.layer.1"),
    "mobilebert": (
        BERT | {"embedding_size": 16, "true_hidden_size": 32, "intra_bottleneck_size": 32},
        "encoder.layer.1",
    ),
    "xlnet": ({"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, "layer.1"),
}


def save(kind: str, folder: Path, demo: Path) -> Path:
    torch.manual_seed(7)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": 2048}
    model = AutoModel.from_config(AutoConfig.for_model(kind, **(special | KINDS[kind][0])))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 and "embed" not in name:
                value.mul_(4)
    model.save_pretrained(folder)
    save_tokenizer(demo, folder)
    return folder


def residual(kind: str, folder: Path) -> NDArray[np.float64]:
    """What leaves the last layer, each text in a call of its own."""
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    seen = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).double().numpy().ravel())

    model.get_submodule(KINDS[kind][1]).register_forward_hook(keep)
    with torch.no_grad():
        for text in TEXTS:
            model(torch.tensor([tokenizer(text)["input_ids"]]))
    return np.concatenate(seen)


def measured(folder: Path, **options: Any) -> Run:
    return distviz.run(
        folder, text=TEXTS, sites="residual", arm_layers="none", device="cpu", **options
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_padding_changes_is_measured_one_text_at_a_time(
    kind: str, stream: bool, tmp_path: Path, demo_folder: Path
) -> None:
    folder = save(kind, tmp_path / kind, demo_folder)
    with pytest.raises(MeasurementError) as caught:
        measured(folder, stream=stream)
    assert "batch_size=1" in caught.value.hint
    stats = measured(folder, stream=stream, batch_size=1).stats()
    row, values = stats[stats.layer == 1].iloc[0], residual(kind, folder)
    assert row["count"] == values.size
    for name, value in (("mean", values.mean()), ("min", values.min()), ("max", values.max())):
        assert row[name] == pytest.approx(value, abs=1e-4 * values.std()), name


@pytest.mark.parametrize("kind", ["gpt2", "gemma3_text", "bert", "t5", "mixtral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_others_share_batches(kind: str, dtype: str, folders: Any) -> None:
    together = measured(folders(kind, dtype)).stats()
    alone = measured(folders(kind, dtype), batch_size=1).stats()
    assert together["count"].tolist() == alone["count"].tolist()
