"""What a measurement reads, does and needs, from shapes alone: no weights are loaded.

The largest batch goes through the model on fake tensors: torch's own formulas count operations, the
tensors alive at once are the memory. Disk follows from the number of tables and figures.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from distviz import models
from distviz.cli.dry_run import Estimate
from distviz.data import ROLES, Batch, Corpus, make_batches
from distviz.hooks import HELD_BYTES, attach_hook
from distviz.measure import EmptyModel, choose_points, current
from distviz.settings import RunSettings
from distviz.sites import HookPoint, join_layers
from distviz.stats import float_grid

_TABLE_BYTES = 8 * float_grid.CELLS
_CLASSES = 4
_LOGIT_VALUES, _LOGIT_COPIES = 1 << 23, 7
"""Of a slice of logits; float32 copies of it in each pass until its loss is known."""
_BUFFER_BYTES = 60_000_000
"""Of the libraries of matrix products."""
_SKETCH_DISK, _KEY_DISK, _DOCUMENT_DISK, _PLAN_DISK, _ROW_DISK = 8_500, 19_000, 65, 140, 36
_FORMAT_DISK = 220
"""Bytes on disk: a sketch, statistics of a key, a row of documents, plans and tokens."""
_CHANNEL_DISK, _DETAILS_DISK = (25, 40), 9
"""A row of channels.parquet: from values of 16 bits, from wider ones; more with --channels."""
_FIGURE_DISK = {"png": 82_000, "svg": 160_000, "pdf": 40_000}


@dataclass
class ForwardCost:
    """One forward pass of one batch, without the language head.

    ``peak`` is bytes of activations alive at once, ``values`` the number of values at each point.
    ``is_rough`` means that all of these are estimated from the parameters alone.
    """

    operations: float = 0.0
    peak: int = 0
    values: Counter[HookPoint] = field(default_factory=Counter)
    is_rough: bool = False


def trace(model: nn.Module, points: Sequence[HookPoint], rows: int, tokens: int) -> ForwardCost:
    """Send a batch through a model on the meta device; values are counted at ``points``."""
    cost = ForwardCost()
    base: Any = getattr(model, "base_model", model)

    def see(point: HookPoint, value: torch.Tensor) -> None:
        cost.values[point] += value.numel()

    with ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)  # torch logs what it cannot trace
        attach_hook(model, points, see, stack)
        stack.enter_context(torch.no_grad())
        # With fake tensors transformers skips what needs values; with plain ones it fails.
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Attention(cost))
        stack.enter_context(_Operations(cost))
        ids = torch.zeros((rows, tokens), dtype=torch.long, device="meta")
        options = {"use_cache": False} if hasattr(base.config, "use_cache") else {}
        try:
            base(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        except Exception:  # whatever an architecture cannot do without values  # noqa: BLE001
            return _rough_cost(base, points, rows * tokens)
    return cost


def _rough_cost(base: Any, points: Sequence[HookPoint], positions: int) -> ForwardCost:
    """Estimate from the parameters: each matrix meets every token, an expert its share of them."""
    text = base.config.get_text_config()
    experts = max(getattr(text, name, 0) or 0 for name in ("num_experts", "num_local_experts"))
    share = (getattr(text, "num_experts_per_tok", None) or 1) / experts if experts else 1.0
    embeddings = {id(one.weight) for one in base.modules() if isinstance(one, nn.Embedding)}
    met = sum(
        value.numel() * (share if value.dim() > 2 else 1.0)
        for value in base.parameters()
        if value.dim() > 1 and id(value) not in embeddings
    )
    width = int(getattr(text, "hidden_size", 0) or 1024)
    values = Counter(dict.fromkeys(points, positions * width * 3))
    return ForwardCost(2.0 * positions * met, 64 * positions * width, values, is_rough=True)


class _Attention(TorchFunctionMode):
    """Counts attention as fused kernels do it, which hold no matrix of scores."""

    def __init__(self, cost: ForwardCost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, key, value = given["query"], given["key"], given["value"]
        self.cost.operations += sdpa_flop_count(  # type: ignore[no-untyped-call]
            query.shape, key.shape, value.shape
        )
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the bytes of tensors alive at once."""

    def __init__(self, cost: ForwardCost) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = cost
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        packet, given = func.overloadpacket, kwargs or {}
        if packet is torch.ops.aten._grouped_mm:  # noqa: SLF001
            # torch has no formula for it, and refuses fake tensors of float32.
            left, right = args[:2]
            out = left.new_empty((left.shape[0], right.shape[-1]))
            self.cost.operations += 2.0 * left.numel() * right.shape[-1]
        else:
            out = func(*args, **given)
        if packet in flop_registry:
            self.cost.operations += flop_registry[packet](*args, **given, out_val=out)
        for value in () if func.is_view else tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._hold(value.untyped_storage())
        return out

    def _hold(self, storage: Any) -> None:
        if id(storage) not in self._alive:
            self._alive[id(storage)] = storage.nbytes()
            self.cost.peak = max(self.cost.peak, sum(self._alive.values()))
            weakref.finalize(storage, self._alive.pop, id(storage), None)


