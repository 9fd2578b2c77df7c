"""Hostile values for every option and every field of a TOML file, by the records of options."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

from distviz.cli import options
from distviz.option import Option
from distviz.settings import LayerSettings, RunSettings

COMMANDS = (
    *("run", "compare", "filler", "sweep", "generate"),
    *("inspect", "whatif", "show", "report", "export"),
)
DIGITS = "9" * 5000
LONG = "x" * 300
NUMBERS = (
    *("", " ", "nan", "inf", "-inf", "-0", "-1", "0", "1e9", "1e30", "1e400", "1_000", "１２", "²"),
    *("0x10", DIGITS, "1.5", "None", "1,2", "10000000000", "9223372036854775808", "1e-300"),
)
WORDS = (
    *("", " ", ",", "png,,", "x", "png,jpg", "all,none", "none", "auto", "-", "0-", "1-0", "-5"),
    *(";", "0;;1", "module:", "module:[", "arm:x", "scale:nan", "scale:inf", "a:b", "auto:x"),
    *("0-99999999999", DIGITS, LONG, "x" * 20_000, "nan", "0,nan", "1e400", "１２", "0,²"),
    *("\x1b[31m", "\x1b]0;title\x07", "two\nlines", "\u202egpj", "\x85", "\x00", "\udcff"),
    *("[/b]x", "[b]x", "{x}", "%s", "$\\frac$", "~", "~nobody-x/y", ".", "..", "/", "q/.."),
)
PATHS = (
    *WORDS,
    *("dangling", "loop", "folder", "file", "file/x", "fifo", "/dev/null", "/dev/zero", "~/x"),
    *(
        f"{LONG}/x",
        "/".join(["d" * 200] * 30),
        "bad\udcffname",
        "x\x00y",
        "unreadable",
    ),
)
FEW = {
    NUMBERS: ("nan", "1e30", "１２", DIGITS),
    WORDS: (",", "\x1b[31m", "\udcff", DIGITS),
    PATHS: ("x\x00y", "two\nlines", "loop", LONG),
}
"""A few of each kind, for tests that are always run."""
_PATHS = ("FILE", "DIR", "RUN", "FOLDER...", "MODEL", "A", "B")


def prepare(place: Path) -> None:
    """Make the files that `PATHS` name."""
    (place / "folder").mkdir()
    (place / "folder" / "mine.txt").write_text("mine")
    (place / "file").write_bytes(b"\xff\x00mine")
    (place / "dangling").symlink_to("nowhere")
    (place / "loop").symlink_to("loop")
    os.mkfifo(place / "fifo")
    (place / "unreadable").touch(0)
    (place / "short.txt").write_text("The sum of two and two is four.")


def base(command: str, run: Path, model: Path) -> dict[str, str]:
    """A quick command line that is right, by option."""
    flags: dict[str, dict[str, str]] = {
        "run": {},
        "compare": {"a": str(run), "b": str(run)},
        "filler": {"model": str(model)},
        "sweep": {"c": "0.13", "p1": "90"},
        # float32: a long prompt in bfloat16 takes some processors twice as long
        "generate": {"prompt": "2 + 2", "max_new_tokens": "1", "dtype": "float32"},
        "whatif": {"run": str(run), "sparsity": "50", "formats": "int8", "figures": "none"},
        "show": {"run": str(run)},
        "report": {"folders": str(run), "out": "report.html"},
        "export": {"run": str(run), "figures": "none"},
    }
    found = flags.get(command, {})
    if command in ("run", "sweep"):
        found["text"] = "short.txt"
    if command in ("run", "compare", "filler", "sweep"):
        found["dry_run"] = ""
    if any(one.name == "out" for one in options.options_of(command)) and "out" not in found:
        found["out"] = "out"
    return found


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have."""
    return typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)


def values_of(option: Option) -> tuple[str, ...]:
    """Hostile values of an option of the command line; none of a switch."""
    kinds = kinds_of(option.type)
    if bool in kinds:
        return ()
    if int in kinds or float in kinds:
        return NUMBERS
    return PATHS if option.metavar in _PATHS else WORDS


def words_of(command: str, given: dict[str, str]) -> list[str]:
    """The command line of some options."""
    records = {one.name: one for one in options.options_of(command)}
    arguments = [value for name, value in given.items() if not records[name].heading]
    flags = [
        f"{records[name].spellings[0]}={value}" if value or name != "dry_run" else "--dry-run"
        for name, value in given.items()
        if records[name].heading
    ]
    return [command, *flags, "--", *arguments]


def lines(command: str) -> Iterator[tuple[str, str]]:
    """Every option of a command with every hostile value."""
    for option in options.options_of(command):
        for value in values_of(option):
            yield option.name, value


def few_lines(command: str) -> Iterator[tuple[str, str]]:
    """A few values for each option that no earlier command has."""
    earlier = COMMANDS[: COMMANDS.index(command)]
    seen = {(one.name, one.type) for name in earlier for one in options.options_of(name)}
    for option in options.options_of(command):
        if (option.name, option.type) not in seen and (values := values_of(option)):
            for value in FEW[values]:
                yield option.name, value


TOML = (
    *(
        "nan",
        "inf",
        "-inf",
        "-0.0",
        "-1",
        "0",
        "1_000_000",
        "1000000000000",
        "0x10",
        "1e9",
        "1e400",
    ),
    *(
        "9223372036854775807",
        "9223372036854775808",
        DIGITS,
        "true",
        "false",
        "1979-05-27T07:32:00Z",
    ),
    *(
        '""',
        '" "',
        '"x"',
        '","',
        '"png,,"',
        '"\\u001b[31m"',
        '"\\u0000"',
        '"\\n"',
        '"[/b]x"',
        '"nan"',
    ),
    *(
        '"~nobody-x/y"',
        f'"{LONG}"',
        f'"{"x" * 100_000}"',
        '"q/.."',
        '"loop"',
        '"/dev/zero"',
        '"fifo"',
    ),
    *("[]", "[[]]", "[1]", '["x"]', '["", "\\u0000"]', "[nan]", "{}", "{x = 1}", "{layer = 1}"),
    *(f"{'[' * 5000}{']' * 5000}", f"{'{a=' * 2000}1{'}' * 2000}", '"\\u202e"', '"all"', '"none"'),
)
"""Values as they stand in a TOML file."""
FEW_TOML = ("nan", "1000000000000", '"\\u0000"', "[]", "{x = 1}")
FIELDS = (
    *(one for one in typing.get_type_hints(RunSettings) if one not in ("explicit", "trusted")),
    *(f"layer.{one}" for one in typing.get_type_hints(LayerSettings)),
)

_NAME_OF_ERROR = re.compile(
    r"(?<!imported: )(?<!\()\b[A-Z]\w*(Error|Exception|Warning|Interrupt)\b|Traceback"
)


def wrong_with(code: int, out: str, complaint: list[str]) -> str:
    """What is wrong with the end of a command; empty if nothing is."""
    text = "\n".join([out, *complaint])
    if code not in (0, 2):
        return f"exit {code}: {complaint}"
    if code == 2 and not 1 <= len(complaint) <= 2:
        return f"{len(complaint)} lines: {complaint}"
    if _NAME_OF_ERROR.search("\n".join(complaint)):
        return f"an exception is named: {complaint}"
    if any(
        not one.isprintable() for one in text.replace("\n", "").replace("\N{NO-BREAK SPACE}", "")
    ):
        return f"a control character is printed: {text!a}"
    return ""
