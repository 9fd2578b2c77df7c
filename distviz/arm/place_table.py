"""Parameters by place for ``threshold:FILE`` and ``quantize:FILE``.

A CSV; thresholds also from the folder that `distviz whatif` writes.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
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
Keys = tuple[tuple[str, str], ...]
_TAKES = {
    "threshold": "threshold:VALUE takes a number, threshold:FILE a CSV or the folder of a what-if",
    "format": "quantize:FORMAT takes the name of a format, quantize:FILE a CSV",
}
_ALLOWED = {"threshold": "a magnitude", "format": "the name of a format"}


@dataclass(frozen=True)
class PlaceTable:
    """The threshold or the format of each place.

    Attributes
    ----------
    path
        Of the file or folder, as given.
    column
        ``threshold``, the largest magnitude that becomes zero, or ``format``, a name.
    rows
        (layer, the columns of the place that the file has, value of the column).
    is_of_counts
        Whether thresholds were found in counts, where a float32 value counts as its nearest
        bfloat16.
    """

    path: str
    column: str
    rows: tuple[tuple[int, Keys, Any], ...]
    is_of_counts: bool = False

    def of(self, point: HookPoint) -> Any:
        """Return the value of a place.

        Raises
        ------
        RequestError
            If the file has none for it, or several.
        """
        found = {
            value
            for layer, keys, value in self.rows
            if layer == point.layer and all(getattr(point, name) == own for name, own in keys)
        }
        if len(found) == 1:
            return found.pop()
        where = f"layer {point.layer}, site {point.site} ({point.module})"
        if found:
            raise RequestError(f"{self.path} has {counted(len(found), self.column)} for {where}")
        layers = sorted({layer for layer, _, _ in self.rows})
        raise RequestError(
            f"{self.path} has no {self.column} for {where}",
            f"it has {listed('layer', ', '.join(map(str, layers)))}; "
            "give others to --arm-layers or --at",
        )


def read_thresholds(text: str, name: str) -> PlaceTable:
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
    rows = _read(file, name, "threshold")
    if is_whatif:
        rows = _of_level(rows, level, text, name)
    elif level:
        raise RequestError(f"redistribution '{name}': @{level} is for the folder of a what-if")
    found = tuple(_parsed(rows, name, file, "threshold", _magnitude))
    return PlaceTable(text, "threshold", found, is_whatif and _is_rounded(file.parent / _NOTE))


def read_formats(text: str, name: str, known: Collection[str]) -> PlaceTable:
    """Read number formats from a CSV with columns ``layer`` and ``format``.

    It may have ``site``, ``stack`` and ``module``. ``known`` are the names that it may hold.

    Raises
    ------
    RequestError
        If it cannot be read, or holds another name.
    """

    def named(word: str) -> str | None:
        return word if word in known else None

    file = Path(path_of(text, name))
    rows = _read(file, name, "format")
    return PlaceTable(text, "format", tuple(_parsed(rows, name, file, "format", named)))


def _read(file: Path, name: str, column: str) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(
            f"redistribution '{name}': {file} cannot be read: {first_line(error)}",
            _TAKES[column],
        ) from None
    missing = [one for one in ("layer", column) if rows and one not in rows[0]]
    if missing:
        raise RequestError(
            f"redistribution '{name}': {file} has no column {' and no column '.join(missing)}",
            f"columns: layer, {column}, and where needed site, stack, module",
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
    rows: list[dict[str, str]],
    name: str,
    file: Path,
    column: str,
    read: Callable[[str], float | str | None],
) -> Iterator[tuple[int, Keys, Any]]:
    """Yield what `PlaceTable` holds; ``read`` returns None for a value that is not allowed."""
    if not rows:
        raise RequestError(f"redistribution '{name}': {file} has no {column}s")
    for number, row in enumerate(rows, start=2):
        layer, value = _number(row["layer"]), read(row[column] or "")
        if not (math.isfinite(layer) and layer == int(layer)) or value is None:
            raise RequestError(
                f"redistribution '{name}': line {number} of {file}: "
                f"layer '{row['layer']}', {column} '{row[column]}'",
                f"give a whole number and {_ALLOWED[column]}",
            )
        yield int(layer), tuple((key, row[key]) for key in _KEYS if row.get(key)), value


def _magnitude(text: str) -> float | None:
    value = _number(text)
    return value if value >= 0 else None


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
