"""Read the JSON files of a checkpoint, which may hold anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distviz.errors import RequestError

_MOST_BYTES = 1 << 26
"""The largest files are indices of tensors, some MB long."""
_MOST_LEVELS = 50


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    RequestError
        If the file cannot be read, is larger than 64 MiB, is not UTF-8 or not JSON, is nested too
        deeply, gives a name twice, contains NaN, or does not hold an object.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, at most {_MOST_BYTES:,} are expected")
        text = path.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):
            raise ValueError("it starts with a byte order mark, save it as UTF-8 without one")
        content: Any = json.loads(text, object_pairs_hook=without_twins, parse_constant=_constant)
        _check_depth(content)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError(f"{path} is not readable JSON: half of a character in a text") from None
    except RecursionError:
        raise RequestError(f"{path} is not readable JSON: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path} is not readable JSON: {reason}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path} is damaged: not a JSON object")
    return content


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, for `json.loads`; ValueError if a name is given twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"'{name}' is given twice")
        found[name] = value
    return found


def _check_depth(content: Any) -> None:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(_MOST_LEVELS):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [value for one in inside for value in one if isinstance(value, dict | list)]
        if not level:
            return
    raise RecursionError


def _constant(name: str) -> float:
    # Configurations of Mamba have an infinite limit; nothing is rightly NaN.
    if name == "NaN":
        raise ValueError("it contains NaN")
    return float(name)
