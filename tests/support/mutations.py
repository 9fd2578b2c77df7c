"""Seeded damage to result folders: bytes, files, fields, columns, rows."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 7, 1.5, -0.0, 10**6, 10**12, 2**31, 2**63, -(2**63), 10**30),
    *(1e308, -1e308, 99_999, 5000),
    *(math.inf, -math.inf, math.nan, "", "x", "0", "before", "\x1b[2J", "\ud800", "\0", "a\nb"),
    *("é" * 3000, [], [1], ["x", None], {}, {"a": {"b": []}}, [[[]]]),
)  # fmt: skip
_DEEP = "@deep@"
Mutation = Callable[[random.Random, Path, Sequence[Path]], str]


def mutate(rng: random.Random, folder: Path, others: Sequence[Path]) -> str:
    """Damage one file of a folder, perhaps with the content of other folders; say what was done."""
    kind = rng.choice(list(_KINDS))
    return f"{kind}: {_KINDS[kind](rng, folder, others)}"


def strip_checksums(folder: Path) -> None:
    """Make manifests, inner ones too, those of a version that wrote no checksums."""
    for path in [*folder.glob("*.json"), *folder.glob("*/*.json")]:
        content = json.loads(path.read_text())
        kept = {name: one for name, one in content.items() if not name.startswith("checksum")}
        path.write_text(json.dumps(kept))


def _files(folder: Path, *endings: str) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "figures"]
    return sorted(path for path in found if not endings or path.suffix in endings)


def _bytes(rng: random.Random, folder: Path, _others: Sequence[Path]) -> str:
    path = rng.choice(_files(folder))
    data = bytearray(path.read_bytes())
    if not data:
        return f"{path.name} is empty"
    way = rng.choice(["flip", "flip", "cut", "insert", "repeat", "zero", "empty", "add"])
    at = rng.randrange(len(data))
    if way == "flip":
        for _ in range(rng.choice([1, 1, 1, 4])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == "cut":
        del data[at:]
    elif way == "insert":
        data[at:at] = rng.randbytes(rng.randint(1, 20))
    elif way == "repeat":
        data[at:at] = data[max(at - 50, 0) : at]
    elif way == "zero":
        data[at : at + 8] = b"\0" * 8
    elif way == "empty":
        data.clear()
    else:
        data += rng.choice([b"\n", b" ", b"x", b"\0", b"\xff\xfe", b"{}", b'"'])
    path.write_bytes(data)
    return f"{path.name}, {way} at {at}"


def _replace_file(rng: random.Random, folder: Path, others: Sequence[Path]) -> str:
    path = rng.choice(_files(folder))
    ways = ["delete", "directory", "fifo", "loop", "dangling", "device", "same name", "any file"]
    way = rng.choice([*ways, "same name", "same name", "any file"])
    same = [one for other in others for one in _files(other) if one.name == path.name]
    same = [one for one in same if one.read_bytes() != path.read_bytes()]
    source = rng.choice(same or _files(others[0]))
    if way == "any file":
        source = rng.choice(_files(rng.choice(others)))
    path.unlink()
    if way == "directory":
        path.mkdir()
    elif way == "fifo":
        os.mkfifo(path)
    elif way in ("loop", "dangling", "device"):
        path.symlink_to({"loop": path, "dangling": folder / "none", "device": "/dev/zero"}[way])
    elif way != "delete":
        shutil.copy(source, path)
        way += f" {source.parent.name}/{source.name}"
    return f"{path.parent.name}/{path.name}, {way}"


def _swap(rng: random.Random, folder: Path, _others: Sequence[Path]) -> str:
    first, second = rng.sample(_files(folder), 2)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    return f"{first.name} and {second.name}"


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a tree."""
    if isinstance(tree, dict):
        own: list[tuple[Any, Any]] = [(tree, name) for name in tree]
    else:
        own = [(tree, index) for index in range(len(tree))] if isinstance(tree, list) else []
    return own + [place for box, name in own for place in _places(box[name])]


def _change_tree(rng: random.Random, tree: Any) -> str:
    places = _places(tree)
    # A level first, so that long lists of settings do not take all.
    box, name = rng.choice(rng.choice([places, places[: max(len(tree), 1)]]))
    way = rng.choice(["hostile", "hostile", "hostile", "delete", "rename", "near", "deep"])
    value = box[name]
    if way == "delete":
        del box[name]
    elif way == "rename" and isinstance(box, dict):
        box[f"{name}x"] = box.pop(name)
    elif way == "near" and isinstance(value, int | float) and math.isfinite(value):
        box[name] = value + rng.choice([-1, 1])
    elif way == "near" and isinstance(value, str):
        box[name] = value[:-1]
    elif way == "deep":
        box[name] = _DEEP
    else:
        box[name] = rng.choice(HOSTILE)
    return f"{name!r}, {way}, {str(box[name])[:40] if way == 'hostile' else ''}"


def _dumps(tree: Any) -> str:
    deep = "[" * 100_000 + "]" * 100_000
    return json.dumps(tree).replace(f'"{_DEEP}"', deep)


