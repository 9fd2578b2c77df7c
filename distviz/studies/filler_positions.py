"""The effect of filler tokens along the prompt: by token, and by distance to the filler.

A prompt's own tokens have the same ids with and without filler, so they align one to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distviz.data import PARTS
from distviz.hooks import STATISTICS
from distviz.results import QUANTITIES
from distviz.stats import inference

if TYPE_CHECKING:
    from distviz.data import Corpus
    from distviz.sites import SiteKey

Rows = Mapping[tuple["SiteKey", int], NDArray[np.float64]]

_PLACE = ["layer", "site", "module", "stack"]
_BIN = ["distance_low", "distance_high"]
_SINGLE = 4
"""Larger distances share bins, each twice as wide as the one before."""


def token_names(corpus: Corpus, tokenizer: Any, *, skip_special: bool = False) -> pd.DataFrame:
    """Return a row for each own token of every prompt.

    Columns: ``document``, ``position`` among the own tokens, ``part`` (of `PARTS`), ``distance``
    to the filler in own tokens (-1 is the last before it, 1 the first after it; negative without
    filler) and ``token``, the decoded text.
    """
    special = list(corpus.special) if skip_special else []
    frames = []
    for window in corpus.windows:
        own = np.flatnonzero(window.own)
        fillers = np.flatnonzero(~window.own)
        position = np.arange(own.size)
        distance = position - (int((own < fillers[0]).sum()) if fillers.size else own.size)
        frame = pd.DataFrame(
            {
                "document": window.document,
                "position": position,
                "part": window.parts[own],
                "distance": np.where(distance < 0, distance, distance + 1),
                "token": window.ids[own],
            }
        )
        frames.append(frame[~frame["token"].isin(special)])
    names = pd.concat(frames, ignore_index=True)
    texts = {int(token): tokenizer.decode([int(token)]) for token in names["token"].unique()}
    names["token"] = names["token"].map(texts).astype("category")
    names["part"] = pd.Categorical.from_codes(names["part"].to_numpy(), pd.Index(PARTS))
    return names


def token_changes(
    names: pd.DataFrame, without: Rows, with_filler: Rows, count: int
) -> pd.DataFrame:
    """Return the rows of ``tokens.parquet`` for one number of filler tokens, sorted.

    Parameters
    ----------
    names
        Of `token_names`, for this number.
    without, with_filler
        (key, document) -> float64 (own tokens, columns of `STATISTICS`).
    """
    sizes = names["document"].value_counts(sort=False)
    unseen = {
        document: np.full((size, len(STATISTICS)), np.nan)
        for document, size in zip(sizes.index.tolist(), sizes.tolist(), strict=True)
    }
    frames = []
    for key in sorted({key for key, _ in without}):
        before, after = (
            np.concatenate([rows.get((key, name), absent) for name, absent in unseen.items()]).T
            for rows in (without, with_filler)
        )
        columns: dict[str, Any] = {str(name): names[name] for name in names}
        columns |= dict(zip(STATISTICS, before, strict=True))
        columns |= dict(zip(QUANTITIES, _changes(before, after), strict=True))
        first = {"filler_count": count, "layer": key.layer, "site": key.site}
        last = {"module": key.module, "stack": key.stack}
        frames.append(pd.DataFrame(first | columns | last))
    return pd.concat(frames, ignore_index=True)


def _changes(before: NDArray[np.float64], after: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the changes in the order of `QUANTITIES`, from statistics (5, tokens)."""
    found = []
    for quantity, x, y in zip(QUANTITIES, before, after, strict=True):
        is_log = quantity.startswith("log_")
        found.append(inference.log_positive(y) - inference.log_positive(x) if is_log else y - x)
    return found


def by_distance(tokens: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return ``positions.csv``: the mean changes by distance to the filler, over prompts.

    A prompt's value is the mean over its tokens in a bin of distances (-8 to -5, ..., -1, 1, 2, 3,
    4, 5 to 8, 9 to 16, ...); interval and p-value are as in `distviz.stats.inference`, corrected
    across layers and bins. ``tokens`` is how many tokens of all prompts are in a bin.
    """
    low, high = _bins(tokens["distance"].to_numpy())
    table = tokens.assign(distance_low=low, distance_high=high)
    names = ["filler_count", *_PLACE, *_BIN, "document"]
    groups = table.groupby(names, observed=True, sort=True)[list(QUANTITIES)]
    means, sizes = groups.mean(), groups.size()
    frames = []
    for count in means.index.unique("filler_count"):
        of_count = means.xs(count)
        number = sizes.xs(count).groupby(level=[*_PLACE, *_BIN], observed=True).sum()
        for quantity in QUANTITIES:
            values = of_count.pivot_table(quantity, [*_PLACE, *_BIN], "document", observed=True)
            changes = values.to_numpy(dtype=float)
            rows = inference.infer_means(
                np.zeros_like(changes), changes, quantity, paired=True, seed=seed
            )
            rows.insert(0, "quantity", quantity)
            rows.insert(0, "tokens", number.reindex(values.index).to_numpy())
            places = values.index.to_frame(index=False)
            frames.append(pd.concat([places, rows], axis=1).assign(filler_count=count))
    found: pd.DataFrame = pd.concat(frames, ignore_index=True)
    first, last = ["filler_count", "layer", "site", *_BIN], ["module", "stack"]
    found[["site", *last]] = found[["site", *last]].astype(str)
    order = [*first, *(name for name in found if name not in {*first, *last}), *last]
    return found.reindex(columns=order)


def _bins(distance: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ends of each distance's bin, the lower one first."""
    size = np.abs(distance)
    far = 2 ** np.ceil(np.log2(np.maximum(size, 1))).astype(np.int64)
    near_end = np.where(size <= _SINGLE, size, far // 2 + 1)
    far_end = np.where(size <= _SINGLE, size, far)
    is_before = distance < 0
    return np.where(is_before, -far_end, near_end), np.where(is_before, -near_end, far_end)
