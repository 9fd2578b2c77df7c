"""The parameters of the functions that commands are in Python, made from the records of options."""

from __future__ import annotations

import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distviz.cli.options import every_option, options_of
from distviz.errors import DistvizError, RequestError, nearest
from distviz.option import HEADINGS, MEASURING, Option, check_type
from distviz.parsing import exact, shown
from distviz.settings import OPTIONS

_TERMINAL = ("dry_run", "quiet", "as_json", "debug", "no_figures", "architectures")
"""Options that say what a terminal shows, or what a value of another parameter says."""

_OWN = (
    Option(
        HEADINGS[0],
        MEASURING,
        name="text",
        text="Documents: a ``str`` is a text, a ``Path`` a file, a ``dict`` a prompt",
        shown="embedded documents",
    ),
    Option(
        HEADINGS[-1],
        ("run", "compare"),
        name="settings",
        text="All settings together, in place of single ones",
    ),
    Option(
        HEADINGS[-1],
        ("compare",),
        name="given",
        text="Names of ``settings`` that hold although one side is a run",
    ),
    Option(
        HEADINGS[-1],
        (*MEASURING, "generate"),
        name="progress",
        default=False,
        text="Whether to show the progress on standard error as the command line does; or what "
        "receives it",
    ),
)
"""Parameters that no option has, or not with these values."""
_ANNOTATIONS = {
    "a": "Run | str | Path",
    "b": "Run | str | Path",
    "text": "Sequence[str | Path | dict[str, Any]] | None",
    "settings": "RunSettings | None",
    "given": "frozenset[str] | None",
    "progress": "bool | Progress",
    "allocate": "str | float | Sequence[str] | None",
}
"""Types that do not follow from the record, by parameter."""
_OF_TORCH = ("dtype", "device")
"""Parameters, also of side B, that take torch's objects of this name as well as texts."""


@functools.cache
def parameters_of(command: str) -> dict[str, Option]:
    """Return the records of the parameters of a command's function, by name."""
    own = {one.name: one for one in _OWN if command in one.commands}
    known = {one.name: _with_default(one) for one in options_of(command)}
    return {name: one for name, one in (known | own).items() if name not in _TERMINAL}


def _with_default(option: Option) -> Option:
    """Return the record with its default where a command line only knows that it is not given."""
    if not _is_setting(option):
        return option
    setting = OPTIONS[option.name]
    # What help shows in its place is no value.
    default = None if setting.shown else setting.default
    return replace(option, default=default, shown=setting.shown)


def _is_setting(option: Option) -> bool:
    """Whether it is that of a setting, and not one that a command has in its place."""
    return option.name in OPTIONS and option.text == OPTIONS[option.name].text


# Signatures -------------------------------------------------------------------------------------


def signature_of(command: str, returns: str) -> inspect.Signature:
    """Return the signature of a command's function; annotations are texts."""
    parameters = [_parameter(command, one) for one in parameters_of(command).values()]
    return inspect.Signature(parameters, return_annotation=returns)


def _parameter(command: str, option: Option) -> inspect.Parameter:
    is_positional = not option.heading
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    default = tuple(option.default) if isinstance(option.default, list) else option.default
    return inspect.Parameter(
        option.name,
        kind if is_positional else inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is ... else default,
        annotation=_annotation(command, option),
    )


def _annotation(command: str, option: Option) -> str:
    if option.name in _ANNOTATIONS:
        return _ANNOTATIONS[option.name]
    if (command, option.name) == ("whatif", "run"):
        return "Run | str | Path"
    text = _kind(option)
    for name in _OF_TORCH:
        if option.name in (name, f"b_{name}"):
            text += f" | torch.{name}"
    return text if option.default is not None else f"{text} | None"