def _field(rng: random.Random, folder: Path, _others: Sequence[Path]) -> str:
    path = rng.choice(_files(folder, ".json"))
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    if rng.random() < 0.1 and len(lines) > 2:
        at = rng.randrange(1, len(lines) - 1)
        path.write_text("".join([*lines[:at], lines[at], *lines[at:]]), encoding="utf-8")
        return f"{path.name}, line {at} twice"
    tree = json.loads(text)
    done = _change_tree(rng, tree)
    path.write_text(_dumps(tree), encoding="utf-8")
    return f"{path.name}, {done}"


def _line(rng: random.Random, folder: Path, others: Sequence[Path]) -> str:
    paths = _files(folder, ".jsonl")
    if not paths:
        return _field(rng, folder, others)
    path = rng.choice(paths)
    lines = path.read_text(encoding="utf-8").splitlines()
    at = rng.randrange(len(lines))
    way = rng.choice(["field", "delete", "twice", "cut", "value"])
    if way == "field":
        tree = json.loads(lines[at])
        way += _change_tree(rng, tree)
        lines[at] = _dumps(tree)
    elif way == "delete":
        del lines[at]
    elif way == "twice":
        lines.insert(at, lines[at])
    elif way == "cut":
        lines[at] = lines[at][: rng.randrange(len(lines[at]))]
    else:
        lines[at] = json.dumps(rng.choice(HOSTILE))
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"{path.name}, line {at}, {way[:60]}"


def _note(rng: random.Random, folder: Path, others: Sequence[Path]) -> str:
    """Change the metadata of ``counts.parquet``."""
    paths = [path for path in _files(folder, ".parquet") if path.name == "counts.parquet"]
    if not paths:
        return _cells(rng, folder, others)
    path = rng.choice(paths)
    table = parquet.read_table(path)
    metadata = dict(table.schema.metadata)
    tree = json.loads(metadata[b"distviz"])
    done = _change_tree(rng, tree)
    metadata[b"distviz"] = _dumps(tree).encode()
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    return f"{path.parent.name}/{path.name}, {done}"


def _read(path: Path) -> Any:
    return parquet.read_table(path) if path.suffix == ".parquet" else pd.read_csv(path)


def _cells(rng: random.Random, folder: Path, _others: Sequence[Path]) -> str:
    path = rng.choice(_files(folder, ".csv", ".parquet"))
    try:
        table = _read(path)
    except pd.errors.EmptyDataError:
        path.write_text("layer,x\n0,1\n")
        return f"{path.name}, was blank"
    frame = table if isinstance(table, pd.DataFrame) else table.to_pandas()
    if not len(frame.columns) or not len(frame):
        return f"{path.name} has no cells"
    frame, done = _change_frame(rng, frame)
    if path.suffix == ".parquet":
        names = list(frame.columns)
        frame.columns = pd.Index(map(str, range(len(names))))  # two may have one name
        try:
            changed = pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            frame = frame.map(lambda value: str(value).encode(errors="replace").decode())
            changed = pa.Table.from_pandas(frame, preserve_index=False)
        changed = changed.rename_columns(names).replace_schema_metadata(table.schema.metadata)
        parquet.write_table(changed, path)
    else:
        frame.to_csv(path, index=False, errors="replace")
    return f"{path.parent.name}/{path.name}, {done}"


def _change_frame(rng: random.Random, frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    name = rng.choice(list(frame.columns))
    row = rng.randrange(len(frame))
    ways = ["cell", "cell", "cell", "column", "drop", "rename", "text", "lists", "float", "negate"]
    way = rng.choice([*ways, "delete rows", "repeat rows", "shuffle", "many", "add", "near"])
    value = rng.choice([one for one in HOSTILE if one not in ("\ud800", {})])
    if way in ("cell", "near"):
        values = frame[name].astype(object).tolist()
        is_number = isinstance(values[row], int | float)
        values[row] = values[row] * 1.01 if way == "near" and is_number else value
        frame[name] = pd.Series(values, dtype=object).infer_objects()
        return frame, f"{name}[{row}] = {str(values[row])[:40]}"
    if way == "column":
        frame[name] = pd.Series([value] * len(frame), dtype=object).infer_objects()
        return frame, f"{name} = {str(value)[:40]}"
    if way == "drop":
        frame = frame.drop(columns=name)
    elif way == "rename":
        frame = frame.rename(columns={name: rng.choice([f"{name}x", "", *frame.columns])})
    elif way == "text":
        frame[name] = frame[name].astype(str)
    elif way == "lists":
        frame[name] = [[one] for one in frame[name]]
    elif way == "float":
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float) + 0.25
    elif way == "negate":
        frame[name] = -pd.to_numeric(frame[name], errors="coerce")
    elif way == "delete rows":
        frame = frame.drop(index=frame.index[row : row + rng.choice([1, 3, len(frame)])])
    elif way == "repeat rows":
        frame = pd.concat([frame[: row + 1], frame[row:]])
    elif way == "shuffle":
        frame = frame.sample(frac=1, random_state=rng.randrange(1000))
    elif way == "many":
        frame = pd.concat([frame] * min(20, 1 + 200_000 // len(frame)))
    else:
        frame["more"] = pd.Series([value] * len(frame), dtype=object).infer_objects()
    return frame, f"{way} {name} {row}"


_KINDS: dict[str, Mutation] = {
    "bytes": _bytes,
    "file": _replace_file,
    "swap": _swap,
    "field": _field,
    "line": _line,
    "note": _note,
    "cells": _cells,
    "more cells": _cells,
}
