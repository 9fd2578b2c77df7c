"""The statements of docs/trust.md: what untrusted input can do at most."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import distviz

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.commands import Done

QUICK = ("--max-length", "16", "--max-tokens", "48", "--no-figures", "--device", "cpu")
OPTION = ("--redistribution", "evil:clip")


@pytest.fixture
def evil(call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module beside the user's files; the file that its import leaves."""
    del call  # makes the working directory
    marker = Path("ran").resolve()
    Path("evil.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        "def clip(x):\n    return x.clamp(max=0.5)\n"
    )
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return marker


@pytest.fixture
def coded(call: Callable[..., Done], evil: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose redistribution is the user's function."""
    assert call("run", *OPTION, *QUICK, "-o", "coded").code == 0
    assert evil.exists()
    evil.unlink()
    monkeypatch.delitem(sys.modules, "evil")
    return Path("coded")


def test_a_folder_is_read_without_the_code_that_it_names(
    coded: Path, evil: Path, call: Callable[..., Done]
) -> None:
    assert "evil:clip" in call("show", coded).out
    for command in (
        ("show", coded, "--json"),
        ("report", coded),
        ("export", coded, "-o", "exported"),
        ("whatif", coded, "-o", "asked", "--no-figures"),
        ("compare", coded, coded, "-o", "same", "--no-figures"),
        ("show", "same"),
        ("report", "same"),
    ):
        done = call(*command)
        assert done.code == 0, done.err
    assert len(distviz.Run.load(coded).stats())
    assert not evil.exists()


@pytest.mark.parametrize("sides", [("coded", "demo"), ("demo", "coded")])
def test_comparing_with_a_folder_asks_for_its_code_again(
    sides: tuple[str, str], coded: Path, evil: Path, call: Callable[..., Done]
) -> None:
    del coded
    command = ("compare", *sides, "--phase-b", "after", "--phase-a", "after", "--no-figures")
    done = call(*command, "-o", "out")
    assert done.code == 2
    message, hint = done.complaint()
    assert "coded/run.json" in message
    assert hint.strip().endswith("--redistribution evil:clip")
    assert not evil.exists()
    assert not Path("out").exists()
    assert call(*command, *OPTION, "-o", "out").code == 0
    assert evil.exists()
    with pytest.raises(distviz.DistvizError, match="lets code run"):
        distviz.compare(distviz.Run.load("coded"), "demo")


@pytest.mark.parametrize(
    "line",
    [
        "redistribution = 'evil:clip'",
        "allow_pickle = true",
        "trust-remote-code = true",
        "attn-implementation = 'org/kernel'",
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("run", "--config", "x.toml"),
        ("run", "x.toml"),
        ("sweep", "--config", "x.toml"),
        ("filler", "demo", "--config", "x.toml"),
        ("compare", "demo", "demo", "--config", "x.toml"),
        ("compare", "x.toml", "x.toml"),
        ("generate", "--prompt", "a", "--config", "x.toml"),
        ("inspect", "x.toml"),
    ],
    ids=" ".join,
)
def test_a_toml_cannot_let_code_run(
    command: tuple[str, ...], line: str, evil: Path, call: Callable[..., Done]
) -> None:
    Path("x.toml").write_text(f"{line}\n")
    before = sorted(Path.cwd().rglob("*"))
    done = call(*command)
    assert done.code == 2
    message, hint = done.complaint()
    assert "x.toml" in message
    assert "lets code run" in message
    assert "type --" in hint
    assert not evil.exists()
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_sweep_runs_the_code_that_is_typed(evil: Path, call: Callable[..., Done]) -> None:
    done = call(
        "sweep", "--redistribution", "arm,evil:clip", "--c", "0.2", *QUICK, "-o", "swept",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert evil.exists()