def _kind(option: Option) -> str:
    if option.choices and not (option.is_list or _takes_list(option)):
        # With the choices editors complete an open one, too.
        return f"Literal[{', '.join(map(repr, option.choices))}]{' | str' * option.is_open}"
    if option.metavar == "LAYERS":
        return f"str | int | Sequence[{'str | int' if _takes_list(option) else 'int'}]"
    if option.is_path:
        return "str | Path | Sequence[str | Path]" if _takes_list(option) else "str | Path"
    if _is_of_numbers(option):
        return "str | float | Sequence[str | float]"
    if _takes_list(option) or _joins(option):
        return "str | Sequence[str]"
    if option.unit is not None:
        return "float | str"
    return " | ".join(one.__name__ for one in _kinds(option.type))


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the types of a record but None."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(kind for kind in kinds if kind is not type(None))


def _takes_list(option: Option) -> bool:
    return any(typing.get_origin(kind) is list for kind in _kinds(option.type))


def _joins(option: Option) -> bool:
    """Whether a list is typed as its items with commas between them."""
    return option.is_list or option.metavar in ("LIST", "LAYERS", "SITES", "WHAT")


def _is_of_numbers(option: Option) -> bool:
    setting = OPTIONS.get(option.name)
    is_text = bool(option.choices) or (setting is not None and str in _kinds(setting.type))
    return option.metavar == "LIST" and not is_text


# Values -----------------------------------------------------------------------------------------


