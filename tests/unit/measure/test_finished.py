"""A finished result answers a request only for the inputs that it was measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distviz.arm import ARM
from distviz.data import fingerprint_of_entries
from distviz.errors import RequestError
from distviz.measure.finished import contents, refuse_changed
from distviz.measure.opening import documents_of
from distviz.models import locate
from distviz.settings import RunSettings


def test_contents_of_files_only(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("layer,threshold\n0,0.5\n")
    name = f"threshold:{file}"
    found = contents(["arm", "threshold", "noise", name], ARM())
    assert list(found) == [f"content of {name}"]


def test_each_input_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("one two three")
    settings = RunSettings(model=str(tiny_llama), text=[str(text)])
    (document,) = documents_of(settings)
    entry = document.as_dict()
    known: dict[str, Any] = {
        "model": {"fingerprint": locate(str(tiny_llama)).fingerprint},
        "text": {"sha256": fingerprint_of_entries([entry])},
    }
    refuse_changed({}, settings, "out")  # of a folder that says nothing
    refuse_changed(known, settings, "out")
    with pytest.raises(RequestError, match=r"out is complete, .*: text differs"):
        refuse_changed(known | {"text": {"sha256": "0"}}, settings, "out")
    with pytest.raises(RequestError, match="model fingerprint differs"):
        refuse_changed(known | {"model": {"fingerprint": "sha256:0"}}, settings, "out")
    refuse_changed(known | {"contents": {"content of threshold:x": "sha256:0"}}, settings, "out")
