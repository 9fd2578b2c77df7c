"""Values as they are typed: numbers, lists of words, paths; small text files, TOML, strict JSON.

Whatever the text, the result is right or an error that says what is wrong with it.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import tomllib
from collections.abc import Collection, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from distviz.errors import RequestError, nearest
from distviz.output import counted

Unit = Literal["share", "percent"]
"""What the number of an amount counts: the whole is 1, or 100."""
LARGEST = 2**63 - 1
"""The largest whole number; tables and arrays hold 64 bits."""
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""Numbers that JSON does not have, as Python writes them."""
_DIGITS = 18
_DEEPEST = 50
_MOST_TOML = 100_000
"""Bytes of a TOML file."""
_MOST_PARTS = 1000
"""Parts of a dotted key."""
_SURROGATE = b"\\ud"
"""Begins the escape of half a character, which no encoding can write."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTROL_IN_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 200
_repr.maxlong = 40


def shown(value: Any) -> str:
    """Return a value as messages show it, shortened, however deep or long it is."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"a whole number of {counted(value.bit_length(), 'bit')}"
    return _repr.repr(value)


def exact(value: Any) -> str:
    """Return a value as it is typed; parsing a number returns the same number."""
    return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(value)


def amount(text: str, name: str, unit: Unit) -> Fraction:
    """Parse a share or a percentage exactly, with or without ``%``: ``50%`` is a share of 1/2.

    Raises
    ------
    RequestError
        If it is no number, or a number without ``%`` that may be meant otherwise (a share above 1,
        a percentage of at most 1); the message gives both readings.
    """
    bare = text.strip().removesuffix("%").rstrip()
    try:
        # A float first: the fraction of 1e999999999 would take hours.
        rough = float(bare)
        value = Fraction(bare) if rough and math.isfinite(rough) else Fraction(rough)
    except (ValueError, OverflowError):
        example = "0.5 or 50%" if unit == "share" else "99.5 or 99.5%"
        raise RequestError(f"{name} '{text}' is not a number", f"such as {example}") from None
    if bare != text.strip():
        return value / 100 if unit == "share" else value
    other = f"{bare}%"
    if unit == "percent" and 0 < value <= 1:
        written = f"{exact(float(100 * value))}%"
        readings = f"{written} or {other}"
        raise RequestError(f"{name} {bare} may be {readings}", f"write {readings}")
    if unit == "share" and 1 < value <= 100:
        hint = f"write {other} or {exact(float(value / 100))}; 1 is the whole"
        raise RequestError(
            f"{name} {bare} may be {other} or {counted(bare, 'time')} the whole", hint
        )
    return value


def exact_percentage(value: float) -> str:
    """Return a percentage as it is typed, with ``%`` where `amount` refuses it without."""
    return f"{exact(value)}%" if 0 < value <= 1 else exact(value)


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
        raise RequestError(f"{path} has {counted(size, 'byte')}, {noun} has at most {most:,}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} cannot be read: byte {error.start} is not UTF-8", f"give {noun}"
        ) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into plain data with underscores in its keys.

    Raises
    ------
    RequestError
        If the file cannot be read or is not TOML.
    """
    text = read_small_file(path, "a TOML file of options", _MOST_TOML)
    try:
        if _has_deep_keys(text):
            raise RecursionError
        data = tomllib.loads(text)
    except RecursionError:
        raise RequestError(f"{path} cannot be read as TOML: it is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path} cannot be read as TOML: {error}") from error
    except ValueError:
        raise RequestError(
            f"{path} cannot be read as TOML: a number or date in it is out of range"
        ) from None
    return {key.replace("-", "_"): value for key, value in data.items()}


def _has_deep_keys(text: str) -> bool:
    """Whether a dotted key has so many parts that tomllib, quadratic in them, would not end."""
    for line in text.splitlines():
        keys = line.split("=")[:-1] or [line] * line.lstrip().startswith("[")
        if any(key.count(".") > _MOST_PARTS for key in keys):
            return True
    return False


# JSON ---------------------------------------------------------------------------------------


def parse_json(data: bytes, *, allows: Collection[str] = ()) -> Any:
    """Parse JSON strictly; ``allows`` has those of `NOT_FINITE` that it may contain.

    Raises
    ------
    ValueError
        If it is no JSON in UTF-8, gives a name twice, is nested deeply, or contains half of a
        character or another of `NOT_FINITE`.
    """

    def constant(name: str) -> float:
        if name not in allows:
            raise ValueError(f"it contains {name}")
        return float(name)

    if data.startswith(b"\xef\xbb\xbf"):
        raise ValueError("it starts with a byte order mark, save it as UTF-8 without one")
    try:
        tree = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=constant)
        _check_depth(tree)
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} levels") from None
    if _SURROGATE in data.lower():
        try:
            json.dumps(tree, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it contains half of a character (a lone surrogate)") from None
    return tree


def _check_depth(tree: Any) -> None:
    level = [tree]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise RecursionError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it gives the name {name!r} twice")
        found[name] = value
    return found


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()