@dataclass(frozen=True)
class Part:
    """A text, how often it goes through the model, and whether phase ``after`` is counted."""

    corpus: Corpus
    passes: float = 1
    is_paired: bool = False


def estimate(empty: EmptyModel, settings: RunSettings, parts: Sequence[Part]) -> Estimate:
    """Estimate the measurement of some texts on one model.

    Raises
    ------
    RequestError
        If layers or sites do not exist in this model.
    """
    libraries, opened = models.resident_bytes(), empty.opened
    watched, moved = choose_points(settings, opened.model, opened.mlps)
    batches = [make_batches(part.corpus, settings.batch_size) for part in parts]
    rows, tokens = max((batch.valid.shape for each in batches for batch in each), key=math.prod)
    cost = trace(opened.model, list(dict.fromkeys([*watched, *moved])), rows, tokens)
    sizes = _Sizes(empty, settings, parts, batches, watched, moved, cost, rows, tokens)
    share, positions = empty.layer_share(), sizes.positions(lambda part: part.passes)
    notes = [*opened.details.get("warnings", []), *parts[0].corpus.notes]
    if cost.is_rough:
        notes.append("the forward pass depends on values; the estimate is rough")
    files = empty.files()
    return Estimate(
        model={"name": opened.name, **opened.details},
        files=[{"name": name, "bytes": size} for name, size in files.items()],
        bytes_read=sum(files.values()),
        layers=join_layers(point.layer for point in watched),
        sites=list(dict.fromkeys(point.site for point in watched)),
        points=len(watched),
        arm_layers=sorted({point.layer for point in moved}),
        ripple=settings.ripple,
        streamed=empty.streams,
        reads_all=share == 1,
        text=sizes.text(),
        passes=sum(part.passes for part in parts),
        processes=current().size,
        operations=cost.operations * share * positions / (rows * tokens),
        memory_bytes=sizes.memory(),
        library_bytes=libraries,
        disk_bytes=sizes.disk(),
        notes=notes,
    )


