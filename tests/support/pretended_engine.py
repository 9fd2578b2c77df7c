"""A pretended engine of vLLM: workers, a scheduler's steps, and linear layers split among ranks.

It has the names and attributes that distviz reads of vLLM 0.32. It computes in float64.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

HIDDEN, INNER, HEAD, HEADS, KV_HEADS, VOCABULARY = 8, 16, 4, 4, 2, 11


class Ranks:
    """Exchanges values between the threads of several ranks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._slots: list[Any] = [None] * size
        self._barrier = threading.Barrier(size)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self._slots[rank] = value
        self._barrier.wait(30)
        found = list(self._slots)
        self._barrier.wait(30)
        return found


class Group:
    """The tensor-parallel group of one rank."""

    def __init__(self, ranks: Ranks, rank: int) -> None:
        self.ranks, self.rank_in_group, self.world_size = ranks, rank, ranks.size

    def all_gather(self, value: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat(self.ranks.exchange(self.rank_in_group, value), dim=dim)


class ColumnParallelLinear(nn.Module):
    def __init__(self, weight: torch.Tensor, group: Group) -> None:
        super().__init__()
        self.weight, self.tp_size = weight, group.world_size

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x @ self.weight.T, None


class QKVParallelLinear(ColumnParallelLinear):
    num_kv_head_replicas = 1
    head_size = v_head_size = HEAD


class RowParallelLinear(nn.Module):
    input_is_parallel = reduce_results = True
    skip_bias_add, bias = False, None

    def __init__(self, weight: torch.Tensor, group: Group) -> None:
        super().__init__()
        self.weight, self.group, self.tp_size = weight, group, group.world_size
        self.input_size_per_partition = weight.shape[1]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        parts = self.group.ranks.exchange(self.group.rank_in_group, x @ self.weight.T)
        return torch.stack(parts).sum(0), None


class ReluAndMul(nn.Module):
    """Called `SiluAndMul` below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return torch.relu(gate) * up


class SiluAndMul(ReluAndMul):
    pass


SiluAndMul.__module__ = "vllm.model_executor.layers.activation"


class RMSNorm(nn.Module):
    """Adds the residual, as vLLM's does; the norm itself is left out."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        return x if residual is None else (x + residual, x + residual)


class AttentionLayerBase(nn.Module):
    """Adds to each head of the queries its key minus its value; tokens do not see each other."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        heads = q.shape[1] // k.shape[1]
        difference = (k - v).unflatten(1, (-1, HEAD)).repeat_interleave(heads, dim=1)
        return q + difference.flatten(1)


def weights(seed: int) -> dict[str, torch.Tensor]:
    """Whole weights of a layer, float64, multiples of 1/8."""
    random = np.random.default_rng(seed)

    def made(rows: int, columns: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(-3, 4, (rows, columns)) / 8)

    return {
        "q": made(HEADS * HEAD, HIDDEN),
        "k": made(KV_HEADS * HEAD, HIDDEN),
        "v": made(KV_HEADS * HEAD, HIDDEN),
        "o": made(HIDDEN, HEADS * HEAD),
        "gate": made(INNER, HIDDEN),
        "up": made(INNER, HIDDEN),
        "down": made(HIDDEN, INNER),
    }


class Attention(nn.Module):
    def __init__(self, whole: dict[str, torch.Tensor], group: Group) -> None:
        super().__init__()
        rank, size = group.rank_in_group, group.world_size
        copies = max(1, size // KV_HEADS)
        kv_slices = size // copies

        def kv(name: str) -> torch.Tensor:
            return whole[name].chunk(kv_slices)[rank // copies]

        q = whole["q"].chunk(size)[rank]
        self.qkv_proj = QKVParallelLinear(torch.cat([q, kv("k"), kv("v")]), group)
        self.qkv_proj.num_heads = HEADS // size
        self.qkv_proj.num_kv_heads = KV_HEADS // kv_slices
        self.qkv_proj.num_kv_head_replicas = copies
        self.attn = AttentionLayerBase()
        self.o_proj = RowParallelLinear(whole["o"].chunk(size, dim=1)[rank], group)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv, _ = self.qkv_proj(x)
        heads, kv = self.qkv_proj.num_heads * HEAD, self.qkv_proj.num_kv_heads * HEAD
        return self.o_proj(self.attn(*qkv.split([heads, kv, kv], dim=-1)))[0]


class Mlp(nn.Module):
    def __init__(self, whole: dict[str, torch.Tensor], group: Group) -> None:
        super().__init__()
        rank, size = group.rank_in_group, group.world_size
        both = [whole[name].chunk(size)[rank] for name in ("gate", "up")]
        self.gate_up_proj = ColumnParallelLinear(torch.cat(both), group)
        self.act_fn = SiluAndMul()
        self.down_proj = RowParallelLinear(whole["down"].chunk(size, dim=1)[rank], group)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_up_proj(x)[0]))[0]


class Layer(nn.Module):
    def __init__(self, seed: int, group: Group) -> None:
        super().__init__()
        whole = weights(seed)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(), RMSNorm()
        self.self_attn, self.mlp = Attention(whole, group), Mlp(whole, group)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None) -> Any:
        if residual is None:
            residual = x
        else:
            x, residual = self.input_layernorm(x, residual)
        x, residual = self.post_attention_layernorm(self.self_attn(x), residual)
        return self.mlp(x), residual


class PPMissingLayer(nn.Identity):
    pass


class PretendedModel(nn.Module):
    """A decoder; ``layers`` are those of this pipeline stage."""

    def __init__(self, n_layers: int, group: Group, layers: range | None = None) -> None:
        super().__init__()
        own = range(n_layers) if layers is None else layers
        random = np.random.default_rng(9)
        table = random.integers(-2, 3, (VOCABULARY, HIDDEN)) / 8
        self.table = torch.from_numpy(table)
        self.own = own
        made = [Layer(one, group) if one in own else PPMissingLayer() for one in range(n_layers)]
        self.layers = nn.ModuleList(made)

    def forward(self, input_ids: torch.Tensor, before: Any = None) -> Any:
        x, residual = (self.table[input_ids], None) if before is None else before
        for one in self.own:
            x, residual = self.layers[one](x, residual)
        return x, residual


class Runner:
    """The model runner: its batch, and steps with padding behind the tokens."""

    padding = 3

    def __init__(self, model: PretendedModel) -> None:
        self.model = model
        self.input_batch = SimpleNamespace(
            req_ids=[],
            num_computed_tokens_cpu=np.zeros(16, np.int32),
            token_ids_cpu=np.zeros((16, 64), np.int32),
            is_token_ids=np.ones((16, 64), bool),
        )

    def get_model(self) -> nn.Module:
        return self.model

    def execute_model(self, step: Any, before: Any = None) -> Any:
        batch = self.input_batch
        batch.req_ids = list(step.order)
        rows = [torch.zeros(0, dtype=torch.long)]
        for row, name in enumerate(batch.req_ids):
            start, ids = step.computed[name], step.texts[name]
            end = start + step.num_scheduled_tokens[name]
            batch.num_computed_tokens_cpu[row] = start
            batch.token_ids_cpu[row, : len(ids)] = ids
            rows.append(torch.tensor(ids[start:end]))
        tokens = torch.cat(rows)
        if not len(tokens):
            return None
        return self.model(torch.cat([tokens, tokens[:1].repeat(self.padding)]), before)

    def dummy_run(self) -> None:
        self.model(torch.zeros(5, dtype=torch.long))


def step(
    texts: dict[str, list[int]],
    spans: dict[str, tuple[int, int]],
    finished: tuple[str, ...] = (),
) -> Any:
    """A step of the scheduler: positions ``[start, stop)`` of some requests, in this order."""
    counts = {name: stop - start for name, (start, stop) in spans.items()}
    return SimpleNamespace(
        texts=texts,
        order=list(spans),
        computed={name: start for name, (start, _) in spans.items()},
        num_scheduled_tokens=dict(reversed(counts.items())),
        total_num_scheduled_tokens=sum(counts.values()),
        finished_req_ids=set(finished),
    )


def configuration(extension: str = "") -> Any:
    """A `VllmConfig` that distviz accepts."""
    return SimpleNamespace(
        model_config=SimpleNamespace(enforce_eager=True, is_encoder_decoder=False),
        speculative_config=None,
        scheduler_config=SimpleNamespace(async_scheduling=False),
        use_v2_model_runner=False,
        parallel_config=SimpleNamespace(
            data_parallel_size=1,
            prefill_context_parallel_size=1,
            worker_extension_cls=extension,
        ),
    )


class PretendedEngine:
    """Has of `vllm.LLM` what `watch` uses.

    Parameters
    ----------
    extension
        The class that the workers get.
    size, stages
        Tensor-parallel ranks, and pipeline stages.
    """

    def __init__(self, extension: type, size: int = 1, stages: int = 1, n_layers: int = 2) -> None:
        name = f"{extension.__module__}.{extension.__qualname__}"
        self.config = configuration(name)
        self.llm_engine = SimpleNamespace(vllm_config=self.config)
        self.model_config = SimpleNamespace(model="folder/tiny", skip_tokenizer_init=True)
        self.stages: list[list[Any]] = []
        kind = type("Worker", (extension,), {})
        for stage in range(stages):
            ranks = Ranks(size)
            groups = [Group(ranks, rank) for rank in range(size)]
            first, last = stage * n_layers // stages, (stage + 1) * n_layers // stages
            own = []
            for group in groups:
                worker = kind()
                worker.vllm_config, worker.group = self.config, group
                model = PretendedModel(n_layers, group, range(first, last))
                worker.model_runner = Runner(model)
                own.append(worker)
            self.stages.append(own)

    @property
    def workers(self) -> list[Any]:
        return [worker for stage in self.stages for worker in stage]

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        found = []
        for worker in self.workers:
            distributed: Any = ModuleType("vllm.distributed")
            distributed.get_tp_group = lambda worker=worker: worker.group
            modules = {"vllm": ModuleType("vllm"), "vllm.distributed": distributed}
            with patch.dict(sys.modules, modules):
                found.append(getattr(worker, method)(*args))
        return found

    def run(self, step: Any) -> None:
        """Run a step on all ranks, one stage after the other."""
        before: list[Any] = [None] * len(self.stages[0])
        for stage in self.stages:
            with ThreadPoolExecutor(len(stage)) as pool:
                calls = [
                    pool.submit(worker.model_runner.execute_model, step, one)
                    for worker, one in zip(stage, before, strict=True)
                ]
                before = [call.result() for call in calls]


class LLM(PretendedEngine):
    """Made as `vllm.LLM` is; a word of a prompt is a token."""

    def __init__(self, model: str, worker_extension_cls: str, **options: bool) -> None:
        module, _, name = worker_extension_cls.rpartition(".")
        super().__init__(getattr(import_module(module), name))
        self.model_config.model = model
        self.config.model_config.enforce_eager = options["enforce_eager"]
        self.config.scheduler_config.async_scheduling = options["async_scheduling"]

    def generate(self, prompts: list[str]) -> None:
        texts = {str(n): [len(word) for word in text.split()] for n, text in enumerate(prompts)}
        self.run(step(texts, {name: (0, len(ids)) for name, ids in texts.items()}))


def brute_force(ids: list[int], n_layers: int = 2) -> dict[tuple[int, str], np.ndarray]:
    """Values of every site for a text, float64 (tokens, channels), from the whole weights."""
    random = np.random.default_rng(9)
    x = random.integers(-2, 3, (VOCABULARY, HIDDEN))[ids] / 8
    found = {}
    for layer in range(n_layers):
        whole = {name: value.numpy() for name, value in weights(layer).items()}
        q, k, v = (x @ whole[name].T for name in "qkv")
        of_heads = (k - v).reshape(len(ids), KV_HEADS, HEAD)
        mixed = q + of_heads.repeat(HEADS // KV_HEADS, axis=1).reshape(q.shape)
        middle = x + mixed @ whole["o"].T
        gate, up = middle @ whole["gate"].T, middle @ whole["up"].T
        act = np.maximum(gate, 0)
        down = (act * up) @ whole["down"].T
        here = {"attn_in": x, "q": q, "k": k, "v": v, "attention": mixed, "mlp_in": middle}
        here |= {"gate": gate, "act": act, "up": up, "product": act * up, "down": down}
        x = middle + down
        found |= {(layer, site): value for site, value in {**here, "residual": x}.items()}
    return found
