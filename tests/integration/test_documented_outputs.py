"""What the tutorial shows is what its commands print."""

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
FIRST = "distviz run --out runs/demo --no-figures"


def outputs_of(page: Path) -> list[tuple[str, str]]:
    """Return the commands whose whole output is shown, and the output."""
    blocks = [t.content for t in tokens_of(page) if t.type == "fence" and t.info == "console"]
    return [tuple(block.removeprefix("$ ").split("\n", 1)) for block in blocks]  # type: ignore[misc]


def agree(printed: str, shown: str) -> bool:
    """Whether two outputs say the same: the same words, numbers to what processors differ by."""
    ours, theirs = printed.split(), shown.split()
    if [re.sub(NUMBER, "0", word) for word in ours] != [re.sub(NUMBER, "0", w) for w in theirs]:
        return False
    numbers = ([_number(word) for word in re.findall(NUMBER, text)] for text in (printed, shown))
    return all(a == pytest.approx(b, rel=0.1, abs=0.002) for a, b in zip(*numbers, strict=True))


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def told(output: str) -> str:
    """Leave out what ranks neighbours (single channels), drawings, and p-values of mere noise."""
    lines = [
        line.rstrip()
        for line in output.splitlines()
        if not re.search(r"[▁-█─]|^    +\d+  std", line)
    ]
    return re.sub(r"(?m)(?<= )0\.\d{3}(?=( +0\.\d{3}\*?)?$)", "noise", "\n".join(lines))


def _shown_outputs() -> list[Any]:
    return [
        pytest.param(command, shown, id=command, marks=[pytest.mark.slow] * ("sweep" in command))
        for command, shown in outputs_of(ROOT / "docs" / "tutorial.md")
    ]


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first command of the tutorial has been given."""
    return tmp_path_factory.mktemp("tutorial")


@pytest.mark.parametrize(("command", "shown"), _shown_outputs())
def test_the_tutorial_shows_what_is_printed(
    command: str,
    shown: str,
    tutorial: Path,
    call: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tutorial)
    if "runs/demo" in command and "--out runs/demo" not in command:
        assert Path("runs/demo/run.json").exists() or not call(*FIRST.split()[1:]).code
    done = call(*command.split()[1:], "--no-figures", "--force")
    assert done.code == 0, done.err
    assert agree(told(done.out), told(shown)), done.out


def test_outputs_that_differ_are_told_apart() -> None:
    assert agree("near 2.98% of 8,285", "near 2.97% of 8,285")
    assert not agree("near 2.98% of 8,285", "near 4.98% of 8,285")
    assert not agree("layers 0-1 differ", "layers 0-1, 3 differ")
    assert told("0.0005  0.131  0.487\n0.0005  0.002*  0.695") == (
        "0.0005  noise  noise\n0.0005  0.002*  noise"
    )
