"""On a device, hooks only enqueue: nothing there makes the host wait."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.pretended_device import DEVICE, Pretended, WouldWait, pretended, strictly
from support.tiny_models import CONFIGS

import distviz
from distviz.arm.controls import make_redistribution
from distviz.errors import MeasurementError
from distviz.hooks import attach
from distviz.measure import measurement
from distviz.sites import HookPoint
from distviz.stats import kernels
from distviz.stats.kernels import device_plans, rng

WAITING: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0, 0]),
    "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.cpu().tolist(),
    "numpy": lambda x: x.cpu().numpy(),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: torch.bincount(x.flatten().long().abs()),
    "equal": lambda x: x.equal(x),
    "places on the host": lambda x: x[torch.tensor([0])],
    "to": lambda x: torch.arange(3).to(x.device),
    "copy_": lambda x: torch.zeros(3, 4).copy_(x),
    "division": lambda x: x / 3,
    "repeat_interleave": lambda x: x[0].repeat_interleave(x[0].long().abs()),
}


@pytest.mark.parametrize("name", WAITING)
def test_waiting_is_refused(name: str) -> None:
    values = torch.arange(12.0).view(3, 4)
    with torch.inference_mode(), pretended() as device:
        WAITING[name](Pretended(values))
        with strictly(device), pytest.raises(WouldWait, match="would make the host wait"):
            WAITING[name](Pretended(values))


def test_enqueuing_is_not_refused() -> None:
    with torch.inference_mode(), pretended() as device, strictly(device):
        x = Pretended(torch.arange(12.0).view(3, 4))
        sent = torch.arange(3).to(DEVICE, non_blocking=True)
        total = torch.zeros(3, device=DEVICE).index_add_(0, sent, torch.where(x > 3, x, 0.0).sum(1))
    assert total.elem.tolist() == [0, 4 + 5 + 6 + 7, 8 + 9 + 10 + 11]
    assert device.sent == [(3,)]


def test_random_numbers() -> None:
    keys = kernels.row_keys(3, 1, 0, 2, 4, np.arange(50) + 5)
    with pretended() as device, strictly(device):
        found = device_plans.uniforms(Pretended(torch.from_numpy(keys.view(np.int32))), 300)
    np.testing.assert_array_equal(found.elem.numpy(), rng.uniforms(keys, 300))


def tiny(kind: str, dtype: torch.dtype) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, **CONFIGS[kind], vocab_size=90)
    return AutoModelForCausalLM.from_config(config).eval().to(dtype)


def watched(model: torch.nn.Module, channels: bool) -> distviz.Run:
    """Watch padded batches, of which one continues with a cache."""
    torch.manual_seed(2)
    ids, mask = torch.randint(3, 90, (3, 15)), torch.ones(3, 15, dtype=torch.long)
    mask[0, :5] = 0
    with torch.inference_mode(), distviz.watch(model, channels=channels) as seen:
        model(input_ids=ids, attention_mask=mask)
        model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
        model(input_ids=ids)
        return seen.run()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_watching(kind: str, dtype: torch.dtype) -> None:
    model = tiny(kind, dtype)
    expected = watched(model, channels=True)
    with pretended() as device:
        found = watched(model, channels=True)
    assert len(device.sent) <= 6 * 2 + 3  # rows and slots of each call, constants
    assert found.sketches == expected.sketches
    pd.testing.assert_frame_equal(found.extremes, expected.extremes, check_exact=True)
    pd.testing.assert_frame_equal(found.documents, expected.documents, rtol=1e-12, atol=1e-14)
    pd.testing.assert_frame_equal(found.channels, expected.channels, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(
            ("llama", "arm"),
            ("gpt2", "threshold"),
            ("llama", "scale:2"),
            ("gpt2", "threshold:0.01"),
        ),
        *(("llama", "noise"), ("gpt2", "quantize:nvfp4"), ("llama", "quantize:int8-asym")),
    ],
)
def test_redistributing(kind: str, name: str) -> None:
    model, arm = tiny(kind, torch.bfloat16), make_redistribution(name, distviz.ARM())

    def changed() -> distviz.Run:
        with distviz.redistribute(model, arm, "0,2"):
            return watched(model, channels=False)

    expected = changed()
    with pretended():
        found = changed()
    assert found.sketches == expected.sketches
    pd.testing.assert_frame_equal(found.extremes, expected.extremes, check_exact=True)


FORMATS = {"formats": "nvfp4,int8-channel,int8-asym", "rotate": "none,hadamard"}


@pytest.mark.parametrize(
    "options", [{}, {"ripple": False, "redistribution": "threshold"}, FORMATS], ids=range(3)
)
def test_a_run(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes, padding, several batches, classes of tokens, their groups, mean movement."""
    texts = ["Anna had 12 apples and 3 pears, so 12 - 3 = 9. " * 4, "If it rains, we stay.", "No."]
    asked = {"dtype": "bf16", "max_length": 32, "arm_layers": "0,2", "batch_size": 2} | options
    asked |= {"sites": "act,product,q", "device": "cpu"}
    expected = distviz.run(text=texts, **asked)
    measure, devices = measurement.measure, []

    def measured(*args: Any, **kwargs: Any) -> distviz.Run:
        with pretended() as device:
            devices.append(device)
            return measure(*args, **kwargs)

    monkeypatch.setattr(measurement, "measure", measured)
    found = distviz.run(text=texts, **asked)
    assert devices[0].sent
    assert found.sketches == expected.sketches
    exact = {"check_exact": True}
    pd.testing.assert_frame_equal(found.extremes, expected.extremes, **exact)
    pd.testing.assert_frame_equal(found.plans, expected.plans, **exact)
    pd.testing.assert_frame_equal(found.documents, expected.documents, rtol=1e-12, atol=1e-14)
    pd.testing.assert_frame_equal(found.channels, expected.channels, rtol=1e-10, atol=1e-13)
    pd.testing.assert_frame_equal(found.formats, expected.formats, rtol=1e-12, atol=0)
    assert found.groups.keys() == expected.groups.keys()
    assert found.manifest["effect"] == expected.manifest["effect"]


def test_a_cuda_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the capture of a graph calls the hooks, its replay does not."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    seen = attach._outside_modes(lambda _point, value: value)
    point = HookPoint(0, "", "act", "layers.0.act", "output")
    assert seen(point, torch.ones(2)) is not None  # on the CPU there are no graphs
    with pytest.raises(MeasurementError, match=r"layers\.0\.act .* a CUDA graph"):
        seen(point, SimpleNamespace(is_cuda=True))  # type: ignore[arg-type]


def test_the_benchmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark of a GPU runs without one, too: it compares, and measures everything."""
    path = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--size", "tiny", "--device", "cpu", "--pairs", "1"])
    module.main()
    found = json.loads(capsys.readouterr().out)
    assert all(found["correct"].values())
    assert found["hooks_without_waiting"] is True
    for name in ("watched_over_bare", "with_channels", "arm_over_clone_bfloat16"):
        assert found[name]["ratio"] > 0
    assert set(found["end_to_end"]) == {"passes", "result"}
