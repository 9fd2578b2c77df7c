"""``imatrix.gguf``, read with gguf's own reader and by the rules of llama.cpp's loader."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.packages import need

from distviz.errors import RequestError
from distviz.integrations.imatrix import write_imatrix

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import torch

    from distviz.results import Run

gguf: Any = need("gguf")
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
"""Of a Llama, as llama.cpp loads its tensors."""


def entries(path: Path) -> tuple[Any, dict[str, dict[str, np.ndarray]]]:
    """Pair the sums with the counts by name, as llama.cpp's loader does, which wants float32."""
    reader = gguf.GGUFReader(path)
    found: dict[str, dict[str, np.ndarray]] = {}
    for tensor in reader.tensors:
        name, _, kind = tensor.name.rpartition(".")
        assert kind in ("in_sum2", "counts")
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        found.setdefault(name, {})[kind] = tensor
    assert all(set(pair) == {"in_sum2", "counts"} for pair in found.values())
    return reader, found


def test_the_sums_are_those_of_plain_hooks(
    linear_run: tuple[Run, Path], raw_inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert write_imatrix(linear_run[0], tmp_path) == []
    reader, found = entries(tmp_path / "imatrix.gguf")
    assert len(found) == len(raw_inputs)
    for module, x in raw_inputs.items():
        layer, part = module.removeprefix("model.layers.").split(".", 1)
        pair = found[f"blk.{layer}.{NAMES[part]}.weight"]
        # The first dimension of ggml is the innermost: channels, matrices.
        assert pair["in_sum2"].shape.tolist() == [x.shape[1], 1]
        assert pair["counts"].shape.tolist() == [1, 1]
        assert pair["counts"].data.item() == len(x)
        squares = (x.double() ** 2).sum(dim=0).numpy()
        np.testing.assert_allclose(pair["in_sum2"].data[0], squares, rtol=2**-23)
    values = {name: reader.fields[name].contents() for name in reader.fields}
    assert values["general.type"] == "imatrix"
    assert values["imatrix.chunk_size"] == 32
    assert values["imatrix.chunk_count"] == max(len(x) // 32, 1)
    assert values["imatrix.datasets"] == ["distviz"]
    for key, kind in (("chunk_count", "UINT32"), ("chunk_size", "UINT32"), ("datasets", "ARRAY")):
        assert reader.fields[f"imatrix.{key}"].types[0] == gguf.GGUFValueType[kind]


def test_other_names_of_models_and_modules(linear_run: tuple[Run, Path], tmp_path: Path) -> None:
    run, _ = linear_run
    model = run.manifest["model"]

    def renamed(model_type: str) -> Run:
        return replace(run, manifest=run.manifest | {"model": model | {"model_type": model_type}})

    for kind, expected in (("mistral", "llama"), ("qwen3", "qwen3"), ("gemma3_text", "gemma3")):
        folder = tmp_path / kind
        folder.mkdir()
        write_imatrix(renamed(kind), folder)
        reader, found = entries(folder / "imatrix.gguf")
        assert reader.fields["general.architecture"].contents() == expected
        assert "blk.0.attn_q.weight" in found
    with pytest.raises(RequestError, match="no architecture for model type 'unheard_of'"):
        write_imatrix(renamed("unheard_of"), tmp_path)
    (tmp_path / "wrapped").mkdir()
    inputs = {
        site: {
            place: [module.replace("model.", "model.language_model.") for module in modules]
            for place, modules in by_place.items()
        }
        for site, by_place in run.manifest["linear_inputs"].items()
    }
    inputs["product"]["model.layers.1.mlp.down_proj"] = ["model.layers.1.odd_proj"]
    wrapped = replace(run, manifest=run.manifest | {"linear_inputs": inputs})
    assert write_imatrix(wrapped, tmp_path / "wrapped") == [
        "GGUF has no name for model.layers.1.odd_proj: left out"
    ]
    _, found = entries(tmp_path / "wrapped" / "imatrix.gguf")
    assert "blk.0.ffn_down.weight" in found
    assert "blk.1.ffn_down.weight" not in found
