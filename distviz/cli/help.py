"""The format of ``--help``: options under headings, examples to copy, exit codes.

It is plain text, which suits pipes and narrow terminals, unlike the panels of typer.
"""

from __future__ import annotations

import platform
import re
from inspect import cleandoc
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from distviz.cli.examples import EXIT_CODES, GROUPS, PAGES, ROOT, Example
from distviz.option import HEADINGS
from distviz.output import print_lines

_NEEDED = ("accelerate", "numba", "numpy", "pandas", "pyarrow", "scipy", "matplotlib")
_OPTIONAL = ("gguf", "peft", "compressed-tensors", "bitsandbytes", "torchao", "lm-eval")
_HYPHEN = "\ue000"
"""Replaces hyphens while text is wrapped, so that no line ends inside ``--arm-layers``."""


class _Plain:
    """Help whose lines break only at spaces."""

    help: str | None
    examples: tuple[Example, ...]

    def get_help(self, ctx: Any) -> str:
        """Return the complete help."""
        return str(super().get_help(ctx)).replace(_HYPHEN, "-")  # type: ignore[misc]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write purpose and description."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_whole(cleandoc(self.help or "")))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write examples."""
        with formatter.section("Examples"):
            for number, example in enumerate(self.examples):
                if number:
                    formatter.write_paragraph()
                formatter.write_text(example.purpose)
                indent = " " * (formatter.current_indent + 2)
                for line in wrap_command(example.line, formatter.width - len(indent)):
                    formatter.write(f"{indent}{line}\n")


class HelpCommand(_Plain, TyperCommand):
    """A command with a page in `distviz.cli.examples`."""

    @property
    def examples(self) -> tuple[Example, ...]:  # type: ignore[override]
        """Its example command lines."""
        return PAGES[str(self.name)].examples

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the command's name in the usage line."""
        pieces = [self.options_metavar or ""]
        for param in self.get_params(ctx):
            word = getattr(param, "metavar", None) or str(param.name).upper()
            if param.param_type_name == "argument":
                pieces.append(word if param.required else f"[{word}]")
            elif param.required:
                pieces.append(f"{param.opts[0]} {word}")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options under their headings."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", *HEADINGS)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            name, text = record[0], _whole(record[1])
            if param.param_type_name == "argument":
                # Without the type that typer appends to the name.
                sections["Arguments"].append((param.metavar or str(param.name).upper(), text))
            else:
                sections[getattr(param, "rich_help_panel", "") or HEADINGS[-1]].append((name, text))
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows, col_max=min(30, formatter.width // 3))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write examples and exit codes."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_text(EXIT_CODES)


class HelpGroup(_Plain, TyperGroup):
    """The program itself: commands under headings."""

    examples = ROOT.examples

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of `PAGES`."""
        order = list(PAGES)
        return sorted(super().list_commands(ctx), key=order.index)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options of the program."""
        longest = max(map(len, self.commands))
        for heading in GROUPS:
            names = [name for name in self.list_commands(ctx) if PAGES[name].group == heading]
            with formatter.section(heading):
                width = formatter.width - longest - 4
                rows = [(name, self.commands[name].get_short_help_str(width)) for name in names]
                formatter.write_dl([(f"{name:<{longest}}", text) for name, text in rows])
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([(name, _whole(text)) for name, text in filter(None, records)])


def _whole(text: str) -> str:
    return text.replace("-", _HYPHEN)


_WORD = r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"])+"


def wrap_command(line: str, width: int) -> list[str]:
    """Break a command line between words, with backslashes, as a shell reads it.

    An option and its value stay on one line.
    """
    words = re.findall(rf"-\S+ (?!-){_WORD}|{_WORD}", line)
    lines = [words[0]]
    for place, word in enumerate(words[1:], start=2):
        limit = width - (2 if place < len(words) else 0)
        if len(lines[-1]) + 1 + len(word) <= limit:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {word}")
    return lines


def print_versions(value: bool) -> None:
    """Print the versions of distviz and of the packages that it uses, for ``--version``."""
    if not value:
        return
    from importlib.metadata import PackageNotFoundError, version

    lines = [
        f"distviz {version('distviz')}",
        f"python {platform.python_version()} ({platform.system()} {platform.machine()})",
    ]
    for name in ("torch", "transformers", *_NEEDED, *_OPTIONAL):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} not installed" + " (optional)" * (name in _OPTIONAL))
    print_lines(*lines)
    raise typer.Exit
