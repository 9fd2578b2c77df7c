"""The places whose values enter linear layers, against plain hooks; what is missing is named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from distviz.errors import RequestError
from distviz.integrations.linear_places import left_out, linear_places

if TYPE_CHECKING:
    from pathlib import Path

    import torch

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
