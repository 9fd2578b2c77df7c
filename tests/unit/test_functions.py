"""The public functions: their stub is that of the records, they load nothing heavy."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.commands import HEAVY

import distviz
from distviz import functions

ROOT = Path(distviz.__file__).parent
NAMES = [name for name, one in vars(functions).items() if inspect.isfunction(one)]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "write_stub", ROOT.parent / "scripts" / "write_stub.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stub_is_that_of_the_records(script: ModuleType) -> None:
    """Otherwise: python scripts/write_stub.py."""
    written = ast.parse(script.PATH.read_text("utf-8"))
    assert ast.dump(written) == ast.dump(ast.parse(script.stub()))


def test_every_function_is_public_and_hides_no_module() -> None:
    assert len(NAMES) == 9
    for name in NAMES:
        assert getattr(distviz, name) is getattr(functions, name)
        assert name in distviz.__all__
        assert not (ROOT / name).exists()
        assert not (ROOT / f"{name}.py").exists()


def test_functions_are_loaded_lightly() -> None:
    code = (
        f"import sys, distviz; [getattr(distviz, name) for name in {NAMES}]; "
        f"print([name for name in {(*HEAVY, 'pandas', 'matplotlib')} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


TYPED = """
import distviz
run = distviz.run("model", text=["a"], layers=[0, 2], p1=90, x_axis="linear", progress=True)
run.stats()
compared = distviz.compare(run, "other", b_dtype="bf16", sites=["act"])
distviz.sweep("model", c=[0.1, 1], arm_layers=["0", "0,1"]).manifest
distviz.whatif(run, sparsity=[50, 90]).losses
distviz.report(["a", "b"]).name
"""
WRONG = """
import distviz
distviz.run("model", max_lenght=3)
distviz.run("model", max_length="64")
distviz.run("model", x_axis="log")
distviz.compare("a")
distviz.filler()
"""


@pytest.mark.extended
def test_type_checkers_know_the_parameters(tmp_path: Path) -> None:
    """Without the packages that distviz uses: reading torch takes minutes and gigabytes."""
    pytest.importorskip("mypy")
    assert (ROOT / "py.typed").exists()
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(WRONG)
    options = ["--strict", "--no-error-summary", "--no-site-packages", "--follow-imports=silent"]
    options += ["--ignore-missing-imports", f"--cache-dir={os.devnull}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "typed.py", "wrong.py"],
        cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    found = [line.split(":")[:2] for line in done.stdout.splitlines() if ": error:" in line]
    assert found == [["wrong.py", str(line)] for line in (3, 4, 5, 6, 7)], done.stdout
