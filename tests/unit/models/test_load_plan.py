"""Which layers stay on disk, and that each check of a checkpoint runs once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distviz.errors import RequestError
from distviz.models.architectures import find_mlps, find_points
from distviz.models.checkpoint import locate
from distviz.models.load_plan import CheckpointInfo, inspect_checkpoint
from distviz.models.loading import LoadOptions
from distviz.models.open import open_model
from distviz.settings import LayerSettings

LAYERS = [f"model.layers.{index}" for index in range(3)]
CPU = LoadOptions(None, torch.device("cpu"), None, None, trust_remote_code=False)


def inspect(folder: Path, **options: Any) -> CheckpointInfo:
    return inspect_checkpoint(locate(str(folder)), CPU, needs_tokenizer=False, **options)


def points_at(site: str, *layers: int) -> Callable[..., Any]:
    return lambda model, mlps: find_points(mlps, model, [site], layers)


def test_all_is_loaded_unless_points_are_named(saved: Path) -> None:
    assert inspect(saved).disk is None
    found = inspect(saved, choose=lambda *_: None)
    assert (found.disk, found.points) == (None, None)


def test_only_the_layers_of_the_required_points_are_wanted(saved: Path) -> None:
    found = inspect(saved, choose=points_at("act", 0, 1))
    assert found.disk is not None
    assert (found.disk.layers, found.disk.streams) == (LAYERS, False)
    assert found.disk.wanted == set(LAYERS[:2])
    assert found.points is not None
    assert len(found.points) == 2


def test_a_point_outside_the_layers_needs_the_whole_model(saved: Path) -> None:
    found = inspect(saved, choose=points_at("module:lm_head"))
    assert found.disk is None


def test_streaming_leaves_all_layers_on_disk(saved: Path) -> None:
    found = inspect(saved, stream=True)
    assert found.disk is not None
    assert (found.disk.streams, found.disk.is_asked_for, found.disk.why) == (True, True, "")
    assert (found.disk.layers, found.disk.wanted) == (LAYERS, frozenset())


@pytest.mark.parametrize(("free", "streams"), [(1 << 40, False), (100, True)])
def test_free_memory_decides_if_nothing_is_asked(
    saved: Path, monkeypatch: pytest.MonkeyPatch, free: int, streams: bool
) -> None:
    monkeypatch.setattr("distviz.models.load_plan.free_bytes", lambda _: free)
    plan = inspect(saved, stream=None).disk
    assert (plan is not None) is streams
    if plan is not None:
        assert not plan.is_asked_for
        assert plan.why == "the model takes 0.0 GB, 0.0 GB are free: "


def test_a_device_map_is_removed_not_converted(saved: Path) -> None:
    options = replace(CPU, device_map="auto")
    with pytest.raises(RequestError, match="cannot be streamed: --device-map") as caught:
        inspect_checkpoint(locate(str(saved)), options, needs_tokenizer=False, stream=True)
    assert caught.value.hint == "remove --stream"


def test_streaming_of_pickles_is_refused(llama: Path) -> None:
    from safetensors.torch import load_file

    path = llama / "model.safetensors"
    torch.save(load_file(path), llama / "pytorch_model.bin")
    path.unlink()
    checkpoint = locate(str(llama), allow_pickle=True)
    with pytest.raises(RequestError, match=r"cannot be streamed: only safetensors\S* .*\nremove"):
        inspect_checkpoint(checkpoint, CPU, needs_tokenizer=False, stream=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream": True},
        {"choose": points_at("act", 0)},
        {"layer": LayerSettings(hidden_size=16, intermediate_size=24, heads=4, kv_heads=2)},
    ],
    ids=["whole", "streamed", "in part", "built"],
)
def test_mlps_are_searched_once_per_opening(
    saved: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    calls = []

    def counting(model: Any) -> Any:
        calls.append(model)
        return find_mlps(model)

    for module in ("open", "load_plan"):
        monkeypatch.setattr(f"distviz.models.{module}.find_mlps", counting)
    opened = open_model(str(saved), needs_tokenizer=False, **options)
    assert len(calls) == 1
    assert opened.mlps == find_mlps(opened.model)
