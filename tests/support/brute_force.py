"""What a run must say, the slow way: plain hooks keep every value, NumPy does the rest.

Written from DESIGN.md and ARM.md (and, for the random numbers, from the published description of
the hash), and from nothing else.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from support.arm_reference import reference_plan, reference_selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import nn

CLASSES = ("digits", "operators", "conjunctions", "other")
PERCENTILES = {
    "p0_1": 0.1, "p1": 1, "p5": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "p99": 99,
    "p99_9": 99.9,
}  # fmt: skip
CONJUNCTIONS = [
    "and", "or", "but", "nor", "so", "yet", "for", "because", "although", "though", "since",
    "unless", "while", "whereas", "if", "then", "thus", "hence", "therefore", "however", "when",
    "whenever", "until", "before", "after", "once", "than", "whether", "as", "that",
]  # fmt: skip


# Text ---------------------------------------------------------------------------------------


@dataclass
class RawBatch:
    """One batch as the model gets it; rows are windows."""

    ids: NDArray[np.int64]
    valid: NDArray[np.bool_]
    documents: list[int]
    windows: list[int]

    def inputs(self) -> dict[str, Any]:
        mask = torch.from_numpy(self.valid.astype(np.int64))
        return {"input_ids": torch.from_numpy(self.ids), "attention_mask": mask}


def cut_windows(
    tokenizer: Any, texts: Sequence[str], max_length: int, start: Sequence[int]
) -> list[tuple[int, int, list[int]]]:
    """(document, window, ids); ``start`` is what the tokenizer adds at the start."""
    found = []
    for document, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        room = max_length - len(start)
        for window, place in enumerate(range(0, len(ids), room)):
            found.append((document, window, [*start, *ids[place : place + room]]))
    return found


def batch_windows(windows: Sequence[tuple[int, int, list[int]]], size: int) -> list[RawBatch]:
    batches = []
    for place in range(0, len(windows), size):
        group = windows[place : place + size]
        longest = max(len(ids) for _, _, ids in group)
        ids = np.zeros((len(group), longest), np.int64)
        valid = np.zeros((len(group), longest), bool)
        for row, (_, _, tokens) in enumerate(group):
            ids[row, : len(tokens)] = tokens
            valid[row, : len(tokens)] = True
        documents, numbers = [list(part) for part in zip(*[w[:2] for w in group], strict=True)]
        batches.append(RawBatch(ids, valid, documents, numbers))
    return batches


def token_class(text: str) -> str:
    word = text.strip()
    if re.fullmatch(r"[0-9]+([.,][0-9]+)*", word):
        return "digits"
    if word and all(sign in "-+*/=<>^%&|~!×÷·∙±∓≤≥≠≈√∑∏∫−∗⋅" for sign in word):
        return "operators"
    return "conjunctions" if word.lower() in CONJUNCTIONS else "other"


# Hooks --------------------------------------------------------------------------------------


def largest_of(
    rows: Iterable[tuple[tuple[int, ...], NDArray[np.float64]]], number: int = 20
) -> list[tuple[float, tuple[int, ...], int]]:
    """(value, place, channel) of the largest finite magnitudes, the earliest first of equals.

    ``rows`` are the values of each token, (channels,), and its place.
    """
    every = [
        (float(x), place, channel)
        for place, values in rows
        for channel, x in enumerate(values)
        if math.isfinite(x)
    ]
    return sorted(every, key=lambda one: (-abs(one[0]), *one[1:]))[:number]


@contextlib.contextmanager
def keeping(
    model: nn.Module, places: dict[str, tuple[str, str]]
) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Keep what passes: name -> (module path, "input" or "output")."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in places}

    def keep(name: str, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        seen[name].append(tensor.detach().clone())

    handles = []
    for name, (path, side) in places.items():
        module = model.get_submodule(path)
        if side == "input":
            hook = module.register_forward_pre_hook(lambda _, a, n=name: keep(n, a[0]))
        else:
            hook = module.register_forward_hook(lambda _, __, out, n=name: keep(n, out))
        handles.append(hook)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def hook_count(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks)
        + len(module._forward_pre_hooks)
        + len(module._forward_hooks_with_kwargs)
        + len(module._forward_pre_hooks_with_kwargs)
        + len(module._forward_hooks_always_called)
        + len(module._backward_hooks)
        for module in model.modules()
    )


# ARM ----------------------------------------------------------------------------------------

_ALL = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _ALL
    return word ^ (word >> 31)


def uniforms(keys: Sequence[int], channels: int) -> NDArray[np.float32]:
    """u of one token: keys are seed, layer, pass, slot, document, token."""
    state = _GOLDEN
    for key in keys:
        state = _mix(((state + _GOLDEN) & _ALL) ^ (int(key) & _ALL))
    first, second = state & 0xFFFFFFFF, state >> 32
    low = np.uint64(0xFFFFFFFF)

    def times(word: NDArray[np.uint64], factor: int) -> NDArray[np.uint64]:
        return (word * np.uint64(factor)) & low

    word = (times(np.arange(channels, dtype=np.uint64), 0x9E3779B9) + np.uint64(first)) & low
    word = times(word ^ (word >> np.uint64(16)), 0x21F0AAAD)
    word = ((word ^ (word >> np.uint64(15))) + np.uint64(second)) & low
    word = times(word, 0xD35A2D97)
    word = times(word ^ (word >> np.uint64(15)), 0x735A2D97)
    word ^= word >> np.uint64(15)
    return ((word >> np.uint64(8)).astype(np.float64) * 2.0**-24).astype(np.float32)


def token_key(window: int, position: int) -> int:
    """Token index = (document, window, position in the window)."""
    return (window << 32) + position


def plain_arm(
    x: torch.Tensor,
    keys: Sequence[tuple[int, int]],
    *,
    layer: int,
    seed: int = 0,
    passes: int = 1,
    mode: str = "replace",
    slots: Sequence[int] | None = None,
    **chosen: Any,
) -> tuple[torch.Tensor, NDArray[np.bool_], list[Any]]:
    """One sequence (rows, channels); ``keys`` are (document, token) of each row.

    ``slots`` are the ranks of the experts that made the rows, 0 where there are none.

    Returns the new tensor, which values moved in any pass, and the plan of each pass.
    """
    result, moved, plans = x.clone(), np.zeros(tuple(x.shape), bool), []
    for number in range(passes):
        plan = reference_plan(result, **chosen)
        plans.append(plan)
        if plan is None:
            continue
        owners = zip(slots or [0] * len(keys), keys, strict=True)
        u = np.stack(
            [uniforms([seed, layer, number, slot, *key], x.shape[1]) for slot, key in owners]
        ).reshape(-1)
        taken = reference_selection(result, plan.k)
        flat = result.reshape(-1).clone()
        old = flat[taken]
        bounds = np.where(
            (old >= 0).numpy(), np.float32(plan.upper), np.float32(plan.lower)
        ).astype(np.float32)
        amount = torch.from_numpy(u[taken] * bounds)
        new = amount if mode == "replace" else old.to(torch.float32) + amount
        flat[taken] = new.to(x.dtype)
        result = flat.reshape(x.shape)
        moved.reshape(-1)[taken] = True
    return result, moved, plans


# Statistics ---------------------------------------------------------------------------------


def raw(values: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """Every value, exactly, flat."""
    parts = [value.detach().to(torch.float64).reshape(-1).numpy() for value in values]
    return np.concatenate(parts) if parts else np.empty(0)


def on_grid(values: NDArray[np.float64], grid: str = "bf16") -> NDArray[np.float64]:
    """Finite values rounded to the grid; what would become infinite stays the largest."""
    kind = torch.float16 if grid == "fp16" else torch.bfloat16
    kept = values[np.isfinite(values)]
    top = float(torch.finfo(kind).max)
    rounded = torch.from_numpy(kept.astype(np.float32)).to(kind).to(torch.float64).numpy()
    return np.clip(rounded, -top, top)


def lower_median(values: NDArray[np.float64]) -> float:
    return float(np.sort(values)[(values.size - 1) // 2]) if values.size else math.nan


def mad_of(x: NDArray[np.float64]) -> float:
    size = np.abs(x)
    return lower_median(np.abs(size - lower_median(size)))


def eps_of(values: NDArray[np.float64], c: float = 0.13) -> float:
    return 1.4826 * mad_of(on_grid(values)) * c


def total(x: NDArray[np.float64]) -> float:
    """Pairwise sum in the widest type at hand."""
    return float(x.astype(np.longdouble).sum())


def gini_of(x: NDArray[np.float64]) -> float:
    a = np.sort(np.abs(x))
    n = a.size
    if not n or not a.sum():
        return math.nan
    ranks = np.arange(1, n + 1)
    return 2 * total(ranks * a) / (n * total(a)) - (n + 1) / n


def describe(values: NDArray[np.float64], eps: float) -> dict[str, float]:
    """The columns of stats.csv from every value."""
    finite = values[np.isfinite(values)]
    x = on_grid(values)
    found: dict[str, float] = {
        "count": finite.size,
        "nan": int(np.isnan(values).sum()),
        "inf": int(np.isinf(values).sum()),
        "zeros": int((finite == 0).sum()),
    }
    names = ["min", "max", "mean", "std", "skewness", "kurtosis", *PERCENTILES, "mad", "near_zero"]
    if not x.size:
        found |= dict.fromkeys([*names, "gini", "entropy_bits"], math.nan)
        return found | {"eps": eps, "l1": 0.0, "l2": 0.0}
    mean = total(finite) / finite.size  # sums of powers are taken before any rounding
    d = finite - mean
    second, third, fourth = (total(p) / finite.size for p in (d**2, d**2 * d, (d**2) ** 2))
    std = math.sqrt(second)
    found |= {"min": finite.min(), "max": finite.max(), "mean": mean, "std": std}
    flat = second == 0
    found["skewness"] = math.nan if flat else third / second**1.5
    found["kurtosis"] = math.nan if flat else fourth / second**2 - 3
    # a rounded value may overstep the exact extremes, which are known
    percentiles = np.percentile(x, list(PERCENTILES.values())).clip(finite.min(), finite.max())
    found |= dict(zip(PERCENTILES, percentiles.tolist(), strict=True))
    found |= {"mad": mad_of(x), "eps": eps, "near_zero": float((np.abs(x) < eps).mean())}
    found |= {"l1": total(np.abs(finite)), "l2": math.sqrt(total(finite**2)), "gini": gini_of(x)}
    _, counts = np.unique(x + 0.0, return_counts=True)
    shares = counts / x.size
    found["entropy_bits"] = float(-(shares * np.log2(shares)).sum())
    return found


EXACT = ("count", "nan", "inf", "zeros", "min", "max")


def assert_stats(row: Any, values: NDArray[np.float64], eps: float) -> None:
    """Compare one row of stats.csv with every value."""
    expected = describe(values, eps)
    x = np.abs(on_grid(values))
    largest = float(x.max()) if x.size else 0.0
    for name, wanted in expected.items():
        found = row[name]
        if math.isnan(wanted):
            assert math.isnan(found), (name, found)
        elif name in EXACT:
            assert found == wanted, (name, found, wanted)
        else:
            tolerance = 1e-13 * largest + 1e-13
            assert math.isclose(found, wanted, rel_tol=1e-11, abs_tol=tolerance), (
                name, found, wanted,
            )  # fmt: skip


# A whole measurement ------------------------------------------------------------------------


@dataclass
class Measured:
    """Every value of two passes, by (layer, site, phase): one array (tokens, channels) a window.

    ``places`` says which window each array is; padding has been cut off.
    """

    values: dict[tuple[int, str, str], list[torch.Tensor]] = field(default_factory=dict)
    moved: dict[int, list[NDArray[np.bool_]]] = field(default_factory=dict)
    plans: dict[int, list[list[Any]]] = field(default_factory=dict)
    places: list[tuple[int, int]] = field(default_factory=list)
    ids: list[NDArray[np.int64]] = field(default_factory=list)
    logits: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def of(
        self, key: tuple[int, str, str], keep: Callable[[int], Any] | None = None
    ) -> NDArray[np.float64]:
        """All values at a key; ``keep`` chooses tokens of a window by its number."""
        parts = []
        for number, value in enumerate(self.values[key]):
            part = value.to(torch.float64).numpy()
            chosen = slice(None) if keep is None else np.asarray(keep(number))
            if key[2] in ("moved_before", "moved_after"):
                parts.append(part[chosen][self.moved[key[0]][number][chosen]].reshape(-1))
            else:
                parts.append(part[chosen].reshape(-1))
        return np.concatenate(parts)

    def document(self, key: tuple[int, str, str], document: int) -> NDArray[np.float64]:
        return self.of(
            key, lambda number: np.full(len(self.ids[number]), self.places[number][0] == document)
        )


def measure(
    model: nn.Module,
    batches: Sequence[RawBatch],
    places: dict[tuple[int, str], tuple[str, str]],
    acts: dict[int, str],
    *,
    has_head: bool,
    ripple: bool = True,
    call: dict[str, Any] | None = None,
    **arm: Any,
) -> Measured:
    """Run the model without and with ARM (behind ``acts``: layer -> path) and keep everything."""
    found = Measured()
    names = {f"{layer} {site}": place for (layer, site), place in places.items()}
    for batch in batches:
        found.places += list(zip(batch.documents, batch.windows, strict=True))
        found.ids += [ids[valid] for ids, valid in zip(batch.ids, batch.valid, strict=True)]
        seen = _call(found, model, batch, names, "before", has_head=has_head, call=call)
        if not ripple:
            for layer in acts:
                new = _redistribute(found, batch, layer, seen[f"{layer} act"][0], arm)
                _keep(found, (layer, "act", "after"), new, batch)
        elif acts:
            # Hooked before those that watch, which so see what ARM made.
            handles = [
                model.get_submodule(path).register_forward_hook(
                    lambda _, __, out, n=layer, of=batch: _redistribute(found, of, n, out, arm)
                )
                for layer, path in acts.items()
            ]
            _call(found, model, batch, names, "after", has_head=has_head, call=call)
            for handle in handles:
                handle.remove()
    first = min(acts, default=0)
    for key in [key for key in found.values if key[2] == "arm_input"]:
        if not ripple or key[0] == first:
            del found.values[key]
    return found


def _call(
    found: Measured,
    model: nn.Module,
    batch: RawBatch,
    names: dict[str, tuple[str, str]],
    phase: str,
    *,
    has_head: bool,
    call: dict[str, Any] | None,
) -> dict[str, list[torch.Tensor]]:
    with torch.inference_mode(), keeping(model, names) as seen:
        output = model(**(batch.inputs() | (call or {})))
    for name, (tensor,) in seen.items():
        layer, site = name.split()
        _keep(found, (int(layer), site, phase), tensor, batch)
    if has_head:
        kept = found.logits.setdefault(phase, [])
        kept += [
            logits[torch.from_numpy(valid)].double().numpy()
            for logits, valid in zip(output.logits, batch.valid, strict=True)
        ]
    return seen


def _keep(
    found: Measured, key: tuple[int, str, str], tensor: torch.Tensor, batch: RawBatch
) -> None:
    whole = tensor.reshape(*batch.valid.shape, -1)
    kept = found.values.setdefault(key, [])
    kept += [
        row[torch.from_numpy(valid)].clone() for row, valid in zip(whole, batch.valid, strict=True)
    ]


def _redistribute(
    found: Measured, batch: RawBatch, layer: int, output: torch.Tensor, arm: dict[str, Any]
) -> torch.Tensor:
    whole = output.reshape(*batch.valid.shape, -1)
    result = whole.clone()
    for row, size in enumerate(batch.valid.sum(axis=1).tolist()):
        keys = [
            (batch.documents[row], token_key(batch.windows[row], position))
            for position in range(size)
        ]
        new, moved, plans = plain_arm(whole[row, :size], keys, layer=layer, **arm)
        result[row, :size] = new
        found.moved.setdefault(layer, []).append(moved)
        found.plans.setdefault(layer, []).append(plans)
    _keep(found, (layer, "act", "arm_input"), whole, batch)
    _keep(found, (layer, "act", "moved_before"), whole, batch)
    _keep(found, (layer, "act", "moved_after"), result, batch)
    return result.reshape(output.shape)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def effect_of(found: Measured) -> dict[str, float]:
    """Loss, KL and agreement over positions that have a next token in their window."""
    loss: dict[str, list[float]] = {"before": [], "after": []}
    kl, same = [], []
    for number, ids in enumerate(found.ids):
        before = log_softmax(found.logits["before"][number])[:-1]
        after = log_softmax(found.logits["after"][number])[:-1]
        targets = ids[1:]
        rows = np.arange(len(targets))
        loss["before"] += (-before[rows, targets]).tolist()
        loss["after"] += (-after[rows, targets]).tolist()
        kl += (np.exp(before) * (before - after)).sum(axis=1).tolist()
        same += (before.argmax(axis=1) == after.argmax(axis=1)).tolist()
    return {
        "loss_before": float(np.mean(loss["before"])),
        "loss_after": float(np.mean(loss["after"])),
        "kl": float(np.mean(kl)),
        "top1_agreement": float(np.mean(same)),
        "positions": len(kl),
    }
