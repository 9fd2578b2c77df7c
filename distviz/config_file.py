"""Read a TOML file, and check a table of values against the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distviz.errors import RequestError, nearest


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into plain data with underscores in its keys.

    Raises
    ------
    RequestError
        If the file cannot be read or is not TOML.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path} cannot be read as TOML: {reason}") from error
    return {key.replace("-", "_"): value for key, value in data.items()}


def check_table(
    data: Mapping[str, Any], kind: type, where: str, prefix: str = ""
) -> dict[str, Any]:
    """Check keys and types against the fields of a dataclass.

    A list of one may be given as its value; a table becomes the dataclass of its field.

    Parameters
    ----------
    data
        Values by field, hyphens or underscores.
    kind
        The dataclass; fields that do not count in its comparison cannot be given.
    where, prefix
        The file, and the path of the table in it, for messages.

    Raises
    ------
    RequestError
        If a key is unknown (the nearest valid one is named) or a value has the wrong type.
    """
    hints = typing.get_type_hints(kind)
    allowed = {one.name: hints[one.name] for one in dataclasses.fields(kind) if one.compare}
    checked: dict[str, Any] = {}
    for written, value in data.items():
        key = written.replace("-", "_")
        if key not in allowed:
            raise RequestError(
                f"{where}: unknown key '{prefix}{written}'{nearest(key, allowed)}",
                f"allowed: {', '.join(allowed)}",
            )
        inner: Any = next(filter(dataclasses.is_dataclass, _kinds(allowed[key])), None)
        if inner is not None and isinstance(value, dict):
            checked[key] = inner(**check_table(value, inner, where, f"{prefix}{key}."))
        else:
            checked[key] = _check_type(value, allowed[key], f"{where}: '{prefix}{written}'")
    return checked


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _check_type(value: Any, hint: Any, where: str) -> Any:
    for kind in _kinds(hint):
        origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin is list:
            items = value if isinstance(value, list) else [value]
            if all(_is_a(item, inner[0]) for item in items):
                return items
        elif _is_a(value, origin):
            return float(value) if origin is float else value
    expected = " or ".join(_TYPE_NAMES.get(kind, "a table") for kind in _kinds(hint))
    raise RequestError(f"{where} is {value!r}, expected {expected}")


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    type(None): "nothing",
    list[str]: "a list of strings",
    list[int]: "a list of whole numbers",
}
"""How messages name a type; others are tables."""


def _is_a(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)
