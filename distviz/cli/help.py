"""The look of ``--help``: options under headings, examples that can be copied, exit codes.

Plain text that reads well in a pipe and in a narrow terminal; typer's own panels need a terminal
and boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from inspect import cleandoc
from typing import Any

from typer.core import TyperCommand, TyperGroup

from distviz.cli import examples as manual
from distviz.cli.options import GROUPS

__all__ = ["HelpCommand", "HelpGroup", "wrap_command"]

_LAST = GROUPS[-1]
_HYPHEN = "\ue000"
"""Stands for a hyphen while lines are broken, since no line may end inside ``--arm-layers``."""


class _Plain:
    """What a command and the program share: help whose lines break at spaces alone."""

    help: str | None

    def get_help(self, ctx: Any) -> str:
        """Return the whole help."""
        return str(super().get_help(ctx)).replace(_HYPHEN, "-")  # type: ignore[misc]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write purpose and description."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_whole(cleandoc(self.help or "")))


class HelpCommand(_Plain, TyperCommand):
    """A command with a page in the manual."""

    @property
    def examples(self) -> tuple[manual.Example, ...]:
        """Its command lines, see `distviz.cli.examples`."""
        return manual.PAGES[str(self.name)].examples

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command's name in its usage line."""
        pieces = [self.options_metavar or ""]
        for param in self.get_params(ctx):
            word = getattr(param, "metavar", None) or str(param.name).upper()
            if param.param_type_name == "argument":
                pieces.append(word if param.required else f"[{word}]")
            elif param.required:
                pieces.append(f"{param.opts[0]} {word}")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options under the headings of `distviz.cli.options`."""
        _write_options(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write examples and exit codes."""
        _write_examples(self.examples, formatter)
        with formatter.section("Exit codes"):
            formatter.write_text(manual.EXIT_CODES)


class HelpGroup(_Plain, TyperGroup):
    """The program itself: commands under headings, in the manual's order."""

    @property
    def examples(self) -> tuple[manual.Example, ...]:
        """Command lines to begin with."""
        return manual.ROOT.examples

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of the manual."""
        order = list(manual.PAGES)
        return sorted(super().list_commands(ctx), key=order.index)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options of the program."""
        longest = max(map(len, self.commands))
        for heading in manual.GROUPS:
            names = [name for name in self.list_commands(ctx) if _group_of(name) == heading]
            with formatter.section(heading):
                room = formatter.width - longest - 4
                rows = [(name, self.commands[name].get_short_help_str(room)) for name in names]
                formatter.write_dl([(f"{name:<{longest}}", text) for name, text in rows])
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([(name, _whole(text)) for name, text in filter(None, records)])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write examples."""
        _write_examples(self.examples, formatter)


def _group_of(name: str) -> str:
    return manual.PAGES[name].group


def _whole(text: str) -> str:
    return text.replace("-", _HYPHEN)


def _write_options(params: Iterable[Any], ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", *GROUPS)}
    for param in params:
        record = param.get_help_record(ctx)
        if record is None:
            continue
        name, text = record[0], _whole(record[1])
        if param.param_type_name == "argument":
            # Without the kind of value that typer puts behind the name.
            sections["Arguments"].append((param.metavar or str(param.name).upper(), text))
        else:
            sections[param.rich_help_panel or _LAST].append((name, text))
    for heading, rows in sections.items():
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=min(30, formatter.width // 3))


def _write_examples(examples: Iterable[manual.Example], formatter: Any) -> None:
    with formatter.section("Examples"):
        for number, example in enumerate(examples):
            if number:
                formatter.write_paragraph()
            formatter.write_text(example.purpose)
            indent = " " * (formatter.current_indent + 2)
            for line in wrap_command(example.line, formatter.width - len(indent)):
                formatter.write(f"{indent}{line}\n")


_WORD = r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"])+"


def wrap_command(line: str, width: int) -> list[str]:
    """Break a command line between its words, so that a shell still reads it as one.

    Every line but the last ends in a backslash; an option and its value stay together.
    """
    words = re.findall(rf"-\S+ (?!-){_WORD}|{_WORD}", line)
    lines = [words[0]]
    for place, word in enumerate(words[1:], start=2):
        room = width - (2 if place < len(words) else 0)
        if len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {word}")
    return lines
