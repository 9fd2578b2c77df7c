"""The places whose values enter linear layers, against plain hooks; what is missing is named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from support.texts import TEXTS
from support.tiny_models import save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

import distviz
from distviz.errors import RequestError
from distviz.integrations.linear_places import left_out, linear_places

if TYPE_CHECKING:
    from pathlib import Path

    from distviz.results import Run


def test_every_linear_layer_has_its_channels(
    linear_run: tuple[Run, Path], raw_inputs: dict[str, torch.Tensor]
) -> None:
    found = linear_places(linear_run[0], "imatrix")
    assert sorted(module for place in found for module in place.modules) == sorted(raw_inputs)
    assert {len(place.modules) for place in found} == {1, 2, 3}
    for place in found:
        for module in place.modules:
            x = raw_inputs[module].double().numpy()
            assert place.count == len(x)
            np.testing.assert_allclose(place.squares, (x**2).sum(axis=0), rtol=1e-12)
            np.testing.assert_array_equal(place.absmax, np.abs(x).max(axis=0))


def test_what_a_run_lacks_is_named(linear_run: tuple[Run, Path], demo_run: Run) -> None:
    run, _ = linear_run
    with pytest.raises(RequestError, match="teal needs sites attn_in, attention, mlp_in, product"):
        linear_places(demo_run, "teal")
    part = run.select(sites=["product", "attention"])
    part.manifest["settings"] = part.manifest["settings"] | {"sites": "product,attention"}
    with pytest.raises(RequestError, match="imatrix needs sites attn_in, mlp_in, ") as refused:
        linear_places(part, "imatrix")
    assert refused.value.hint == "measure again with --sites linear"
    older = replace(run, manifest=run.manifest | {"linear_inputs": {}})
    with pytest.raises(RequestError, match=r"run\.json does not name the linear layers"):
        linear_places(older, "imatrix")
    for table, message in (
        (pd.DataFrame(), "lacks columns"),
        (run.channels[run.channels["layer"] != 2], "lacks model.layers.2"),
        (run.channels.assign(mean=np.inf), "not finite"),
        (run.channels.assign(count=run.channels["channel"]), "not finite"),
    ):
        with pytest.raises(RequestError, match=message):
            linear_places(replace(run, channels=table), "imatrix")


def test_layers_that_no_site_reads_are_named(linear_run: tuple[Run, Path]) -> None:
    run, _ = linear_run
    assert run.manifest["linear_left_out"] == left_out(run) == []
    for names, text in ((["a.*.b"], "a.*.b"), (["a.*.b", "c", "d"], "a.*.b and 2 more")):
        other = replace(run, manifest=run.manifest | {"linear_left_out": names})
        assert left_out(other) == [f"no site is the input of {text}: left out"]


@pytest.mark.parametrize(("kind", "without"), [
    ("minicpm3", []), ("qwen3_next", ["model.layers.*.mlp.experts"]),
])  # fmt: skip
def test_linear_layers_beside_the_sites_have_their_channels(
    kind: str, without: list[str], tmp_path: Path, demo_folder: Path
) -> None:
    folder = save_tiny(kind, tmp_path / kind, demo_folder)
    options = {"sites": "linear", "arm_layers": "none", "batch_size": 2, "max_length": 16}
    run = distviz.run(folder, text=TEXTS, device="cpu", dtype="float32", **options)
    assert run.manifest["linear_left_out"] == without
    found = {module: place for place in linear_places(run, "imatrix") for module in place.modules}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_hook(
                lambda _, given, __, name=name: seen.setdefault(name, []).append(
                    given[0].reshape(-1, given[0].shape[-1])
                )
            )
    with torch.inference_mode():
        for text in TEXTS:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            for start in range(0, len(ids), 15):
                model(torch.tensor([[0, *ids[start : start + 15]]]))
    assert sorted(found) == sorted(seen)
    for module, parts in seen.items():
        x = torch.cat(parts).double().numpy()
        place = found[module]
        assert place.count == len(x)
        np.testing.assert_allclose(place.squares, (x**2).sum(axis=0), rtol=1e-4)
        np.testing.assert_allclose(place.absmax, np.abs(x).max(axis=0), rtol=1e-4)
