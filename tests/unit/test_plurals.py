"""Counts with their nouns, and that every message uses them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import distviz
from distviz.output import counted, listed, plural

ROOT = Path(distviz.__file__).parent
_VERBS = re.compile(
    r"is|has|was|does|as|holds|runs|needs|fails|lets|gives|differs|belongs|matches|loads|"
    r"lists|mixes|overlaps|contains|exists|acts|says|removes|names|costs|moves|takes|fits|"
    r"lies|reads|stands"
)
"""Words in -s that follow a name, not a number."""
_BETWEEN = re.compile(
    r"of|in|to|from|by|on|over|and|or|which|as|than|with|for|"
    r"at|is|are|were|be|would|may|where|left|but|that|into|a|the|no"
)
"""Words after which a noun is no longer the one that is counted."""
_FIXED = re.compile(r"^\.\d[fe%]$|^\.0%$")
"""Formats with decimals or of a share: ``1.00 nats``, ``1% zeros``."""


_LISTS = re.compile(r"\b(?:layers|seeds|heads|channels|documents) $")


def _is_plural(noun: str) -> bool:
    return (
        noun.endswith("s") and not noun.endswith(("ss", "us", "is")) and not _VERBS.fullmatch(noun)
    )


def _can_be_one(value: ast.FormattedValue) -> bool:
    """Whether the number may be 1: not a constant limit, and not a share or a decimal."""
    if isinstance(value.value, ast.Attribute | ast.Name):
        name = ast.unparse(value.value).rpartition(".")[2]
        if name.isupper() or name.lstrip("_").isupper():
            return False
    spec = ast.unparse(value.format_spec)[2:-1] if value.format_spec else ""
    return not _FIXED.match(spec)


def _uncounted(text: ast.JoinedStr) -> Iterator[str]:
    """Yield each number with a plural noun behind it, and each plural noun before names."""
    for first, second in zip(text.values, text.values[1:], strict=False):
        if isinstance(first, ast.FormattedValue) and isinstance(second, ast.Constant):
            words = re.match(r"((?: [a-z-]+){1,3})", str(second.value))
            for word in (words[0] if words else "").split():
                if _BETWEEN.fullmatch(word) or _VERBS.fullmatch(word):
                    break
                if _is_plural(word) and _can_be_one(first):
                    yield f"{ast.unparse(first)} … {word}"
                    break
        elif isinstance(second, ast.FormattedValue) and isinstance(first, ast.Constant):
            yield from (f"{first.value}{ast.unparse(second)}" for _ in _LISTS.findall(first.value))


def _messages(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each message that has a plural of its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            for found in _uncounted(node):
                yield node.lineno, found
        elif isinstance(node, ast.BinOp) and ast.unparse(node.left) == "'s'":
            yield node.lineno, ast.unparse(node)


_ALLOWED = {
    "measure/output_effect.py": "… post-processes",  # a verb
    "models/gguf.py": "{count} … parts",  # of a file in parts, two at least
    "models/synthetic.py": "layer.documents {",  # the name of a setting
    "results/run.py": "it has layers {layers[0]}",  # both ends of a range
    "results/sweep.py": "--arm-layers {",  # an option
    "results/sweep_layers.py": "{change:+.3g} … nats",  # a difference, not a number of them
    "studies/compare_warnings.py": "{shape} … ",  # a product, 8 x 256
}
"""File -> part of a message whose noun is plural whatever the number."""


def test_every_count_has_its_noun() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, text in _messages(path.read_text("utf-8"))
    ]
    left = [
        place
        for place in found
        if (part := _ALLOWED.get(place.partition(":")[0])) is None or part not in place
    ]
    assert left == []


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("f'{n} rows'", True),
        ("f'{n:,} other rows of it'", True),
        ("f'{len(x)} of {n} bins'", True),
        ("f'{n:g} nats'", True),
        ("f'layers {n}'", True),
        ("'s' * (n != 1)", True),
        ("f'{n:.4f} nats'", False),
        ("f'{_MOST} rows'", False),
        ("f'{share:.0%} zeros'", False),
        ("f'{name} is of rows'", False),
        ("f'{share} of the rows'", False),
        ("counted(n, 'row')", False),
    ],
)
def test_the_check_finds_what_it_is_for(source: str, *, is_found: bool) -> None:
    assert bool(list(_messages(source))) == is_found


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "bin", "0 bins"),
        (1, "row", "1 row"),
        (2048, "token", "2,048 tokens"),
        (1, "process", "1 process"),
        (2, "process", "2 processes"),
        (2, "batch", "2 batches"),
        (3, "entry", "3 entries"),
        (2, "day", "2 days"),
        (1, "own token", "1 own token"),
        ("1", "nat", "1 nat"),
        ("0.25", "nat", "0.25 nats"),
        (1.0, "nat", "1.0 nats"),
    ],
)
def test_counted(count: float | str, noun: str, text: str) -> None:
    assert counted(count, noun) == text


def test_listed() -> None:
    assert listed("layer", "0") == "layer 0"
    assert listed("layer", "0,2") == "layers 0,2"
    assert listed("layer", "0-3") == "layers 0-3"
    assert listed("layer", "0 (5 %)") == "layer 0 (5 %)"
    assert listed("layer", "0 (5 %), 2 (4 %)") == "layers 0 (5 %), 2 (4 %)"
    assert listed("layer", "all") == "layers all"
    assert plural("box") == "boxes"
