"""The study behind `distviz filler`: the same prompts with and without meaningless tokens.

Source of the question: arXiv 2510.01032, sections 3.1 and 3.2: filler tokens between system prompt
and question are said to spread the activations of the first layer. Only the prompt's own tokens are
compared, prompt by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from distviz import inference
from distviz.config import RunSettings
from distviz.corpus import Corpus, Document, make_batches, read_documents, tokenize
from distviz.errors import RequestError
from distviz.filler_studies import FillerStudy
from distviz.runs import SCHEMA_VERSION, Run

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from distviz.models import OpenedModel
    from distviz.progress import Progress

__all__ = ["DEFAULT_FILLER", "read_prompts", "study_filler"]

DEFAULT_FILLER = "/"
_QUANTITIES = {
    "near_zero_difference": ("near_zero", False),
    "log_variance_ratio": ("variance", True),
    "log_l1_ratio": ("l1", True),
    "log_l2_ratio": ("l2", True),
    "gini_difference": ("gini", False),
}


def study_filler(
    opened: OpenedModel,
    documents: Sequence[Document],
    settings: RunSettings,
    counts: Sequence[int],
    progress: Progress,
) -> FillerStudy:
    """Measure prompts without filler and with each number of filler tokens; model stays loaded.

    Parameters
    ----------
    opened
        The model; eager attention is needed for ``attention``.
    documents
        Prompts (or texts) that fit, filler included, into ``settings.max_length``.
    settings
        ``filler``, ``filler_kind``, ``filler_position``, ``seed``, ``layers``, ``sites`` and what a
        run needs; ARM is off.
    counts
        Numbers of repetitions; 0 is always measured.

    Raises
    ------
    RequestError
        If a prompt does not fit into a window.
    """
    from distviz import collect

    chosen = replace(settings, arm_layers="none", classes="all")
    runs: dict[int, Run] = {}
    rows = []
    for count in sorted({0, *counts}):
        corpus = _corpus(opened, documents, chosen, count)
        progress.stage(f"measuring with {count} filler tokens" if count else "measuring without")
        with _attention(opened, chosen, corpus, count) as kept:
            runs[count] = collect.measure(opened, corpus, chosen, progress, own_only=True)
        progress.stop()
        rows += kept
    tables = [_changes(runs[0], runs[count], count, chosen.seed) for count in runs if count]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    manifest = _manifest(runs[0], chosen, list(runs))
    return FillerStudy(manifest, runs, table, pd.DataFrame(rows))


def _manifest(run: Run, settings: RunSettings, counts: list[int]) -> dict[str, Any]:
    names = ("filler", "filler_kind", "filler_position", "seed", "chat_template")
    own = {name: getattr(settings, name) for name in names}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "filler",
        **own,
        "filler": settings.filler or DEFAULT_FILLER,
        "counts": counts,
        "model": run.manifest["model"],
        "text": run.manifest["text"],
        "warnings": run.manifest["warnings"],
    }


def read_prompts(sources: Sequence[Path]) -> list[Document]:
    """Read prompts; without sources, two dozen short word problems that come with distviz."""
    if sources:
        return read_documents(list(sources))
    embedded = resources.files("distviz") / "demo" / "prompts.jsonl"
    with resources.as_file(embedded) as path:
        return read_documents([path])


def _corpus(
    opened: OpenedModel, documents: Sequence[Document], settings: RunSettings, count: int
) -> Corpus:
    from distviz import collect

    string = settings.filler or DEFAULT_FILLER
    asked = replace(settings, filler=string if count else None, filler_count=count)
    corpus = tokenize(
        documents,
        opened.tokenizer,
        max_length=settings.max_length,
        filler=collect.filler_of(asked),
        chat_template=settings.chat_template,
    )
    cut = next((window for window in corpus.windows if not window.is_last), None)
    if cut is not None:
        raise RequestError(
            f"prompt '{documents[cut.document].id}' with {count} filler tokens is longer than "
            f"--max-length {settings.max_length}",
            "give a larger --max-length: a prompt and its filler must stay together",
        )
    return corpus


def _changes(without: Run, with_filler: Run, count: int, seed: int) -> pd.DataFrame:
    """Return the rows of ``filler.csv`` for one number of filler tokens."""
    names = ["layer", "stack", "site", "module", "phase"]
    first, second = (
        run.documents.assign(variance=run.documents["std"] ** 2).set_index([*names, "document"])
        for run in (without, with_filler)
    )
    places = pd.MultiIndex.from_frame(first.reset_index()[names].drop_duplicates())
    frames = []
    for quantity, (column, is_log) in _QUANTITIES.items():
        x, y = (
            side.pivot_table(column, index=names, columns="document", sort=False, dropna=False)
            .reindex(places)
            .to_numpy(dtype=float)
            for side in (first, second)
        )
        if is_log:
            x, y = _log(x), _log(y)
        frame = inference.infer_means(x, y, quantity, paired=True, seed=seed)
        frame.insert(0, "quantity", quantity)
        frames.append(pd.concat([places.to_frame(index=False), frame], axis=1))
    table = pd.concat(frames, ignore_index=True)
    table.insert(0, "filler_count", count)
    order = [name for name in table if name not in ("module", "stack")]
    return table.loc[:, [*order, "module", "stack"]]


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.where(values > 0, values, np.nan))


@contextmanager
def _attention(
    opened: OpenedModel, settings: RunSettings, corpus: Corpus, count: int
) -> Iterator[list[dict[str, Any]]]:
    """Collect, while a corpus is measured, what share of attention own tokens keep.

    Of the weights that a token of the prompt, standing behind the filler, gives to all keys, the
    share on the prompt's own tokens; the mean over heads, tokens and prompts (1 without filler).
    """
    batches = make_batches(corpus, settings.batch_size, own_only=True)
    sums: dict[tuple[int, str], list[float]] = {}
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        for layer, path in _attention_modules(opened, settings):
            seen = iter(batches)

            def keep(
                _module: Any,
                _args: Any,
                output: Any,
                key: tuple[int, str] = (layer, path),
                seen: Any = seen,
            ) -> None:
                weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
                batch = next(seen)
                if weights is not None:
                    sums.setdefault(key, []).extend(_kept(weights, batch.counted, batch.valid))

            handle = opened.model.get_submodule(path).register_forward_hook(keep)
            stack.callback(handle.remove)
        yield rows
    for (layer, path), shares in sums.items():
        rows.append(
            {
                "filler_count": count,
                "layer": layer,
                "attention_kept": math.fsum(shares) / len(shares),
            }
            | {"prompts": len(shares), "module": path}
        )


def _kept(weights: torch.Tensor, own: NDArray[np.bool_], valid: NDArray[np.bool_]) -> list[float]:
    """Mean share on own keys for each row of a batch; weights (batch, heads, queries, keys)."""
    shares = []
    mean_heads = weights.detach().float().mean(dim=1).cpu().double().numpy()
    for row, of_row in enumerate(mean_heads):
        fillers = np.flatnonzero(valid[row] & ~own[row])
        behind = own[row] & (np.arange(own.shape[1]) > (fillers[0] if fillers.size else -1))
        if behind.any():
            shares.append(float(of_row[behind][:, own[row]].sum(axis=1).mean()))
    return shares


def _attention_modules(opened: OpenedModel, settings: RunSettings) -> list[tuple[int, str]]:
    """Return (layer, path) of the attention of every observed layer."""
    from distviz.mlp import count_layers
    from distviz.sites import parse_layers

    layers = parse_layers(settings.layers, max(count_layers(opened.mlps).values()), "--layers")
    found: dict[int, str] = {}
    for mlp in opened.mlps:
        for point in mlp.points:
            if point.site in ("q", "attention") and point.layer in layers:
                found.setdefault(point.layer, point.module.rpartition(".")[0])
    return sorted(found.items())
