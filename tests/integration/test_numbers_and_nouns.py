"""Everything that is printed where there is one of each: numbers agree with their nouns."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from support.commands import Done

_LAYER = """
[layer]
hidden_size = 8
intermediate_size = 1
heads = 1
kv_heads = 1
documents = 1
tokens = 1
"""
_NOT_NOUNS = (
    r"(?:is|was|has|does|takes|removes|costs|moves|less|loss|plus|minus|differs|bias|across|axis)"
)
_WRONG = re.compile(
    # "1 rows", "1 own tokens"; not "0.1 nats", "layer 1 differs", "1 / std", "0 to 1 pairs"
    rf"(?<![\d.,:/×=\w-])(?<!layer )(?<!to )(?<!× )1 (?!{_NOT_NOUNS}\b)"
    rf"(?:(?!to\b|of\b|and\b|in\b|or\b)[a-z-]+ )?(?!{_NOT_NOUNS}\b)[a-z-]+(?<!s)s\b(?! ?=)"
    # "layers 0" alone; not "layers 0, 2", "layers 0-3", "--layers 0", a heading of a table
    r"|(?<![\w-])(?:layers|seeds|heads|documents|tokens) \d+(?!\d|[.,–-]| to| and|\s{2,}| \d)\b"
    # a count of nothing that says nothing, and values of Python
    r"|for 0 \w+s\b|\bNone\b|\bTrue\b|\bFalse\b"
)


def _wrong(text: str) -> list[str]:
    return [f"…{text[max(m.start() - 40, 0) : m.end() + 20]}…" for m in _WRONG.finditer(text)]


@pytest.mark.parametrize(
    ("text", "is_wrong"),
    [
        ("1 rows", True),
        ("(1 pairs of documents)", True),
        ("of 1 own tokens", True),
        ("in layers 0", True),
        ("the same for 0 tokens", True),
        ("max_tokens: None and 1", True),
        ("1 row", False),
        ("0.1 nats", False),
        ("layers 0, 2", False),
        ("layers 0–3", False),
        ("layer 1 differs", False),
        ("2,001 tokens", False),
        ("1 to 4 bits", False),
    ],
)
def test_the_check(text: str, *, is_wrong: bool) -> None:
    assert bool(_wrong(text)) == is_wrong


def _strings(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for one in data.values() if isinstance(data, dict) else data:
            yield from _strings(one)


def _texts_of_page(page: str) -> Iterator[str]:
    """Yield what a report shows, and the texts of its charts."""
    for script in re.findall(r"<script[^>]*json[^>]*>(.*?)</script>", page, re.DOTALL):
        yield from _strings(json.loads(script))
    shown = re.sub(r"<(script|style|code|pre).*?</\1>", " ", page, flags=re.DOTALL)
    yield html.unescape(re.sub(r"<[^>]+>", "\n", shown))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of every figure that is saved."""
    found: list[str] = []
    save = Figure.savefig

    def collect(figure: Figure, *args: Any, **options: Any) -> None:
        found.extend(one.get_text() for one in figure.findobj(Text) if isinstance(one, Text))
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", collect)
    return found


_COMMANDS = """
run one.toml --out r1 --report --figures svg
run one.toml --out r1n --arm-layers none --report --figures svg
run one.toml --out r1 --dry-run
run demo --text hi.txt --max-tokens 1 --layers 0 --sites act,product --classes all --out r2 --report
run demo --text hi.txt --skip-special --layers 0 --out r3 --no-figures
compare r1 r1 --out c1 --report --figures svg
compare r2 r2 --phase-b after --out c2 --report --figures svg
compare r1 r2 --sites act --out c3 --report --figures svg
whatif r2 --formats int8 --out w1 --report --figures svg
whatif r1 --formats int8 --out w2 --report --figures svg
filler demo --text hi.txt --counts 1 --layers 0 --out f1 --report --figures svg
sweep demo --text hi.txt --c 0.13 --p1 99.5 --arm-layers 0 --out s1 --report --figures svg
sweep demo --text hi.txt --c 0.13 --p1 99.5 --arm-layers 0 --budget-kl 1 --out s2 --no-figures
generate demo --prompt Hi --max-new-tokens 1
generate demo --prompt Hi --max-new-tokens 1 --num-samples 2 --sample
inspect one.toml
inspect demo
show r1
show r2
show c2
show w1
show f1
show s1
report r1 r2 -o both.html
run demo --layers 9
run one.toml --layers 9
run demo --max-length 2 --text hi.txt
show r1 --layers 3
"""


def _without_drawing(line: str) -> str:
    """Return a line that writes the same numbers into a folder of its own, without figures."""
    if "--out" not in line or "--dry-run" in line:
        return line
    plain = re.sub(r" --report| --figures svg| --no-figures", "", line)
    return re.sub(r"--out \w+", r"\g<0>-json --figures none", plain)


@pytest.mark.extended
def test_one_of_each(call: Callable[..., Done], drawn: list[str]) -> None:
    Path("one.toml").write_text(_LAYER)
    Path("hi.txt").write_text("Hi")
    texts: dict[str, list[str]] = {}
    for line in _COMMANDS.strip().splitlines():
        done = call(*line.split())
        texts[line] = [done.out, done.err]
        if not line.startswith(("report", "generate")):
            again = call(*_without_drawing(line).split(), "--json")
            assert again.code == done.code, (line, again.err)
            if again.code == 0:
                texts[f"{line} --json"] = list(_strings(json.loads(again.out)))
    pages = sorted(Path().rglob("*.html"))
    assert len(pages) > 8
    assert len(drawn) > 50
    texts |= {str(path): list(_texts_of_page(path.read_text("utf-8"))) for path in pages}
    texts["figures"] = drawn
    found = {name: [w for one in every for w in _wrong(one)] for name, every in texts.items()}
    assert [f"{name}: {wrong}" for name, wrong in found.items() if wrong] == []