@dataclass(frozen=True)
class _Sizes:
    """Counts and bytes of a measurement; ``rows`` and ``tokens`` are those of the largest batch."""

    empty: EmptyModel
    settings: RunSettings
    parts: Sequence[Part]
    batches: list[list[Batch]]
    watched: list[HookPoint]
    moved: list[HookPoint]
    cost: ForwardCost
    rows: int
    tokens: int

    def positions(self, weight: Callable[[Part], float]) -> float:
        """Return the number of tokens, padding included, each part with its weight."""
        sizes = [sum(batch.valid.size for batch in each) for each in self.batches]
        return sum(weight(part) * size for part, size in zip(self.parts, sizes, strict=True))

    def text(self) -> dict[str, Any]:
        """Return counts of all texts together; documents of the longest."""
        corpora = [part.corpus for part in self.parts]
        return {
            "documents": max(len({w.document for w in corpus.windows}) for corpus in corpora),
            "windows": sum(len(corpus.windows) for corpus in corpora),
            "tokens": sum(corpus.tokens for corpus in corpora),
            "batches": sum(map(len, self.batches)),
            "positions": self.positions(lambda _: 1),
            "truncated": any(corpus.truncated for corpus in corpora),
        }

    def _tables(self, part: Part) -> int:
        """Return the number of sketches, with separate ones for token classes."""
        arm_layers = {point.layer for point in self.moved}
        groups = len(ROLES) + self.tokens.bit_length()  # half a table each
        first, total, tables = min(arm_layers, default=-1), 0, _CLASSES + groups // 2
        for point in self.watched:
            phases = 1 + part.is_paired
            if point in self.moved:
                phases = 4 + (part.is_paired and point.layer > first)
            is_alone = self.settings.classes != "all" and point.layer not in arm_layers
            total += phases if is_alone else phases * tables
        return total

    def memory(self) -> dict[str, int]:
        """Return bytes held at once, by what holds them."""
        model: Any = self.empty.opened.model
        itemsize = getattr(torch, self.empty.opened.details["dtype"]).itemsize
        head: Any = model.get_output_embeddings() if self.empty.opened.has_head else None
        has_logits = head is not None and self.settings.ripple
        words, width = head.weight.shape if has_logits else (0, 0)
        positions = self.rows * self.tokens
        kept = 2 * positions * width  # what enters the head, in both passes
        if self.moved:
            kept += 2 * max(self.cost.values.values(), default=0)
        # A document in several batches has tables of its own until its last one.
        is_split = any(len(b.whole) < len({*b.documents}) for each in self.batches for b in each)
        logits = words and min(max(1, _LOGIT_VALUES // words), positions) * words
        found = {
            "weights": self.empty.weight_bytes(),
            "activations": self.cost.peak + kept * itemsize + self._held_for_pairs(itemsize),
            "buffers": _BUFFER_BYTES,
            "counting": self.rows * _CLASSES * _TABLE_BYTES,
            "sketches": max(map(self._tables, self.parts)) * _TABLE_BYTES * (1 + is_split),
            "logits": (1 + any(p.passes > 1 for p in self.parts)) * _LOGIT_COPIES * 4 * logits,
        }
        if self.settings.formats and "hadamard" in self.settings.rotate:
            found["counting"] += 4 * max(self.cost.values.values(), default=0)
        if self.empty.streams:
            hidden = model.config.get_text_config().hidden_size * itemsize
            found["hidden_states"] = hidden * self.positions(lambda part: 1 + part.is_paired)
        return found | {"total": sum(found.values())}

    def _held_for_pairs(self, itemsize: int) -> int:
        """Return the bytes of values without ARM that wait for the same values with it."""
        values: Counter[Any] = Counter()
        for point in self.watched if any(part.is_paired for part in self.parts) else ():
            if point.experts is None:  # streamed, a layer is passed twice before the next
                values[self.empty.streams and (point.stack, point.layer)] += self.cost.values[point]
        return min(max(values.values(), default=0) * itemsize, HELD_BYTES)

    def disk(self) -> int:
        """Return bytes written: sketches, documents, channels, statistics, texts, figures."""
        is_wide = self.empty.opened.details["dtype"] == "float32"
        channels = sum(self.cost.values[p] for p in self.watched) // (self.rows * self.tokens)
        figures = len(self.watched) + 3 * len({point.site for point in self.watched})
        total = figures * sum(_FIGURE_DISK[kind] for kind in self.settings.figures)
        for part in self.parts:
            phases = 1 + part.is_paired
            keys = len(self.watched) * phases + 2 * len(self.moved)
            documents = len({window.document for window in part.corpus.windows})
            total += self._tables(part) * _SKETCH_DISK + documents * keys * _DOCUMENT_DISK
            each = _CHANNEL_DISK[is_wide] + _DETAILS_DISK * self.settings.channels
            total += channels * phases * each + keys * _KEY_DISK + 10_000
            total += len(part.corpus.windows) * len(self.moved) * _PLAN_DISK
            total += part.corpus.tokens * keys * self.settings.tokens * _ROW_DISK
            losses = len(self.settings.formats) * len(self.settings.rotate)
            total += len(self.watched) * phases * losses * _FORMAT_DISK
            total += self.settings.keep_text * sum(len(str(one)) for one in part.corpus.documents)
        return total
