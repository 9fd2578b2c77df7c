"""Streamed runs: the numbers of plain ones bit for bit, every layer read once, little memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from support.streamed_runs import assert_equal, run_texts
from support.synthetic_checkpoints import LIBRARIES_MB, write_llama
from support.texts import STREAMED_TEXTS

import distviz
from distviz.errors import MeasurementError, RequestError
from distviz.models import lazy_layers as offloading
from distviz.models.lazy_layers import LayersOnDisk, bytes_in_memory
from distviz.models.memory import free_bytes
from distviz.models.open import open_inspected, open_model
from distviz.progress import Progress


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_layer_is_read_once_however_many_batches(
    batch_size: int, folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, str]] = []
    read, drop = LayersOnDisk._read, LayersOnDisk.drop
    monkeypatch.setattr(
        LayersOnDisk, "_read", lambda self, path: (log.append(("read", path)), read(self, path))[1]
    )
    monkeypatch.setattr(
        LayersOnDisk, "drop", lambda self, path: (log.append(("drop", path)), drop(self, path))[1]
    )
    run_texts(folders("llama"), stream=True, batch_size=batch_size)
    layers = [f"model.layers.{index}" for index in range(4)]
    expected = [("read", "")]
    for layer in layers:
        expected += [("read", layer), ("drop", layer)]
    assert log == expected


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the layers that are read, in order."""
    paths: list[str] = []
    real = LayersOnDisk._read
    monkeypatch.setattr(
        LayersOnDisk, "_read", lambda self, path: (paths.append(path), real(self, path))[1]
    )
    return paths


def test_an_encoder_is_streamed_before_its_decoder(folders: Any, read: list[str]) -> None:
    options = {"layers": "1", "arm_layers": "none", "ripple": False}
    assert_equal(
        run_texts(folders("t5"), stream=False, **options),
        run_texts(folders("t5"), stream=True, **options),
    )
    # The decoder needs the whole encoder.
    expected = [f"encoder.block.{index}" for index in range(3)]
    assert read[-5:] == [*expected, "decoder.block.0", "decoder.block.1"]


def test_only_the_layers_that_are_wanted_are_read(folders: Any, read: list[str]) -> None:
    run_texts(folders("llama"), stream=True, layers="1", arm_layers="none", ripple=False)
    assert read == ["", "model.layers.0", "model.layers.1"]


def test_a_model_too_large_is_streamed_by_itself_and_says_so(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(Progress):
        def __init__(self) -> None:
            self.lines: list[str] = []
            self.tokens = self.total = 0

        def stage(self, text: str) -> None:
            self.lines.append(text)

        def start(self, tokens: int, done: int = 0) -> None:
            self.total, self.tokens = tokens, done

        def advance(self, tokens: int) -> None:
            self.tokens += tokens

    told = Told()
    folder = folders("llama")
    monkeypatch.setattr("distviz.models.load_plan.free_bytes", lambda _: 300_000)
    monkeypatch.setattr("distviz.models.free_bytes", lambda _: 1 << 30)
    streamed = run_texts(folder, progress=told)
    assert streamed.manifest["model"]["loaded"]["streamed"]
    line = "the model takes 0.0 GB, 0.0 GB are free: streaming, layers are read one by one"
    assert line in told.lines
    assert told.tokens == told.total > 0
    assert "loaded" not in run_texts(folder, stream=False).manifest["model"]
    # A part that fits is not streamed.
    part = run_texts(folder, layers="0", arm_layers="0", ripple=False, dtype="bf16")
    assert part.manifest["model"]["loaded"]["layers"] == ["model.layers.0"]


def test_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    available = types.SimpleNamespace(available=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    assert free_bytes(torch.device("cpu")) == 1 << 20
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(torch.device("cpu")) == 1 << 18


def test_what_a_model_takes(folders: Any) -> None:
    opened = open_model(str(folders("llama")))
    layers = [f"model.layers.{index}" for index in range(4)]
    layer = 4 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32)
    buffers = sum(value.nbytes for value in opened.model.buffers())
    rest = 4 * (2 * 2048 * 32 + 32) + buffers
    assert bytes_in_memory(opened.model, layers, []) == 4 * layer + rest
    assert bytes_in_memory(opened.model, layers, ["model.layers.1"]) == 2 * layer + rest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "auto"}, "device_map places the whole model"),
        ({"allow_pickle": True}, "only safetensors files can be read layer by layer"),
    ],
)
def test_what_cannot_be_streamed_is_refused(
    options: dict[str, Any], message: str, tiny_llama: Path
) -> None:
    if "allow_pickle" in options:
        from safetensors.torch import load_file

        torch.save(load_file(tiny_llama / "model.safetensors"), tiny_llama / "pytorch_model.bin")
        (tiny_llama / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=rf"cannot be streamed: {message}\n.*stream"):
        distviz.run(str(tiny_llama), text=STREAMED_TEXTS, stream=True, arm_layers="0", **options)


def test_layers_that_share_weights_are_refused_or_loaded_whole(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise offloading.SharedWeightsError("shared")

    monkeypatch.setattr(offloading, "refuse_shared", refuse)
    with pytest.raises(RequestError, match="shared"):
        run_texts(folders("llama"), stream=True)
    monkeypatch.setattr("distviz.models.load_plan.free_bytes", lambda _: 0)
    assert "loaded" not in run_texts(folders("llama")).manifest["model"]


def hooks_on(model: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("_call_impl" in vars(module))
        for module in model.modules()
    )


def test_a_full_disk_ends_all_and_leaves_the_model_clean(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(
        "distviz.measure.opening.open_inspected",
        lambda *a, **k: opened.append(open_inspected(*a, **k)) or opened[0],
    )

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("distviz.measure.tensor_files._write", full)
    with pytest.raises(MeasurementError, match=r"do not fit on the disk of .*: No space left"):
        run_texts(folders("llama"), stream=True, stream_memory=0)
    assert hooks_on(opened[0].model) == 0
    assert not opened[0].on_disk.loaded
    assert not torch.is_inference_mode_enabled()


def test_a_layer_that_cannot_be_read_is_named(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LayersOnDisk._read

    def fail(self: Any, path: str) -> Any:
        if path.endswith("2"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, path)

    monkeypatch.setattr(LayersOnDisk, "_read", fail)
    with pytest.raises(MeasurementError, match=r"weights of model\.layers\.2 cannot be read: .*I"):
        run_texts(folders("llama"), stream=True)


def test_a_place_that_never_fires_is_an_error(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    def skip(self: Any, x: torch.Tensor) -> torch.Tensor:
        gated = torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(gated)

    monkeypatch.setattr(LlamaMLP, "forward", skip)
    with pytest.raises(MeasurementError, match=r"never reached in the forward pass: model\.layers"):
        run_texts(folders("llama"), stream=True)


@pytest.mark.slow
def test_the_peak_on_6_gigabytes_is_two_layers_and_what_waits(tmp_path: Path) -> None:
    """By the operating system; embedding, head, two layers and 700 MB, hidden states in a file."""
    folder = write_llama(tmp_path / "m", layers=25, hidden=3072, intermediate=10240, shards=12)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert size > 6e9
    command = [sys.executable, "-m", "distviz", "run", str(folder), "--stream", "--quiet"]
    command += ["--stream-memory", "0", "--max-tokens", "256", "--no-figures"]
    command += ["--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    ends = 2 * 2048 * 3072 * 2
    bound = ends + 2 * (size - ends) / 25 + 700e6 + LIBRARIES_MB * 1e6
    assert status == 0
    assert usage.ru_maxrss * 1024 < bound
