"""Whether the files of a folder agree with each other: its manifest, its tables, its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.data import fingerprint_of_entries
from distviz.output import counted
from distviz.results.token_groups import PARTITIONS, class_tokens
from distviz.sites import SiteKey

if TYPE_CHECKING:
    from distviz.results.comparison import Pair
    from distviz.results.reading import Folder
    from distviz.stats import Sketch

_KEY = list(SiteKey._fields)


def check_run(
    folder: Folder,
    sketches: Mapping[SiteKey, Mapping[str, Sketch]],
    documents: pd.DataFrame,
    channels: pd.DataFrame,
) -> None:
    """Check that manifest, documents, channels and counts are of one run.

    Raises
    ------
    RequestError
        If one has other distributions, values or documents than another; both are named.
    """
    counts = {key: sum(one.count for one in found.values()) for key, found in sketches.items()}
    for name, table in (("documents.parquet", documents), ("channels.parquet", channels)):
        for key, count in _counts(table).items():
            if key not in counts:
                raise folder.damaged(name, f"counts.parquet has no {_name(key)}")
            if count != counts[key]:
                reason = (
                    f"{counted(count, 'value')} in {_name(key)}, {counts[key]:,} in counts.parquet"
                )
                raise folder.damaged(name, reason)
    for key in counts:
        after = key._replace(phase="after")
        if key.phase == "moved_before" and after not in counts:
            raise folder.damaged("counts.parquet", f"it has {_name(key)}, but no {_name(after)}")
    _check_totals(folder, documents)


def check_extremes(
    folder: Folder, sketches: Mapping[SiteKey, Mapping[str, Sketch]], extremes: pd.DataFrame
) -> None:
    """Check that the first row of each place has the largest magnitude that was counted there.

    Raises
    ------
    RequestError
        If it has another, or the place was not counted.
    """
    if extremes.empty:
        return
    groups: Any = extremes.groupby(_KEY, sort=False)
    for key, largest in groups["value"].agg(lambda values: values.abs().max()).items():
        of_place = sketches.get(SiteKey(*key), {}).values()
        ends = [end for one in of_place if one.count for end in (one.min, one.max)]
        if max(map(abs, ends), default=None) != largest:
            name = _name(SiteKey(*key))
            raise folder.damaged("extremes.csv", f"counts.parquet has no {largest:g} in {name}")


def _counts(table: pd.DataFrame) -> dict[SiteKey, int]:
    """Return the number of values of every distribution of a table that has a column count."""
    if "count" not in table:
        return {}
    groups: Any = table.groupby(_KEY, sort=False)
    # Python's integers: int64 might overflow.
    return {SiteKey(*key): sum(part.tolist()) for key, part in groups["count"]}


def _check_totals(folder: Folder, documents: pd.DataFrame) -> None:
    text = folder.manifest.get("text") or {}
    n_counted = text.get("counted")
    for partition in PARTITIONS:
        total = sum(class_tokens(folder.manifest, partition).values())
        if total and n_counted is not None and total != n_counted:
            what = "token classes" if partition == "class" else f"{partition}s"
            raise folder.damaged(
                folder.name, f"{counted(n_counted, 'counted token')}, {total:,} in its {what}"
            )
    known = text.get("documents")
    if len(documents) and "document" not in documents:
        raise folder.damaged("documents.parquet", "it has no column document")
    found = documents["document"].nunique() if len(documents) else 0
    if known is not None and found > known:
        reason = f"{counted(found, 'document')}, {known:,} in {folder.name}"
        raise folder.damaged("documents.parquet", reason)


def is_text_of(texts: Sequence[dict[str, Any]], manifest: Mapping[str, Any]) -> bool:
    """Whether saved documents have the fingerprint that a manifest states, if it states one."""
    stated = (manifest.get("text") or {}).get("sha256")
    return stated is None or fingerprint_of_entries(texts) == stated


def check_comparison(
    folder: Folder,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    pairs: Sequence[Pair],
    table: pd.DataFrame,
) -> None:
    """Check that the manifest and ``compare.csv`` are of the runs with the manifests a and b.

    Raises
    ------
    RequestError
        If they are of others.
    """
    check_model(folder, "model_a", a, "a")
    check_model(folder, "model_b", b, "b")
    if len(pairs) != len(table):
        raise folder.damaged(
            "compare.csv",
            f"it has {counted(len(table), 'row')}, the runs beside it make "
            f"{counted(len(pairs), 'pair')}",
        )
    columns = ["layer_a", "layer_b", "site", "phase_a", "phase_b", "module_a", "module_b", "stack"]
    for row, (x, y) in zip(table[columns].itertuples(index=False, name=None), pairs, strict=True):
        where = (x.layer, y.layer, x.site, x.phase, y.phase, x.module, y.module, x.stack)
        if row != where:
            raise folder.damaged("compare.csv", f"the runs beside it do not pair {row[:3]}")


def check_model(folder: Folder, field: str, run: Mapping[str, Any], inner: str) -> None:
    """Check that a manifest names the model of the run in an inner folder.

    Raises
    ------
    RequestError
        If it names another one.
    """
    if folder.manifest.get(field) != run.get("model"):
        raise folder.damaged(folder.name, f"its {field} is not that of {inner}/run.json")


def check_filler(folder: Folder, tables: Mapping[str, pd.DataFrame]) -> list[int]:
    """Return the counts of a filler study's manifest, if they are those of its tables.

    Raises
    ------
    RequestError
        If they have others.
    """
    counts: list[int] = folder.manifest.get("counts") or []
    if 0 not in counts or len({*counts}) < len(counts):
        raise folder.damaged(folder.name, f"its counts are {folder.manifest.get('counts')}")
    for name in ("filler.csv", "positions.csv"):
        if set(tables[name]["filler_count"]) != {*counts} - {0}:
            known = ", ".join(map(str, counts))
            raise folder.damaged(name, f"it does not hold the counts of {folder.name}, {known}")
    return counts


def _name(key: SiteKey) -> str:
    return f"layer {key.layer}, {key.site}, {key.phase}, {key.module or key.stack}"
