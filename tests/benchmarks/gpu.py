"""What watching and ARM cost on one GPU; prints one JSON object, and downloads nothing.

python tests/benchmarks/gpu.py [--size 1b|8b|tiny] [--device cuda] [--pairs 7]

A random Llama in bfloat16, 8 x 2,048 tokens. First what is counted on the device is compared with
the CPU path on the same captured tensors; in the hooks, torch refuses whatever synchronises.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import distviz
from distviz.arm import make_redistribution
from distviz.errors import MeasurementError
from distviz.hooks import FormatLosses, attach
from distviz.stats import kernels

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
}
HEADS = {"tiny": (4, 2), "1b": (32, 8), "8b": (32, 8)}
TOKENS = {"tiny": (3, 40), "1b": (8, 2048), "8b": (8, 2048)}
FORMATS = ("nvfp4", "mxfp8", "int8-token", "int8-channel", "int8-asym")
SECONDS = 400.0
"""Left out is what has not begun by then."""


class Bench:
    """One model on one device, and what was measured."""

    def __init__(self, size: str, device: str, pairs: int) -> None:
        names = ("num_attention_heads", "num_key_value_heads")
        heads = dict(zip(names, HEADS[size], strict=True))
        config = LlamaConfig(**SIZES[size], **heads, vocab_size=32_000)
        torch.manual_seed(0)
        self.started, self.pairs, self.device = time.monotonic(), pairs, torch.device(device)
        self.is_cuda = self.device.type == "cuda"
        with self.device:
            self.model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
        shape = TOKENS[size]
        self.ids = torch.randint(3, 32_000, shape).to(self.device)
        self.mask = torch.ones(shape, dtype=torch.long)
        self.mask[0, : shape[1] // 8] = 0
        self.mask = self.mask.to(self.device)
        self.found: dict[str, Any] = {"size": size, "device": device, "tokens": list(shape)}
        if self.is_cuda:
            self.found["gpu"] = torch.cuda.get_device_name(self.device)

    def bare(self) -> None:
        with torch.inference_mode():
            self.model.model(input_ids=self.ids, attention_mask=self.mask, use_cache=False)

    def seconds(self, call: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def ratio(self, first: Callable[[], object], second: Callable[[], object]) -> dict[str, Any]:
        first()
        second()
        times = [(self.seconds(first), self.seconds(second)) for _ in range(self.pairs)]
        return {
            "seconds": statistics.median(a for a, _ in times),
            "against": statistics.median(b for _, b in times),
            "ratio": statistics.median(a / b for a, b in times),
        }

    def part(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure one thing; an error is part of the result."""
        if time.monotonic() - self.started > SECONDS:
            self.found[name] = "left out for want of time"
            return
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            found = measure()
        except (RuntimeError, AssertionError) as error:
            found = f"{type(error).__name__}: {error}"[:2000]
        self.found[name] = found
        if self.is_cuda:
            peak = torch.cuda.max_memory_allocated(self.device)
            self.found.setdefault("peak_bytes", {})[name] = peak

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Let torch raise where a hook synchronises."""
        original = attach._outside_modes

        def strict(receive: Any) -> Any:
            inner = original(receive)

            def outside(point: Any, value: torch.Tensor) -> Any:
                torch.cuda.set_sync_debug_mode("error")
                try:
                    return inner(point, value)
                finally:
                    torch.cuda.set_sync_debug_mode("default")

            return outside

        attach._outside_modes = strict if self.is_cuda else original
        try:
            yield
        finally:
            attach._outside_modes = original

    def watched(self, formats: tuple[str, ...] = (), **options: Any) -> Callable[[], None]:
        def call() -> None:
            for _ in range(2):
                self.bare()

        def whole() -> None:
            with distviz.watch(self.model, **options) as seen:
                seen.recorder.formats = FormatLosses(formats, ("none", "hadamard"))
                call()

        return whole

    def correctness(self) -> dict[str, bool]:
        """Compare counts, extremes and ARM with the CPU path on a captured activation."""
        kept: list[torch.Tensor] = []
        act = self.model.model.layers[0].mlp.act_fn
        handle = act.register_forward_hook(lambda _m, _a, out: kept.append(out.detach()))
        self.bare()
        handle.remove()
        found = {}
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            there = kept[0][:2].to(dtype)
            here, name = there.cpu(), str(dtype).removeprefix("torch.")
            arm = distviz.ARM()
            result, plans, _ = arm.trace(there)
            expected, known, _ = arm.trace(here)
            found[f"plans {name}"] = plans == known
            found[f"values {name}"] = torch.equal(result.cpu(), expected)
            for kind in ("noise", *(f"quantize:{one}" for one in FORMATS)):
                other = make_redistribution(kind, arm)
                found[f"{kind} {name}"] = torch.equal(other(there).cpu(), other(here))
            found[f"counts {name}"] = distviz.Sketch().add(there) == distviz.Sketch().add(here)
        with nullcontext() if self.is_cuda else kernels.force_torch():
            with distviz.watch(self.model, "0", channels=True) as seen, self.refusing():
                self.bare()
            run = seen.run()
        largest = kept[0].flatten(0, 1)[self.mask.flatten().bool()].abs().max()
        found["extremes"] = float(run.extremes["value"].abs().max()) == float(largest)
        return found

    def graphs(self) -> str:
        """Capture the model in a CUDA graph while it is watched: counted or refused by name."""
        with distviz.watch(self.model, "0"):
            self.bare()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    self.bare()
            except MeasurementError as error:
                return f"refused: {error}"
        return "captured"

    def end_to_end(self) -> dict[str, float]:
        """Watch `act` in all layers with channels, and make the result."""
        start = time.perf_counter()
        with distviz.watch(self.model, channels=True) as seen:
            self.bare()
            self.bare()
            self.wait()
            passes = time.perf_counter() - start
        seen.run()
        return {"passes": passes, "result": time.perf_counter() - start - passes}

    def run(self) -> dict[str, Any]:
        """Measure everything that fits into the time."""
        with self.refusing():
            self.part("correct", self.correctness)
            whole = self.watched(FORMATS, channels=True)
            self.part("hooks_without_waiting", lambda: whole() or True)
        twice = lambda: (self.bare(), self.bare())  # noqa: E731
        self.part("watched_over_bare", lambda: self.ratio(self.watched(), twice))
        self.part("with_channels", lambda: self.ratio(self.watched(channels=True), twice))
        self.part("with_formats", lambda: self.ratio(self.watched(FORMATS), twice))
        shape = (*TOKENS[self.found["size"]], SIZES[self.found["size"]]["intermediate_size"])
        for dtype in (torch.bfloat16, torch.float32):
            x = torch.nn.functional.silu(torch.randn(shape, device=self.device)).to(dtype)
            call = partial(distviz.ARM(), x, out=torch.empty_like(x))
            name = f"arm_over_clone_{str(dtype).removeprefix('torch.')}"
            self.part(name, partial(self.ratio, call, x.clone))
        self.part("end_to_end", self.end_to_end)
        if self.is_cuda:
            self.part("cuda_graph", self.graphs)
        self.found["seconds"] = round(time.monotonic() - self.started, 1)
        return self.found


def main() -> None:
    """Print the figures of one size; of 1 B and, where memory allows, 8 B by default on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pairs", type=int, default=7)
    asked = parser.parse_args()
    print(json.dumps(Bench(asked.size, asked.device, asked.pairs).run()))


if __name__ == "__main__":
    main()
