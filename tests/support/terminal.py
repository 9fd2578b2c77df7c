"""What a view prints on a console of a given width and encoding."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console


def printed(
    view: Callable[..., Any], result: Any, width: int = 80, encoding: str = "utf-8", **look: Any
) -> str:
    """Return the text that ``view(result, console)`` prints."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, highlight=False, **look)
    console.print(view(result, console), crop=False)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined,no-any-return]
