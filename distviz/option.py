"""The record of an option: all that the command line, files and help know of it."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

from distviz.errors import RequestError, nearest
from distviz.parsing import (
    LARGEST,
    Unit,
    amount,
    check_text,
    exact,
    exact_percentage,
    path_of,
    read_toml,
    shown,
)

HEADINGS = (
    "Input and layers",
    "Redistribution",
    "Filler tokens",
    "Grid of settings",
    "Generation",
    "Sparsity and quantization",
    "Model and hardware",
    "Side B alone",
    "Output",
    "General",
)
"""The headings of a command's options in its help, in this order."""
MEASURING = ("run", "compare", "filler", "sweep")
"""The commands that measure and write a folder."""

_PATHS = ("FILE", "DIR", "RUN", "FOLDER...", "MODEL", "A", "B")
"""The placeholders of paths."""
_TEXTS = ("STRING", "TEXT")
"""The placeholders of texts that may have several lines."""
_UNITS: dict[str, Unit] = {"SHARE": "share", "PERCENT": "percent"}
"""The placeholders of amounts, which may be written with ``%``."""

Affects = Literal["text", "tokens", "arm", "counts", "source", "figures", "speed", "nothing"]
"""What an option changes in a result.

``text``: which documents are read. ``tokens``: which of their tokens are measured. ``arm``: how
values are redistributed. ``counts``: what else is counted. ``source``: model, text and hardware,
which manifests identify by fingerprint. ``figures``. ``speed``: only time and memory. ``nothing``:
only where and when files are written.
"""


@dataclass(frozen=True)
class Option:
    """An option or argument of the command line."""

    heading: str = ""
    """One of `HEADINGS`; empty for an argument."""
    commands: tuple[str, ...] = MEASURING
    """The commands that have the option."""
    name: str = ""
    type: Any = None
    default: Any = None
    """The default value; ``...`` if the option is required."""
    metavar: str = ""
    """Placeholder of the value in help; empty for a switch."""
    text: str = ""
    """Help without full stop and default; ``{choices}`` stands for the choices."""
    _: KW_ONLY
    flags: str = ""
    """Its spellings, if they are not ``--name`` alone."""
    choices: tuple[str, ...] = ()
    is_open: bool = False
    """Whether other values than the choices are allowed."""
    is_list: bool = False
    """Whether it takes several values, separated by commas."""
    shown: str = ""
    """The default as printed in help, if ``default`` does not show it."""
    minimum: float | None = None
    maximum: float | None = None
    runs_code: Callable[[Any], bool] | None = None
    """Whether a value lets code run that is not part of distviz. Such a value is accepted from the
    command line and from Python, never from a file or folder, see `refuse_code`."""
    affects: Affects = "counts"

    @property
    def spellings(self) -> list[str]:
        """How it is written on the command line."""
        return (self.flags or f"--{self.name.replace('_', '-')}").split()

    @property
    def help(self) -> str:
        """One sentence of help: text, choices and default."""
        text = self.text.format(choices=", ".join(self.choices))
        return f"{text} [default: {self.shown_default}]." if self.shown_default else f"{text}."

    @property
    def shown_default(self) -> str:
        """The default as help prints it; empty where there is none to print."""
        if self.shown or self.default in (None, ..., "", []):
            return self.shown
        if isinstance(self.default, bool):
            names = self.spellings[0].split("/")
            return names[not self.default] if len(names) == 2 else ""
        if isinstance(self.default, list):
            return ",".join(self.default)
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def of_side(self, side: str, heading: str) -> Option:
        """Return the option that holds for one side of a comparison alone: ``--b-dtype``."""
        words = re.sub("--(no-)?", rf"\g<0>{side}-", " ".join(self.spellings))
        return dataclasses.replace(
            self,
            name=f"{side}_{self.name}",
            heading=heading,
            commands=("compare",),
            flags=words,
            type=(str if self.unit else self.type) | None,
            default=None,
            text=f"{self.spellings[0]} of {side.upper()}",
            shown="",
        )

    def typed(self, value: Any) -> str:
        """Return the option with a value as it is typed in a shell."""
        return shlex.join(self.words(value))

    def words(self, value: Any) -> list[str]:
        """Return the option with a value as words of a command line that mean exactly this value.

        A list of paths repeats the option; lists of other values are separated by commas.
        """
        if isinstance(value, bool):
            return self.spellings[0].split("/")[not value :][:1]
        if isinstance(value, list) and not self.is_list:
            return [word for one in value for word in self.words(one)]
        text = ",".join(value) if isinstance(value, list) else exact(self.unmistakable(value))
        # What begins with a hyphen would be taken for an option.
        name = self.spellings[0]
        return [f"{name}={text}"] if text.startswith("-") and text != "-" else [name, text]

    @property
    def label(self) -> str:
        """What messages call it."""
        is_argument = not self.heading and self.metavar
        return self.metavar if is_argument else self.spellings[0]

    def label_of(self, settings: Any) -> str:
        """What messages call it where settings hold its value: a switch as it is typed."""
        value = getattr(settings, self.name)
        return self.words(value)[0] if isinstance(value, bool) else self.label

    @property
    def is_path(self) -> bool:
        """Whether its value is the path of a file or folder."""
        return self.metavar in _PATHS

    @property
    def unit(self) -> Unit | None:
        """The unit of a share or percentage, which may be written with ``%``."""
        return _UNITS.get(self.metavar)

    def number(self, value: str | float, name: str = "") -> float:
        """Return a number as it is typed, in the unit of the option; ``name`` is for messages.

        Raises
        ------
        RequestError
            If it is no number, or may be meant in another unit, see `amount`.
        """
        name = name or self.label
        if self.unit is not None:
            return float(amount(exact(value), name, self.unit))
        try:
            return float(value)
        except ValueError:
            raise RequestError(f"{name} '{value}' is not a number") from None

    def unmistakable(self, value: Any) -> Any:
        """Return a value, as text with ``%`` where the number alone may be meant otherwise."""
        is_number = isinstance(value, int | float)
        return exact_percentage(value) if is_number and self.unit == "percent" else value

    def parse(self, value: Any) -> Any:
        """Return a typed value: ``~`` expanded in paths, ``%`` applied; raise errors of `check`."""
        if isinstance(value, str) and self.unit is not None:
            value = self.number(value)
        self.check(value)
        if isinstance(value, list):
            return [self.parse(one) for one in value]
        if self.is_path and isinstance(value, str | Path) and str(value) != "-":
            return type(value)(path_of(str(value), self.label))
        return value

    def check(self, value: Any, name: str = "") -> None:
        """Raise a RequestError where a value is out of range, none of the choices, or no text."""
        name = name or self.label
        if isinstance(value, list):
            for one in value:
                self.check(one, name)
                if self.choices and self.is_list and not self.is_open:
                    check_choice(name, one, self.choices)
        elif isinstance(value, str | Path):
            check_text(str(value), name, is_line=self.metavar not in _TEXTS)
            if self.choices and not (self.is_open or self.is_list):
                check_choice(name, str(value), self.choices)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            self._check_number(value, name)

    def _check_number(self, value: float, name: str) -> None:
        low, high = self.minimum, self.maximum
        if low is not None and not low <= value < math.inf:
            raise RequestError(f"{name} is {shown(value)}, it must be at least {low}")
        if high is not None and not value <= high:
            raise RequestError(f"{name} is {shown(value)}, it must be at most {high:,}")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise RequestError(f"{name} is {shown(value)}, the largest is {LARGEST}")


