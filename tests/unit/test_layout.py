"""The sizes of modules, functions and packages, and the words that names and texts use."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import distviz

ROOT = Path(distviz.__file__).parent
REPOSITORY = ROOT.parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if "demo" not in path.parts)
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]

MODULE_LINES = 400
FUNCTION_LINES = 60
TOP_MODULES = 10
TOP_PACKAGES = 13


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Sizes --------------------------------------------------------------------------------------


def long_functions(code: str) -> Iterator[str]:
    """Functions of more than `FUNCTION_LINES` lines, with their docstrings."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{node.name} ({lines} lines)"


def test_no_module_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    too_long = {name: n for name, n in lengths.items() if n > MODULE_LINES}
    assert not too_long


def test_no_function_is_too_long() -> None:
    found = {name_of(path): list(long_functions(path.read_text("utf-8"))) for path in MODULES}
    assert not {name: names for name, names in found.items() if names}


def test_few_modules_and_packages_at_the_top() -> None:
    modules = [path for path in MODULES if path.parent == ROOT]
    packages = [path.parent for path in MODULES if path.name == "__init__.py"]
    assert len(modules) <= TOP_MODULES
    assert len([path for path in packages if path.parent == ROOT]) <= TOP_PACKAGES


def test_long_functions_are_found() -> None:
    body = "    x = 1\n" * FUNCTION_LINES
    assert list(long_functions(f"def f():\n{body}")) == ["f (61 lines)"]
    assert not list(long_functions(f"def f():\n{body[10:]}"))


# Tests --------------------------------------------------------------------------------------

TESTED_ELSEWHERE = {
    "stats/kernels/numba_loops.py": "stats/kernels/test_cpu.py",  # cpu.py calls the loops
    "stats/kernels/plan_loops.py": "stats/kernels/test_plans.py",
    "stats/kernels/sequence_loops.py": "stats/kernels/test_plans.py",
}
"""Modules that the test file of a sibling covers."""


def file_of_tests(name: str) -> str:
    folder, _, module = name.rpartition("/")
    return TESTED_ELSEWHERE.get(name, f"{folder}/test_{module}".removeprefix("/"))


def test_every_module_has_its_test_file() -> None:
    names = [name_of(path) for path in MODULES if not path.name.startswith("__")]
    assert set(TESTED_ELSEWHERE) <= set(names)
    tests = REPOSITORY / "tests" / "unit"
    assert not [name for name in names if not (tests / file_of_tests(name)).is_file()]
    assert file_of_tests("errors.py") == "test_errors.py"
    assert file_of_tests("stats/kernels/cpu.py") == "stats/kernels/test_cpu.py"


# Words --------------------------------------------------------------------------------------

GONE_NAMES = (
    "Point", "Key", "Portion", "share_out", "WaitingRoom", "give_back", "Ticket", "Halfway",
    "Keeper", "CallStates", "StateFolder", "EnoughError", "Prepared", "DiskPlan", "Choose",
    "judge", "settle",
    "Stage", "listening", "first_look", "told", "rows_at_once", "Follower", "Chain", "Seen",
    "Questions", "with_description", "Shortcut", "Sheet", "closeup", "closeups",
    "arriving", "leaving", "landing",
)  # fmt: skip
"""Whole identifiers, option names and column names that other words have replaced."""

GONE_PARTS = (
    "portion",
    "waiting_room",
    "halfway",
    "keeper",
    "closeup",
    "afresh",
    "foretell",
    "foretold",
)
"""Parts of identifiers."""

