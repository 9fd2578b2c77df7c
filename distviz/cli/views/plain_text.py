"""Characters for consoles and pipes whose encoding lacks ours: what stands in their place."""

from __future__ import annotations

import codecs
from typing import TextIO

__all__ = ["PLAIN", "is_unicode_name", "write_plainly"]

PLAIN = {
    "−": "-",
    "–": "-",
    "→": "->",
    "·": "|",
    "…": "...",
    "ε": "eps",
    "Δ": "d",
    "×": "x",
    "“": '"',
    "”": '"',
    "‖": "||",
}
"""ASCII for the characters that texts and tables use."""
_ONE_EACH = PLAIN | {"…": "~", "→": ">", "─": "-", "━": "-", "│": "|", "█": "#", "•": "*"}
"""As wide as what they stand for, so that a table keeps its columns."""
_HANDLER = "distviz.plain"


def is_unicode_name(encoding: str | None) -> bool:
    """Tell whether an encoding holds every character."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    shown = [
        _ONE_EACH.get(one) or one.encode("ascii", "backslashreplace").decode() for one in missing
    ]
    return "".join(shown), error.end


codecs.register_error(_HANDLER, _replace)


def write_plainly(*streams: TextIO) -> None:
    """Let streams of a narrower encoding replace what they lack: ours by ASCII, else by escapes."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and not is_unicode_name(stream.encoding):
            reconfigure(errors=_HANDLER)