def no_effect(label: str, why: str, hint: str = "") -> RequestError:
    """Return the error of an option without effect; ``why`` follows these words."""
    return RequestError(f"{label} has no effect {why}", f"remove {label}{hint}")


def check_choice(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise a RequestError that names the nearest allowed value where this one is none."""
    if value not in allowed:
        raise RequestError(
            f"{name} is '{value}'{nearest(value, allowed)}", f"allowed: {', '.join(allowed)}"
        )


def code_in(values: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """Return the values that let code run."""
    return {
        name: value
        for name, value in values.items()
        if name in options and (runs := options[name].runs_code) and runs(value)
    }


def refuse_code(values: Mapping[str, Any], options: Mapping[str, Option], where: str) -> None:
    """Raise a RequestError if a value that was read from ``where`` lets code run."""
    for name, value in code_in(values, options).items():
        raise RequestError(
            f"{where}: {name} = {shown(value)} lets code run, which no file or folder may ask for",
            f"if you trust that code, type {options[name].typed(value)}",
        )


def setting(
    default: Any, metavar: str = "", text: str = "", heading: str = "", **record: Any
) -> Any:
    """Return a dataclass field that holds the record of an option, see `Option`."""
    option = Option(default=default, metavar=metavar, text=text, heading=heading, **record)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"option": option})
    return field(default=default, metadata={"option": option})


def records_of(kind: Any) -> dict[str, Option]:
    """Return the records of a dataclass's fields, by name."""
    hints = typing.get_type_hints(kind)
    return {
        one.name: dataclasses.replace(one.metadata["option"], name=one.name, type=hints[one.name])
        for one in dataclasses.fields(kind)
        if "option" in one.metadata
    }


# Tables -----------------------------------------------------------------------------------------


def read_options(path: Path, records: Mapping[str, Option]) -> dict[str, Any]:
    """Read a TOML file of options; shares and percentages may be strings such as ``"50%"``.

    Raises
    ------
    RequestError
        If the file cannot be read, or an amount is none or may be meant in another unit.
    """
    return {
        name: records[name].number(value, f"{path}: '{name}'")
        if name in records and records[name].unit and _is_amount(value)
        else value
        for name, value in read_toml(path).items()
    }


def _is_amount(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


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
            checked[key] = check_type(value, allowed[key], f"{where}: '{prefix}{written}'")
    return checked


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def check_type(value: Any, hint: Any, where: str) -> Any:
    """Return a value of a type; raise a RequestError for another one, ``where`` names the value."""
    for kind in _kinds(hint):
        origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin is list:
            items = list(value) if isinstance(value, list | tuple) else [value]
            if all(_is_a(item, inner[0]) for item in items):
                return items
        elif _is_a(value, origin):
            return float(value) if origin is float else value
    expected = " or ".join(_TYPE_NAMES.get(kind, "a table") for kind in _kinds(hint))
    raise RequestError(f"{where} is {shown(value)}, expected {expected}")


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    type(None): "nothing",
    Path: "a path",
    list[str]: "a list of strings",
    list[Path]: "a list of paths",
    list[int]: "a list of whole numbers",
}
"""How messages name a type; others are tables."""


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, int) and abs(value) > LARGEST:
        return False
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)
