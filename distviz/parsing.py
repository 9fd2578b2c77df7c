"""Values as they are typed: whole numbers, lists of words, paths, small text files.

Whatever the text, the result is right or a RequestError that names option and value.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from distviz.errors import RequestError, nearest

LARGEST = 2**63 - 1
"""The largest whole number; tables and arrays hold 64 bits."""
_DIGITS = 18
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTROL_IN_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 200
_repr.maxlong = 40


def shown(value: Any) -> str:
    """Return a value as messages show it, shortened, however deep or long it is."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"a whole number of {value.bit_length():,} bits"
    return _repr.repr(value)


def whole_number(text: str, name: str) -> int:
    """Parse a whole number of at most 18 digits, not negative."""
    if not _is_whole(text):
        raise RequestError(f"{name}: {text} is not a whole number of at most {_DIGITS} digits")
    return int(text)


def whole_numbers(text: str, name: str, example: str) -> list[int]:
    """Parse a comma-separated list of whole numbers, each once."""
    found = word_list(text, name)
    if not all(map(_is_whole, found)):
        raise RequestError(f"{name} '{text}' is not a list of numbers", example)
    return [int(word) for word in found]


def _is_whole(text: str) -> bool:
    return text.isdecimal() and len(text.lstrip("0")) <= _DIGITS


def word_list(text: str, name: str, allowed: Collection[str] = ()) -> list[str]:
    """Parse a comma-separated list of words, each once.

    Raises
    ------
    RequestError
        If a word is empty, or not one of ``allowed`` where those are given.
    """
    found = [word.strip() for word in text.split(",")]
    for word in found:
        if not word:
            raise RequestError(f"{name} '{text}' has an empty item in its list")
        if allowed and word not in allowed:
            raise RequestError(
                f"{name} is '{text}', unknown is '{word}'{nearest(word, allowed)}",
                f"allowed: {', '.join(allowed)}",
            )
    return list(dict.fromkeys(found))


def check_text(text: str, name: str, *, is_line: bool = True) -> None:
    """Raise a RequestError where a text is not UTF-8 or holds control characters.

    Without ``is_line`` it may have tabs and several lines.
    """
    if found := re.search(_CONTROL_IN_LINE if is_line else _CONTROL, text):
        raise RequestError(
            f"{name} is '{text}', which holds the control character {found[0]!a}",
            "rename it, or give other text",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{name} is '{text}', which is not UTF-8",
            "rename it, or set a locale of UTF-8 such as LC_ALL=C.UTF-8",
        ) from None


def path_of(text: str, name: str) -> str:
    """Return a path with ``~`` expanded as a shell does.

    Raises
    ------
    RequestError
        If it is empty, the system has no such names or cannot follow it, or ``~`` names no user.
    """
    check_text(text, name)
    if not text.strip():
        raise RequestError(f"{name} is empty", "give a path")
    found = os.path.expanduser(text)  # noqa: PTH111  # Path raises for unknown users
    try:
        if found.startswith("~") and not os.path.lexists(found):
            raise RequestError(f"{name} is '{text}': there is no such user", "give a path")
        Path(found).stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise RequestError(f"{name} is '{text}': {error.strerror}", "give another path") from None
    return found


def read_small_file(path: Path, noun: str, most: int) -> str:
    """Return the text of a file, UTF-8 with or without a byte order mark.

    Raises
    ------
    RequestError
        If it is no regular file, has more than ``most`` bytes, or is not UTF-8.
    """
    if not path.exists():
        raise RequestError(f"{path} does not exist")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise RequestError(f"{path} cannot be read: it is {kind}", f"give {noun}")
    size = path.stat().st_size
    if size > most:
        raise RequestError(f"{path} has {size:,} bytes, {noun} has at most {most:,}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} cannot be read: byte {error.start} is not UTF-8", f"give {noun}"
        ) from error
