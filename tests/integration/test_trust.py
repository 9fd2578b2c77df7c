"""The statements of docs/trust.md: what untrusted input can do at most."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


# Checkpoints --------------------------------------------------------------------------------


def test_a_checkpoint_runs_no_code(tiny_llama: Path, evil: Path, call: Callable[..., Done]) -> None:
    """Its Python files lie where transformers would find them, and its fields ask for them."""
    code = evil.with_name("evil.py").read_text()
    (tiny_llama / "custom_generate").mkdir()
    for name in ("evil.py", "modeling_llama.py", "custom_generate/generate.py"):
        (tiny_llama / name).write_text(code)
    named = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoModel": "evil.M"}
    for file, fields in (
        ("config.json", {"auto_map": named}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}),
        ("generation_config.json", {"custom_generate": "./custom_generate"}),
    ):
        edit_json(tiny_llama / file, **fields)
    for command in (
        ("run", tiny_llama, *QUICK, "-o", "measured"),
        ("inspect", tiny_llama),
        ("generate", tiny_llama, "--prompt", "a", "--max-new-tokens", "2"),
    ):
        done = call(*command)
        assert done.code in (0, 2), done.err
        assert not evil.exists()


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"model_type": "own", "auto_map": {"AutoConfig": "evil.C"}}, "--trust-remote-code"),
        ({"attn_implementation": "org/kernel"}, "--attn-implementation org/kernel"),
    ],
)
def test_a_checkpoint_that_needs_code_is_refused(
    fields: dict[str, Any], hint: str, tiny_llama: Path, evil: Path, call: Callable[..., Done]
) -> None:
    edit_json(tiny_llama / "config.json", **fields)
    (tiny_llama / "evil.py").write_text(Path("evil.py").read_text())
    done = call("run", tiny_llama, *QUICK, "-o", "measured")
    assert done.code == 2
    assert hint in done.complaint()[1]
    assert not evil.exists()
    assert not Path("measured").exists()


def edit_json(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | fields))


# Folders and texts --------------------------------------------------------------------------


def test_a_folder_and_a_text_write_nothing_elsewhere(call: Callable[..., Done]) -> None:
    hostile = "../../x</script><script>alert(1)</script>\x1b[31m=cmd|' /C calc'!A0"
    Path("t.jsonl").write_text(json.dumps({"text": hostile, "id": "../../escaped"}) + "\n")
    assert call("run", "--text", "t.jsonl", *QUICK, "--report", "-o", "in/run").code == 0
    manifest = json.loads(Path("in/run/run.json").read_text())
    manifest["settings"] |= {"out": "../elsewhere", "force": True, "text": ["/etc/passwd"]}
    Path("in/run/run.json").write_text(json.dumps(manifest))
    before = {path for path in Path.cwd().rglob("*") if "in" not in path.parts[-3:]}
    for command in (("report", "in/run", "--force"), ("show", "in/run")):
        done = call(*command)
        assert done.code == 0, done.err
        assert "\x1b[31m" not in done.out + done.err
    assert call("compare", "in/run", "demo", "-o", "in/both", "--no-figures").code == 0
    assert json.loads(Path("in/both/b/run.json").read_text())["settings"]["text"] == []
    after = {path for path in Path.cwd().rglob("*") if "in" not in path.parts[-3:]}
    assert {path.parts[len(Path.cwd().parts)] for path in after - before} <= {"in"}
    assert not Path("../elsewhere").exists()
