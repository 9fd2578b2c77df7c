"""Fingerprints follow the content of files and the code of functions."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from distviz.arm.arm import ARM
from distviz.arm.controls import make_redistribution
from distviz.arm.sources import code_fingerprint, fingerprint_of


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user, imported from a file."""
    file = tmp_path / "own_code.py"
    file.write_text("class Thing: pass\ndef make(x):\n    return x\n")
    spec = importlib.util.spec_from_file_location("own_code", file)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_code", found)
    spec.loader.exec_module(found)  # type: ignore[union-attr]
    return found


def test_code_is_that_of_its_files(module: Any) -> None:
    same = [
        module.make,
        module.Thing,
        module.Thing(),
        functools.wraps(module.make)(lambda x: x),
    ]
    found = {code_fingerprint([one]) for one in same}
    assert len(found) == 1
    assert code_fingerprint([module.make, module.Thing]) in found
    assert code_fingerprint([functools.partial(module.make)], ["functools"]) in found
    assert code_fingerprint([module.make, len, Path], ["pathlib"]) in found
    assert code_fingerprint([module.make], ["own_code"]) == ""
    Path(module.__file__).write_text("def make(x):\n    return -x\n")
    assert code_fingerprint([module.make]) not in found
    assert fingerprint_of([module.make]) != fingerprint_of([len])


def test_what_settings_say_has_none(tmp_path: Path) -> None:
    assert ARM(c=0.2).fingerprint() == ""
    assert make_redistribution("threshold", ARM()).fingerprint() == ""
    file = tmp_path / "t.csv"
    seen = []
    for threshold in ("0.5", "0.25", "0.5"):
        file.write_text(f"layer,threshold\n0,{threshold}\n")
        seen.append(make_redistribution(f"threshold:{file}", ARM()).fingerprint())
    assert seen[0] == seen[2] != seen[1]
