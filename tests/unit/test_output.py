"""What is printed shows control characters, whoever writes it."""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

import distviz
from distviz import output

HOSTILE = {
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x1b[31mred": r"\x1b[31mred",
    "a\x00b\x08\x7f": r"a\x00b\x08\x7f",
    "\x9b31m\x85": r"\x9b31m\x85",
    "\u202egpj.exe\u2066": r"\u202egpj.exe\u2066",
    "a\u2028b\u2029": r"a\u2028b\u2029",
    "two\nlines\r\t": r"two\nlines\r\t",
    "\udcff\U000e0041": r"\udcff\U000e0041",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "[b]x[/b] [/c] :smile: é 漢 \\[": "[b]x[/b] [/c] :smile: é 漢 \\[",
}


class Terminal(io.TextIOWrapper):
    """A stream that rich takes for a terminal of many columns."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined,no-any-return]


Opener = Callable[[], Terminal]


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Within the test: pytest replaces the streams after its fixtures."""

    def replace() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("TERM", "xterm-256color")
        output.escape_streams()
        return stream

    return replace


@pytest.mark.parametrize(("given", "shown"), HOSTILE.items(), ids=ascii)
def test_every_way_out_shows_control_characters(
    open_terminal: Opener, given: str, shown: str
) -> None:
    terminal = open_terminal()
    output.print_lines(given)
    output.print_error(given, given)
    assert terminal.text() == f"{shown}\ndistviz: {shown}\n  {shown}\n"


@pytest.mark.parametrize("given", HOSTILE, ids=ascii)
def test_consoles_keep_their_own_styles_alone(open_terminal: Opener, given: str) -> None:
    terminal = open_terminal()
    table = Table(given)
    table.add_row(given)
    screen = output.console()
    screen.print(Text(output.visible(given), style="red"))
    screen.print(given, Text(given), table)
    text = terminal.text()
    first, *rest = text.splitlines()
    assert first == f"\x1b[31m{HOSTILE[given]}\x1b[0m"
    assert not set(text) & set("\x00\x07\x08\x7f\x9b\x85\u202e\u2028\u200b\ufeff")
    assert not any("\x1b[31m" in line or "\x1b]" in line for line in rest)
    assert "[b]x" in text or "[b]" not in given


@pytest.mark.parametrize("given", HOSTILE, ids=ascii)
def test_json_holds_the_same_text_and_nothing_invisible(open_terminal: Opener, given: str) -> None:
    terminal = open_terminal()
    output.print_json({"name": given})
    text = terminal.text()
    assert json.loads(text) == {"name": given}
    assert text.removesuffix("\n").isprintable()


def test_what_other_libraries_write_is_escaped(open_terminal: Opener) -> None:
    terminal = open_terminal()
    sys.stderr.write("warning: \x1b[2Jname\n")
    sys.stdout.writelines(["\x1b[1mx", "\ty\n"])
    assert terminal.text() == "warning: \\x1b[2Jname\n\\x1b[1mx        y\n"


def test_progress_bars_of_other_libraries_move_the_cursor(
    open_terminal: Opener,
) -> None:
    terminal = open_terminal()
    for text in ("\r 50%|█████     |", "\n\x1b[A", "\r"):
        sys.stderr.write(text)
    assert terminal.text() == "\r 50%|█████     |\n\x1b[A\r"


def test_streams_are_wrapped_once(open_terminal: Opener) -> None:
    terminal = open_terminal()
    before = sys.stdout
    output.escape_streams()
    assert sys.stdout is before
    assert sys.stdout.isatty()
    assert sys.stdout.encoding == "utf-8"
    assert terminal.errors == "strict"


def test_a_narrow_encoding_gets_replacements(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    output.escape_streams()
    output.print_lines("é … → █ ε 漢 ×")
    sys.stdout.flush()
    assert raw.getvalue().decode("latin-1") == "é ~ > # eps \\u6f22 ×\n"
    assert all(word.isascii() for word in output.ASCII.values())


def test_a_long_error_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_error(f"--layers is '{'9' * 1_000_000}' here", "give less")
    first, second = capsys.readouterr().err.splitlines()
    assert len(first) < 2100
    assert first.endswith("99' here")
    assert second == "  give less"


def test_no_other_module_prints() -> None:
    """But the process that renders chat templates, whose output is read by distviz."""
    root = Path(distviz.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if path.name in ("output.py", "chat_renderer.py") or not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            is_output = called in ("print", "typer.echo", "click.echo", "typer.secho")
            is_output |= called.rpartition(".")[2] in ("Console", "print_exc")
            is_output |= called.startswith(("sys.stdout.write", "sys.stderr.write"))
            assert not is_output, f"{path}:{node.lineno} calls {called}"


def test_first_names_and_how_many_more() -> None:
    assert output.first_of(["a"]) == "a"
    assert output.first_of(["a", "b", "c"]) == "a and 2 more"
    assert output.first_of(["a", "b", "c"], 2) == "a, b and 1 more"
    assert output.first_of(["a", "b"], 2) == "a, b"
