"""`--help` of every command: complete, under headings, narrow, with examples to copy."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer

from distviz.cli import app as cli
from distviz.cli import examples as manual
from distviz.cli.help import wrap_command
from distviz.option import HEADINGS

PROGRAM: Any = typer.main.get_command(cli.app)
COMMANDS = PROGRAM.commands
HEADING = re.compile(r"^(\S.*):$", re.MULTILINE)


def page(*command: str, columns: int = 80, option: str = "--help") -> str:
    """What the entry point prints into a pipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(sys, "argv", ["distviz", *command, option])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return printed.getvalue()


def section(text: str, heading: str) -> str:
    found = re.search(rf"^{re.escape(heading)}:\n((?:  .*\n|\n)+)", text + "\n", re.MULTILINE)
    assert found, heading
    return found[1]


def command_lines(text: str) -> list[str]:
    """The example command lines, with broken lines joined as a shell does."""
    joined = section(text, "Examples").replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("    distviz ")]


def test_commands_are_listed_under_their_headings() -> None:
    assert list(manual.PAGES) == PROGRAM.list_commands(None)
    text = page()
    assert HEADING.findall(text) == [*manual.GROUPS, "Options", "Examples"]
    for heading in manual.GROUPS:
        listed = re.findall(r"^  (\w+) ", section(text, heading), re.MULTILINE)
        assert listed == [name for name, one in manual.PAGES.items() if one.group == heading]
    assert "..." not in text.split("Options:")[0].split("COMMAND [ARGS]...")[1]  # complete lines


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_has_a_short_form(command: tuple[str, ...]) -> None:
    assert page(*command, option="-h") == page(*command)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_listed_under_their_headings(name: str) -> None:
    text, seen = page(name), set()
    headings = HEADING.findall(text)
    order = ["Arguments", *HEADINGS, "Examples", "Exit codes"]
    assert headings == [heading for heading in order if heading in headings]
    assert headings[-3:] == ["General", "Examples", "Exit codes"]
    for param in COMMANDS[name].params:
        assert param.help, param.name
        if param.param_type_name == "argument":
            assert re.search(
                rf"^  {re.escape(param.metavar)}  \S", section(text, "Arguments"), re.MULTILINE
            )
            continue
        assert param.rich_help_panel in HEADINGS, param.name
        own = section(text, param.rich_help_panel)
        for word in (*param.opts, *param.secondary_opts):
            assert re.search(rf"(^|[ ,]){word}([ ,]|$)", own, re.MULTILINE), word
            assert (word, param.rich_help_panel) not in seen
            seen.add((word, param.rich_help_panel))
        assert param.metavar or param.is_flag, f"{param.name} shows a Python type"
    assert "<str>" not in text
    for code in (0, 1, 2, 130):
        assert re.search(rf"\b{code} \w+", section(text, "Exit codes"))


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_lines_fit_and_examples_stay_complete(name: str, columns: int) -> None:
    text = page(*filter(None, [name]), columns=columns)
    assert max(map(len, text.splitlines())) <= columns
    # The middle of an option is no place for a break.
    assert not [line for line in text.splitlines() if line.endswith("-")]
    examples = COMMANDS[name].examples if name else PROGRAM.examples
    written = [shlex.split(line) for line in command_lines(text)]
    assert written == [shlex.split(one.line) for one in examples]
    for one in examples:
        assert one.purpose in " ".join(text.split())


def test_a_shell_reads_a_broken_line_as_one() -> None:
    line = "printf '%s\\n' --some-option 'a b' --other \"c  d\" --flag last --c 0.32"
    for width in (16, 24, 40, 200):
        broken = wrap_command(line, width)
        longest = max(re.findall(r"(?:--\S+ )?(?:'[^']*'|\"[^\"]*\"|\S+)", line), key=len)
        assert max(map(len, broken)) <= max(width, len(longest) + 4)
        assert not any(part.startswith(("  0.32", '  "c')) for part in broken)
        done = subprocess.run(
            ["/bin/sh", "-c", "\n".join(broken)], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == [
            "--some-option", "a b", "--other", "c  d", "--flag", "last", "--c", "0.32",
        ]  # fmt: skip
