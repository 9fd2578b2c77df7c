"""Thresholds by layer for ``threshold:FILE``: a CSV, or the folder that `distviz whatif` writes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, first_line
from distviz.output import counted, listed
from distviz.parsing import path_of

if TYPE_CHECKING:
    from distviz.sites import HookPoint

_KEYS = ("stack", "site", "module")
_WHATIF, _NOTE = "whatif.csv", "whatif.json"
Row = Mapping[str, str]


@dataclass(frozen=True)
class ThresholdTable:
    """The largest magnitudes that become zero, by place.

    Attributes
    ----------
    path
        Of the file or folder, as given.
    rows
        (layer, the columns of the place that the file has, threshold).
    is_of_counts
        Whether they were found in counts, where a float32 value counts as its nearest bfloat16.
    """

    path: str
    rows: tuple[tuple[int, tuple[tuple[str, str], ...], float], ...]
    is_of_counts: bool = False

    def of(self, point: HookPoint) -> float:
        """Return the threshold of a place.

        Raises
        ------
        RequestError
            If the file has none for it, or several.
        """
        found = {
            threshold
            for layer, keys, threshold in self.rows
            if layer == point.layer and all(getattr(point, name) == value for name, value in keys)
        }
        if len(found) == 1:
            return found.pop()
        where = f"layer {point.layer}, site {point.site} ({point.module})"
        if found:
            raise RequestError(f"{self.path} has {counted(len(found), 'threshold')} for {where}")
        layers = sorted({layer for layer, _, _ in self.rows})
        raise RequestError(
            f"{self.path} has no threshold for {where}",
            f"it has {listed('layer', ', '.join(map(str, layers)))}; "
            "give others to --arm-layers or --at",
        )


def read_thresholds(text: str, name: str) -> ThresholdTable:
    """Read thresholds from a CSV or the folder of a what-if.

    Parameters
    ----------
    text
        The path. A CSV has columns ``layer`` and ``threshold``, and may have ``site``, ``stack``
        and ``module``. Of a what-if, the rows of phase ``before`` count (``after`` where there are
        no others); with several levels, ``PATH@50%`` names one.
    name
        The redistribution, for messages.

    Raises
    ------
    RequestError
        If it cannot be read, or does not say which thresholds to take.
    """
    given, _, level = text.rpartition("@")
    if not given or Path(path_of(text, name)).exists():
        given, level = text, ""
    path = Path(path_of(given, name))
    is_whatif = path.is_dir() or path.name == _WHATIF
    file = path / _WHATIF if path.is_dir() else path
    rows = _read(file, name)
    if is_whatif:
        rows = _of_level(rows, level, text, name)
    elif level:
        raise RequestError(f"redistribution '{name}': @{level} is for the folder of a what-if")
    found = tuple(_parsed(rows, name, file))
    if not found:
        raise RequestError(f"redistribution '{name}': {file} has no thresholds")
    return ThresholdTable(text, found, is_whatif and _is_rounded(file.parent / _NOTE))


def _read(file: Path, name: str) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(
            f"redistribution '{name}': {file} cannot be read: {first_line(error)}",
            "threshold:VALUE takes a number, threshold:FILE a CSV or the folder of a what-if",
        ) from None
    missing = [column for column in ("layer", "threshold") if rows and column not in rows[0]]
    if missing:
        raise RequestError(
            f"redistribution '{name}': {file} has no column {' and no column '.join(missing)}",
            "columns: layer, threshold, and where needed site, stack, module",
        )
    return rows


def _of_level(rows: list[dict[str, str]], level: str, text: str, name: str) -> list[dict[str, str]]:
    """Return the rows of one level of sparsity, or one threshold for all places."""
    asked = [row for row in rows if row.get("question") in ("sparsity", "threshold")]
    phases = [row.get("phase") for row in asked]
    phase = "before" if "before" in phases else "after"
    asked = [row for row in asked if row.get("phase") == phase]
    names = {_level_name(row): row for row in asked}
    if level:
        wanted = _number(level.removesuffix("%")) / (100 if level.endswith("%") else 1)
        kept = [row for row in asked if math.isclose(_number(row["level"]), wanted)]
    else:
        kept = asked if len(names) == 1 else []
    if not kept:
        known = ", ".join(names) or "none"
        which = f"has no level {level}" if level else "does not say which level"
        raise RequestError(
            f"redistribution '{name}' {which}: the what-if has {known}",
            f"such as threshold:{text.rpartition('@')[0] or text}@{next(iter(names), '50%')}",
        )
    return kept


def _level_name(row: Row) -> str:
    return f"{100 * float(row['level']):g}%" if row["level"] else row["threshold"]


def _parsed(
    rows: list[dict[str, str]], name: str, file: Path
) -> Iterator[tuple[int, tuple[tuple[str, str], ...], float]]:
    for number, row in enumerate(rows, start=2):
        layer, threshold = _number(row["layer"]), _number(row["threshold"])
        if not (layer == int(layer) if math.isfinite(layer) else False) or not threshold >= 0:
            raise RequestError(
                f"redistribution '{name}': line {number} of {file}: "
                f"layer '{row['layer']}', threshold '{row['threshold']}'",
                "give a whole number and a magnitude",
            )
        keys = tuple((key, row[key]) for key in _KEYS if row.get(key))
        yield int(layer), keys, threshold


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _is_rounded(note: Path) -> bool:
    try:
        return bool(json.loads(note.read_text(encoding="utf-8")).get("is_rounded"))
    except (OSError, ValueError):
        return False