GONE_PHRASES = (
    r"\bwaiting rooms?\b",
    r"\b(this|these|every|each|several|own|of its|the) rooms?\b(?! (for|of an operator)\b)",
    r"\brooms? of (its|their|their own|code|`?distviz)\b",
    r"\bthe floors\b|\bdown the floors\b|\bfloors? of (the )?(code|package)\b",
    r"\bwalks? (through|down|over|along) (a|the|every|all)\b|\bwalked through\b",
    r"\bportions?\b",
    r"\bfore(tell|told|tells)\b",
    r"\b(go|goes|going|went|gone) on (with|behind|after|from|where)\b",
    r"\bafresh\b",
    r"\bfirst look\b",
    r"\b(phase|phases) (arriving|leaving|landing)\b",
    r"`(arriving|leaving|landing)`",
    r"\b(is|are|was|were|be|been) told\b",
    r"\btells? (no|of) (weights|quantization)\b",
    r"\bin each other's way\b",
    r"\bstates? kept\b",
    (
        r"\b(windows|tokens|layers|rows|lines|passes|seconds|bytes|one|scale) an? "
        r"(batch|window|layer|row|line|pass|setting|channel|place|expert|value|second|process)\b"
    ),
    r"\bfed (alike|with)\b",
    r"\bstring put in\b",
    r"\bmeaningless (tokens?|strings?)\b(?!, meaningful)",
)
"""Metaphors and translated phrases, over docstrings, comments, messages and pages."""

IDENTIFIER_EXCEPTIONS: dict[str, set[str]] = {}
"""Identifiers of other libraries, by module."""


def identifiers(code: str) -> set[str]:
    """Every name that code defines or reads; attributes and keywords included."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def gone_names(code: str) -> set[str]:
    """Identifiers that are replaced, or contain a word that is."""
    found = set()
    for name in identifiers(code):
        plain = name.lstrip("_")
        if plain in GONE_NAMES or any(part in plain.lower() for part in GONE_PARTS):
            found.add(name)
    return found


def texts(code: str) -> Iterator[str]:
    """Docstrings, comments and other strings, each on one line."""
    comment: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            comment.append(token.string.lstrip("# "))
            continue
        if comment and token.type not in (tokenize.NL, tokenize.NEWLINE):
            yield " ".join(comment)
            comment = []
        if token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield " ".join(token.string.split())


def gone_phrases(text: str) -> set[str]:
    """What a text has of `GONE_PHRASES`, with a few words around it."""
    plain = " ".join(text.split())
    found = set()
    for pattern in GONE_PHRASES:
        for match in re.finditer(pattern, plain, re.IGNORECASE):
            found.add(plain[max(0, match.start() - 30) : match.end() + 20])
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_uses_the_words_of_the_field(path: Path) -> None:
    code = path.read_text("utf-8")
    names = gone_names(code) - IDENTIFIER_EXCEPTIONS.get(name_of(path), set())
    phrases = {phrase for text in texts(code) for phrase in gone_phrases(text)}
    assert (sorted(names), sorted(phrases)) == ([], [])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_uses_the_words_of_the_field(path: Path) -> None:
    text = path.read_text("utf-8")
    names = {name for name in re.findall(r"`([A-Za-z_]\w*)`", text) if name in GONE_NAMES}
    assert (sorted(names), sorted(gone_phrases(text))) == ([], [])


def test_options_and_columns_use_the_words_of_the_field() -> None:
    from typer.main import get_command

    from distviz.cli.app import app
    from distviz.sites import PHASES, SITES

    options = {
        word.strip("-").replace("-", "_")
        for command in get_command(app).commands.values()  # type: ignore[attr-defined]
        for param in command.params
        for word in (*param.opts, *param.secondary_opts)
    }
    assert len(options) > 40
    assert not (options | set(PHASES) | set(SITES)) & set(GONE_NAMES)


def test_the_words_are_found_and_proper_uses_are_not() -> None:
    assert gone_names("def judge(x):\n    return Portion(x).keeper_of\n") == {
        "judge", "Portion", "keeper_of",
    }  # fmt: skip
    assert not gone_names("HookPoint, math.floor, keep, sheet_like")
    assert gone_phrases("the batch goes on\nbehind the last")
    assert gone_phrases("a row is told twice")
    assert not gone_phrases("values near the noise floor; leaving the block; the walk of a tree")
    assert list(texts("x = 1  # a\n# b\n'c  d'\n")) == ["a b", "'c d'"]
