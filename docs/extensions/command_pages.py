"""The command reference: one MyST page per command, from the command objects.

The pages are written to ``commands/`` before the sources are read, and are not in the repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.main import get_command

from distviz.cli import examples as manual
from distviz.cli.app import app as cli
from distviz.option import HEADINGS

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|$~^])")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")
_ARGUMENTS = "Arguments"


def write_pages(folder: Path) -> None:
    """Write an index and one page per command; unchanged pages keep their modification time."""
    folder.mkdir(exist_ok=True)
    group = get_command(cli)
    context = group.make_context("distviz", [], resilient_parsing=True)
    names = group.list_commands(context)
    pages = {name: _page(name, group.commands[name], context) for name in names}
    pages["index"] = _index(group, context, names)
    for path in folder.glob("*.md"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _index(group: Any, context: Any, names: list[str]) -> str:
    lines = ["# Commands", "", *_text(group.help), *_examples(group.examples)]
    for heading in manual.GROUPS:
        lines += [f"## {heading}", ""]
        for name in names:
            if manual.PAGES[name].group == heading:
                summary = _paragraphs(group.commands[name].help)[0]
                lines += [f"[`distviz {name}`]({name}.md)", f": {_escape(summary)}", ""]
    lines += _definitions(group, context)
    lines += ["## Exit codes", "", *_text(manual.EXIT_CODES)]
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *names, "```", ""])


def _page(name: str, command: Any, parent: Any) -> str:
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    usage = " ".join(["distviz", name, *command.collect_usage_pieces(context)])
    lines = [f"# distviz {name}", "", *_text(command.help), "```text", usage, "```", ""]
    lines += ["## Examples", "", *_examples(command.examples)]
    return "\n".join([*lines, *_definitions(command, context)])


def _examples(examples: Iterable[manual.Example]) -> list[str]:
    blocks = [[_escape(one.purpose), "", "```bash", one.line, "```", ""] for one in examples]
    return [line for block in blocks for line in block]


def _definitions(command: Any, context: Any) -> list[str]:
    """Return arguments and options, under the headings of the command's own help."""
    sections: dict[str, list[str]] = {name: [] for name in (_ARGUMENTS, *HEADINGS, "Options")}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is None:
            continue
        is_argument = param.param_type_name == "argument"
        name = (param.metavar or param.name.upper()) if is_argument else record[0]
        last = "Options" if command.name == "distviz" else HEADINGS[-1]
        heading = _ARGUMENTS if is_argument else param.rich_help_panel or last
        sections[heading] += [f"`{name}`", f": {_escape(record[1])}", ""]
    filled = {heading: lines for heading, lines in sections.items() if lines}
    return [line for heading, lines in filled.items() for line in [f"## {heading}", "", *lines]]


def _text(text: str | None) -> list[str]:
    return [line for paragraph in _paragraphs(text) for line in (_escape(paragraph), "")]


def _paragraphs(text: str | None) -> list[str]:
    return re.split(r"\n\s*\n", (text or "").strip())


def _escape(text: str) -> str:
    """Return plain text as MyST that shows it as it is, names of columns and files included."""
    return _OPTION.sub(r"`\1`", _MARKDOWN.sub(r"\\\1", " ".join(text.split())))


def setup(app: Any) -> dict[str, Any]:
    """Write the pages when a build begins."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "commands"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
