"""``token_groups.parquet``: magnitudes by role and by position of tokens, where they are separate.

A file of `distviz.results.counts_file`: columns layer, site, phase, module, partition, token_class,
value (a magnitude), count, stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from distviz.output import counted
from distviz.results.counts_file import check_counts, read_counts, write_counts
from distviz.results.schema import SCHEMA_VERSION, GroupsNote
from distviz.sites import SiteKey
from distviz.stats import Magnitudes

if TYPE_CHECKING:
    from distviz.results.reading import Folder
    from distviz.stats import Sketch

TokenGroups = dict[SiteKey, dict[str, dict[str, Magnitudes]]]
"""By place, partition and name of the group."""
PARTITIONS = ("class", "role", "position")
"""Ways to group all counted tokens: ``partition`` of ``classes.csv``."""
GROUP_NAMES = {"class": "token class", "role": "role", "position": "position"}
"""What a reader calls the groups of each partition."""
FILE = "token_groups.parquet"
_NAMES = ("layer", "site", "phase", "module", "partition", "token_class", "stack")


def class_tokens(manifest: Mapping[str, Any], partition: str) -> dict[str, int]:
    """Return the number of counted tokens in each group of one of `PARTITIONS`, by a manifest."""
    if partition == "class":
        return manifest.get("token_classes") or {}
    return (manifest.get("token_groups") or {}).get(partition) or {}


def partition_rows(table: pd.DataFrame, partition: str) -> pd.DataFrame:
    """Return the rows of ``classes.csv`` in one of `PARTITIONS`; older files have only classes."""
    own = table["partition"] if "partition" in table else pd.Series("class", table.index)
    return table[own == partition]


def write(path: Path, groups: TokenGroups) -> None:
    """Write the file; equal groups give equal bytes."""
    parts: list[Any] = [
        (key._asdict() | {"partition": partition, "token_class": name}, one.values, one.counts, {})
        for key, partitions in groups.items()
        for partition, by_name in partitions.items()
        for name, one in by_name.items()
    ]
    write_counts(path, _NAMES, parts, SCHEMA_VERSION, "groups")


def parse(data: bytes, sketches: Mapping[SiteKey, Mapping[str, Sketch]]) -> TokenGroups:
    """Return the groups from the bytes of a file, of a run with some sketches.

    Raises
    ------
    ValueError, OSError, pyarrow.ArrowException
        If the file is damaged, or a partition has other numbers of values than the sketches.
    """
    found: TokenGroups = {}
    for entry, values, counts in read_counts(data, GroupsNote, "groups"):
        key = SiteKey(*(entry[name] for name in SiteKey._fields))
        by_name = found.setdefault(key, {}).setdefault(entry["partition"], {})
        exact = values.astype(np.float64)
        check_counts(counts)
        ascends = np.isfinite(exact).all() and (np.diff(exact, prepend=-1.0) > 0).all()
        if entry["token_class"] in by_name or not ascends or (exact < 0).any():
            raise ValueError(f"{_place(entry)}: it is there twice, or is not of magnitudes")
        by_name[entry["token_class"]] = Magnitudes(exact, counts)
    for key, partitions in found.items():
        total = sum(one.count for one in sketches.get(key, {}).values())
        for partition, by_name in partitions.items():
            if sum(one.count for one in by_name.values()) != total:
                name = f"layer {key.layer}, {key.site}, {key.phase}, {partition}"
                raise ValueError(f"{name}: counts.parquet has {counted(total, 'value')}")
    return found


def _place(entry: Mapping[str, Any]) -> str:
    return ", ".join(str(entry[name]) for name in _NAMES)


def read(folder: Folder, sketches: Mapping[SiteKey, Mapping[str, Sketch]]) -> TokenGroups:
    """Return the groups of a run's folder, empty without the file; errors as of `Folder`."""
    if not folder.has(FILE):
        return {}
    data = folder.read(FILE)
    try:
        return parse(data, sketches)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise folder.damaged(FILE, error) from error
