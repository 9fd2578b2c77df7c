"""The outputs that README and tutorial show are what their commands print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.report_pages import ROOT, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

NUMBER = r"[-−+]?\d[\d,]*(?:\.\d+)?"
PAGES = ("README.md", "docs/tutorial.md")
FIRST = "distviz run --out runs/demo --no-figures"


def outputs_of(page: Path) -> list[tuple[str, str]]:
    """Return the commands whose whole output is shown, and the output."""
    blocks = [t.content for t in tokens_of(page) if t.type == "fence" and t.info == "console"]
    return [tuple(block.removeprefix("$ ").split("\n", 1)) for block in blocks]  # type: ignore[misc]


def agree(printed: str, shown: str) -> bool:
    """Whether two outputs agree: equal words, numbers within what processors differ by."""
    ours, theirs = printed.split(), shown.split()
    if [re.sub(NUMBER, "0", word) for word in ours] != [re.sub(NUMBER, "0", w) for w in theirs]:
        return False
    numbers = ([_number(word) for word in re.findall(NUMBER, text)] for text in (printed, shown))
    return all(a == pytest.approx(b, rel=0.1, abs=0.002) for a, b in zip(*numbers, strict=True))


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def comparable(output: str) -> str:
    """Remove what differs between processors: rows of channels, drawings, p-values of noise."""
    lines = [
        line.rstrip()
        for line in output.splitlines()
        if not re.search(r"[▁-█─]|^    +\d+  std", line)
    ]
    return re.sub(r"(?m)(?<= )0\.\d{3}(?=( +0\.\d{3}\*?)?$)", "noise", "\n".join(lines))


def _shown_outputs() -> list[Any]:
    shown = dict.fromkeys(pair for page in PAGES for pair in outputs_of(ROOT / page))
    return [
        pytest.param(*pair, id=pair[0], marks=[pytest.mark.slow] * ("sweep" in pair[0]))
        for pair in shown
    ]


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of the commands."""
    return tmp_path_factory.mktemp("tutorial")


@pytest.mark.parametrize(("command", "shown"), _shown_outputs())
def test_pages_show_what_is_printed(
    command: str,
    shown: str,
    tutorial: Path,
    call: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tutorial)
    monkeypatch.setenv("COLUMNS", "80")
    if "runs/demo" in command and "--out runs/demo" not in command:
        assert Path("runs/demo/run.json").exists() or not call(*FIRST.split()[1:]).code
    done = call(*command.split()[1:], "--no-figures", "--force")
    assert done.code == 0, done.err
    assert agree(comparable(done.out), comparable(shown)), done.out


def test_outputs_that_differ_are_distinguished() -> None:
    assert agree("near 2.98% of 8,285", "near 2.97% of 8,285")
    assert not agree("near 2.98% of 8,285", "near 4.98% of 8,285")
    assert not agree("layers 0-1 differ", "layers 0-1, 3 differ")
    assert comparable("0.0005  0.131  0.487\n0.0005  0.002*  0.695") == (
        "0.0005  noise  noise\n0.0005  0.002*  noise"
    )