def bind(command: str, args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name.

    Raises
    ------
    RequestError
        If a name is unknown; the nearest is named.
    TypeError
        If a required one is missing, or too many are given by position.
    """
    known = parameters_of(command)
    for name in named:
        if name not in known:
            raise RequestError(
                f"{command}() has no parameter '{name}'{nearest(name, known)}",
                f"allowed: {', '.join(known)}",
            )
    try:
        bound = signature_of(command, "").bind(*args, **named)
    except TypeError as error:
        raise TypeError(f"{command}(): {error}") from None
    for name, value in bound.arguments.items():
        if value is None and known[name].default is ...:
            raise RequestError(f"{name} is None, {command}() needs one")
    return {name: value for name, value in bound.arguments.items() if value is not None}


def arguments_of(command: str, values: Mapping[str, Any]) -> SimpleNamespace:
    """Return the arguments of a command as the command line has them, each checked.

    ``values`` are those of its options, by name, as Python gives them.
    """
    found = SimpleNamespace(**{one.name: one.default for one in options_of(command)})
    found.quiet, found.texts = False, ()
    for option in options_of(command):
        if option.name in values:
            setattr(found, option.name, option.parse(_typed(option, values[option.name])))
    return found


def _typed(option: Option, value: Any) -> Any:
    """Return a value as the command line has it; raise a RequestError for another type."""
    kinds = _kinds(option.type)
    if type(value).__module__ == "torch" and option.name.removeprefix("b_") in _OF_TORCH:
        value = str(value).removeprefix("torch.")
    if hasattr(value, "tolist"):
        value = value.tolist()  # of NumPy or torch
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple | range):
        return _typed_list(option, list(value))
    if _is_number(value) and option.unit is not None:
        return float(value)
    if _is_number(value) and _joins(option):
        value = _word(option, value)
    if option.is_path and isinstance(value, str | Path):
        value = str(value) if str in kinds else Path(value)
    return check_type(value, functools.reduce(operator.or_, kinds), option.name)


def _typed_list(option: Option, values: list[Any]) -> Any:
    if not (_takes_list(option) or _joins(option)):
        raise RequestError(f"{option.name} is {shown(values)}, it must be one value")
    if not values:
        if option.name == "figures":
            return "none"
        if _is_setting(option) and OPTIONS[option.name].default == []:
            return None
        raise RequestError(f"{option.name} is empty", f"leave out {option.name}, or give a value")
    words = [_word(option, one) for one in values]
    if list[Path] in _kinds(option.type):
        return [Path(word) for word in words]
    return words if _takes_list(option) else ",".join(words)


def _word(option: Option, value: Any) -> str:
    """Return an item of a list as it is typed."""
    if hasattr(value, "item"):
        value = value.item()
    if _is_number(value):
        setting = OPTIONS.get(option.name, option)
        return exact(setting.unmistakable(value))
    if not isinstance(value, str | Path):
        raise RequestError(
            f"{option.name} holds {shown(value)}, which is a {type(value).__name__}",
            "give texts or numbers",
        )
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Names ------------------------------------------------------------------------------------------

_FLAG = re.compile(
    r"distviz [a-z]+ .*|(?<![\w-])(--[a-z][a-z0-9-]*)(?![\w-])"
    r"(?: ('[^']*'|(?!--|distviz )[\w%+*/-](?:[\w%+*./:,;-]*[\w%+*/-])?)(?=(:?)))?"
)
"""A command with all that follows it, or an option and the word behind it, which may be a value."""
_WORDS = ("none", "all", "auto", "linear", "eager", "sdpa")
"""Values that are plain words and not among the choices of each option that takes them."""


@contextmanager
def naming_parameters(command: str) -> Iterator[None]:
    """Let errors name parameters where the command line names options."""
    try:
        yield
    except DistvizError as error:
        error.message = in_parameters(error.message, command)
        error.hint = in_parameters(error.hint, command)
        error.args = (error.message,)
        raise


def in_parameters(text: str, command: str, form: str = "{}") -> str:
    """Return a text that names parameters of a function in place of options.

    A value behind an option is written as in Python: ``layers=[0, 2]``. ``form`` is what surrounds
    a name. Commands that a text contains are unchanged.
    """
    names = _names(command)

    def named(found: re.Match[str]) -> str:
        flag, word = found[1], found[2]
        name, option = names.get(flag, ("", None))
        if not name:
            return found[0]
        if word and option and (found[3] or _is_value(option, word)):
            return form.format(f"{name}={_literal(option, word)}")
        return form.format(name) + (f" {word}" if word else "")

    for option in parameters_of(command).values():
        if not option.heading and len(option.metavar) > 1:  # A and B are sides
            text = re.sub(rf"^{re.escape(option.metavar)}(?= is )", option.name, text)
            text = re.sub(rf"^{re.escape(option.metavar)} (?=')", f"{option.name}=", text)
    return _FLAG.sub(named, text)


def _is_value(option: Option, word: str) -> bool:
    """Whether the word behind an option is a value, and not the next one of a sentence."""
    is_plain = word != "-" and not re.search(r"[^a-z-]", word)
    return not is_plain or word in option.choices or word in _WORDS


def _literal(option: Option, word: str) -> str:
    """Return a value of the command line as it is written in Python."""
    text = word.strip("'")
    is_list = not option.is_path and (_takes_list(option) or _joins(option))
    items = text.split(",") if is_list else [text]
    takes_numbers = _is_of_numbers(option) or option.metavar == "LAYERS"
    if takes_numbers or {int, float} & {*_kinds(option.type)}:
        if all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", item) for item in items):
            return items[0] if len(items) == 1 else f"[{', '.join(items)}]"
        return repr(text)
    return repr(text if len(items) == 1 else items)


@functools.cache
def _names(command: str) -> dict[str, tuple[str, Option | None]]:
    """Return what Python writes for each option, and the record of those that have a value."""
    found: dict[str, tuple[str, Option | None]] = {"--no-figures": ("figures=[]", None)}
    own = parameters_of(command).values()
    for option in (*every_option(), *own):
        if option.name in _TERMINAL or not option.heading:
            continue
        for spelling in option.spellings:
            first, _, second = spelling.partition("/")
            is_switch = bool in _kinds(option.type) if option.type else False
            found[first] = (f"{option.name}=True", None) if is_switch else (option.name, option)
            if second:
                found[second] = f"{option.name}=False", None
    return found
