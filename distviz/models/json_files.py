"""Read the JSON files of a checkpoint, which may hold anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distviz.errors import RequestError
from distviz.output import counted
from distviz.parsing import parse_json

_MOST_BYTES = 1 << 26
"""The largest files are indices of tensors, some MB long."""


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
            raise ValueError(
                f"it has {counted(size, 'byte')}, at most {_MOST_BYTES:,} are expected"
            )
        # Configurations of Mamba have an infinite limit; nothing is rightly NaN.
        content = parse_json(path.read_bytes(), allows=("Infinity", "-Infinity"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path} is not readable JSON: {reason}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path} is damaged: not a JSON object")
    return content
