"""What a row of a text file holds: a text, or the messages of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from distviz.errors import RequestError

Message = tuple[str, str]
"""Role and content."""

Row = Mapping[str, Any]


class _Turns(NamedTuple):
    """Fields that are a turn of the user and, where the row has it, one of the assistant."""

    asks: tuple[str, ...]
    answers: str


_TURNS = {
    turns.asks[0]: turns
    for turns in (
        _Turns(("question",), "answer"),
        _Turns(("prompt",), "completion"),
        _Turns(("instruction", "input"), "output"),
    )
}
_LISTS = ("messages", "conversations")
_MEASURED = ("text", *_LISTS, *_TURNS)
"""Fields of which a row has one."""
TEXT_FIELDS = ("text", "system", *(n for turns in _TURNS.values() for n in (*turns.asks, turns[1])))
FIELDS = (*TEXT_FIELDS, "id", *_LISTS)
"""All fields that are looked for."""

EXPECTED = 'expected an object with "text", "messages", "question", "prompt" or "instruction"'
_ROLES = {"human": "user", "gpt": "assistant"}
_MESSAGE_FIELDS = ("role", "content"), ("from", "value")
_SHOWN = 8


@dataclass(frozen=True)
class Content:
    """What is measured of a row: a text or messages, neither if it is empty.

    ``ignored`` has the names of the other fields with a value.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    ignored: tuple[str, ...] = ()


def content_of(row: Row, where: str, field: str | None = None) -> Content:
    """Return what is measured of a row.

    Parameters
    ----------
    row
        It has one of: ``text``; ``messages`` or ``conversations``, a list of messages; ``question``
        and maybe ``answer``; ``prompt`` and maybe ``completion``, both texts or lists of messages;
        ``instruction`` and maybe ``input`` and ``output``. ``system`` stands before a question,
        prompt or instruction.
    where
        Its place, for messages.
    field
        Measure this field instead: a text or a list of messages.

    Raises
    ------
    RequestError
        If it has none or several of them, or one that is neither text nor messages.
    """
    name = _chosen(row, where) if field is None else _given(row, where, field)
    value, used, ignored = row[name], [name, "id"], list[str]()
    content = Content()
    if field is None and name in _TURNS:
        content = Content(messages=_turns(row, where, _TURNS[name], used, ignored))
    elif isinstance(value, str) and (field is not None or name not in _LISTS):
        content = Content(_text(row, name, where))
    elif value is not None:
        content = Content(messages=_messages(value, f"{where}: '{name}'", ignored))
    if not content.text.strip() and not any(text.strip() for _, text in content.messages):
        content = Content()
    others = [n for n, v in row.items() if n not in used and v is not None and not _is_blank(n, v)]
    return Content(content.text, content.messages, (*map(str, others), *ignored))


def _is_blank(name: str, value: Any) -> bool:
    return name in TEXT_FIELDS and isinstance(value, str) and not value.strip()


def _given(row: Row, where: str, field: str) -> str:
    """Return a field that was asked for by name."""
    if field not in row:
        raise RequestError(f"{where} has no field '{field}'", fields_of(row))
    if not isinstance(row[field], str | list | None):
        raise RequestError(f"{where}: '{field}' is neither a text nor a list of messages")
    return field


def _chosen(row: Row, where: str) -> str:
    """Return the field that says what the row is."""
    present = [name for name in _MEASURED if row.get(name) is not None]
    if not present:
        null = [name for name in _MEASURED if name in row]
        what = f"'{null[0]}' is not a string" if null else EXPECTED
        raise RequestError(f"{where}: {what}", f"{fields_of(row)}; name one with --text-field")
    for name in present:
        if name not in _LISTS and not (name == "prompt" and isinstance(row[name], list)):
            _text(row, name, where)
    full = [name for name in present if not _is_blank(name, row[name])]
    if len(full) > 1:
        several = ", ".join(f"'{name}'" for name in full)
        raise RequestError(f"{where} has {several}", "name one with --text-field")
    return (full or present)[0]


def _turns(
    row: Row, where: str, turns: _Turns, used: list[str], ignored: list[str]
) -> tuple[Message, ...]:
    """Return the messages of a question, prompt or instruction; none where it is empty."""
    first, answer = row[turns.asks[0]], row.get(turns.answers)
    used += ["system", *turns.asks[1:]]
    system = () if row.get("system") is None else (("system", _text(row, "system", where)),)
    if isinstance(first, list):
        asked = _messages(first, f"{where}: '{turns.asks[0]}'", ignored)
    else:
        parts = [_text(row, name, where) for name in turns.asks if row.get(name) is not None]
        parts = [part for part in parts if part.strip()]
        if not parts or not str(first).strip():
            return ()
        asked = (("user", "\n".join(parts)),)
    if isinstance(answer, list) and turns.answers == "completion":
        used.append(turns.answers)
        asked += _messages(answer, f"{where}: '{turns.answers}'", ignored)
    elif isinstance(answer, str):
        used.append(turns.answers)
        text = _text(row, turns.answers, where)
        asked += (("assistant", text),) if text.strip() else ()
    return (*system, *asked) if not system or system[0][1] else asked


def _messages(given: Any, where: str, ignored: list[str]) -> tuple[Message, ...]:
    if not isinstance(given, list):
        raise RequestError(f"{where} is not a list of messages")
    return tuple(_message(one, f"{where}, message {n}", ignored) for n, one in enumerate(given, 1))


def _message(given: Any, where: str, ignored: list[str]) -> Message:
    names = next(
        (pair for pair in _MESSAGE_FIELDS if isinstance(given, dict) and pair[0] in given), None
    )
    if names is None:
        raise RequestError(f'{where}: expected an object with "role" and "content"')
    content = given.get(names[1])
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise RequestError(f"{where}: '{names[1]}' is not text", fields_of(given))
    role = _text(given, names[0], where)
    if not role.strip():
        raise RequestError(f"{where}: '{names[0]}' is empty")
    others = [name for name, value in given.items() if name not in names and value is not None]
    ignored += [f"{name} of a message" for name in others]
    return _ROLES.get(role, role), check_text(content, f"{where}: '{names[1]}'")


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _text(row: Row, name: str, where: str) -> str:
    if not isinstance(row[name], str):
        raise RequestError(f"{where}: '{name}' is not a string")
    return check_text(row[name], f"{where}: '{name}'")


def check_text(text: str, where: str) -> str:
    """Return a text; RequestError if it has a lone surrogate, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{where} has a lone surrogate (U+{ord(text[error.start]):04X}, character "
            f"{error.start + 1}), which no text has",
            "it is half of a character or a damaged byte; correct the text",
        ) from None
    return text


def fields_of(row: Row) -> str:
    """Return a sentence that names the fields of a row."""
    return f"its fields are {', '.join(map(str, list(row)[:_SHOWN])) or 'none'}"
