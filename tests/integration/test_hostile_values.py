"""Every option and every TOML field with hostile values: right, or refused in two plain lines."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from support import hostile
from support.commands import Done

from distviz.results.run import Run

_SECONDS = 5.0


@pytest.fixture
def attempt(
    call: Callable[..., Done], demo_run: Run, demo_folder: Path, tmp_path: Path
) -> Callable[[str, dict[str, str], set[str]], str]:
    """Return what is wrong with the end of a command with some options; empty if nothing is."""
    run = demo_run.save(tmp_path / "run")
    hostile.prepare(Path())
    for _ in range(2):  # imports, of which a test has no part
        call("run", "--dry-run")

    def end(command: str, given: dict[str, str], without: set[str]) -> str:
        base = hostile.base(command, run, demo_folder)
        options = {name: value for name, value in base.items() if name not in without}
        before, start = _listing(), time.process_time()
        done = call(*hostile.words_of(command, options | given))
        seconds = time.process_time() - start
        lines = [line for line in done.complaint() if not line.startswith("distviz: warning")]
        wrong = hostile.wrong_with(done.code, done.out, lines)
        written = _listing() - before
        for path in sorted(written, reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if written and done.code:
            return f"wrote {sorted(map(str, written))}"
        return wrong or (f"took {seconds:.1f} s" if seconds > _SECONDS else "")

    return end


def _listing() -> set[Path]:
    return set(Path().rglob("*"))


def _failures(
    command: str,
    lines: Iterable[tuple[str, str]],
    attempt: Callable[[str, dict[str, str], set[str]], str],
) -> Iterator[str]:
    for name, value in lines:
        if wrong := attempt(command, {name: value}, {name}):
            yield f"{name} = {value[:80]!a}: {wrong[:400]}"


@pytest.mark.parametrize("command", hostile.COMMANDS)
def test_options_are_right_or_refused(
    command: str, attempt: Callable[[str, dict[str, str], set[str]], str]
) -> None:
    assert not list(_failures(command, hostile.few_lines(command), attempt))


@pytest.mark.slow
@pytest.mark.parametrize("command", hostile.COMMANDS)
def test_every_option_with_every_value(
    command: str, attempt: Callable[[str, dict[str, str], set[str]], str]
) -> None:
    assert not list(_failures(command, hostile.lines(command), attempt))


def _toml_failures(
    values: Iterable[str], attempt: Callable[[str, dict[str, str], set[str]], str]
) -> Iterator[str]:
    path = Path("given.toml")
    for value in values:
        for field in hostile.FIELDS:
            table, _, name = field.rpartition(".")
            path.write_text((f"[{table}]\n" if table else "") + f"{name} = {value}\n")
            is_layer = "layer" in (table, field)
            given = {"model" if is_layer else "config": str(path)}
            if wrong := attempt("run", given, {field} | ({"text"} if is_layer else set())):
                yield f"{field} = {value[:80]}: {wrong[:400]}"


def test_toml_fields_are_right_or_refused(
    attempt: Callable[[str, dict[str, str], set[str]], str],
) -> None:
    assert not list(_toml_failures(hostile.FEW_TOML, attempt))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_every_toml_field_with_every_value(
    part: int, attempt: Callable[[str, dict[str, str], set[str]], str]
) -> None:
    assert not list(_toml_failures(hostile.TOML[part::6], attempt))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a." * 40_000 + b"a = 1", "nested too deeply"),
        (b"c = {" + b"a." * 40_000 + b"a = 1}", "nested too deeply"),
        (b"[" + b"a." * 40_000 + b"a]", "nested too deeply"),
        (b"a." * 900 + b"a = 1", "unknown key 'a'"),
        (b"[" * 5000, "cannot be read as TOML"),
        (b"c = " + b"[" * 20_000 + b"]" * 20_000, "nested too deeply"),
        (b"c = " + b"{a=" * 20_000 + b"1" + b"}" * 20_000, "nested too deeply"),
        (b"seed = 0x" + b"f" * 50_000, "a whole number of 200,000 bits"),
        (b"seed = " + b"9" * 50_000, "a number or date in it is out of range"),
        (b"c = 1979-13-40T00:00:00Z", "cannot be read as TOML"),
        (b"c = 1\nc = 2", "cannot be read as TOML"),
        (b"c = '\xff'", "is not UTF-8"),
        (b"#" * 1_000_000, "has 1,000,000 bytes"),
    ],
    ids=lambda one: str(one)[:12],
)
def test_toml_files(content: bytes, message: str, call: Callable[..., Done]) -> None:
    Path("given.toml").write_bytes(content)
    done = call("run", "--dry-run", "--config", "given.toml")
    assert done.code == 2
    assert message in done.complaint()[0]
    assert not hostile.wrong_with(done.code, done.out, done.complaint())


@pytest.mark.parametrize("name", ["fifo", "folder", "/dev/zero", "loop", "dangling"])
def test_what_is_no_toml_file(name: str, call: Callable[..., Done]) -> None:
    hostile.prepare(Path())
    Path("linked.toml").symlink_to(name)
    for words in (["--config", name], ["linked.toml"]):
        done = call("run", "--dry-run", *words)
        assert done.code == 2
        assert not hostile.wrong_with(done.code, done.out, done.complaint())


def test_advice_for_models_and_results(
    call: Callable[..., Done], demo_run: Run, demo_folder: Path, tmp_path: Path
) -> None:
    run = demo_run.save(tmp_path / "run")
    for words in (["run", run], ["inspect", run / "run.json"], ["compare", run, run / "run.json"]):
        done = call(*words)
        assert (done.code, done.complaint()[1]) == (2, f"  show it: distviz show {run}")
    for command in ("show", "whatif", "report", "export"):
        done = call(command, demo_folder)
        assert done.code == 2
        assert done.complaint()[1].endswith(f"measure it: distviz run {demo_folder}")
        assert call(command, run / "run.json").complaint()[1] == f"  give its folder: {run}"
    assert "Did you mean 'show'?" in call("shwo", run).complaint()[0]
