"""Names with control characters in results: escaped in tables, figures, reports and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from support.commands import Done
from support.synthetic_runs import place, run_of

NAME = "m\x1b]0;t\x07\x00\u202egpj\u2028\x85\ufeff[/b]$\\frac$<b>"
SHOWN = r"m\x1b]0;t\x07\x00\u202egpj\u2028\x85\ufeff[/b]$\frac$<b>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    values = {
        place(0, phase, site, f"[/b]$x$.{part}"): torch.randn(64, generator=generator).bfloat16()
        for phase in ("before", "after")
        for site, part in (("act", "1"), ("act", "2"), ("module:*[/b]", "x"))
    }
    model = {"name": NAME, "activation": NAME, "layers": 1, "path": NAME, "architecture": NAME}
    text = {"documents": 1, "tokens": 64, "files": [NAME]}
    run = run_of(values, model=model, text=text, warnings=[NAME], dtype=NAME)
    return run.save(tmp_path / "run")


def _is_plain(text: str) -> bool:
    return text.replace("\n", "").replace("\N{NO-BREAK SPACE}", "").isprintable()


def test_on_the_terminal(folder: Path, call: Callable[..., Done]) -> None:
    for words in (["show", folder, "--layers", "0"], ["whatif", folder, "--no-figures"]):
        done = call(*words)
        assert done.code == 0, done.err
        assert _is_plain(done.out + done.err)
        assert SHOWN[:20] in done.out.replace("\n", "") + done.err
    done = call("show", folder, "--json")
    assert _is_plain(done.out)
    assert json.loads(done.out)["model"]["name"].startswith(SHOWN[:14])


def test_in_figures(folder: Path, call: Callable[..., Done]) -> None:
    done = call("export", folder, "--figures", "svg,png,pdf", "--tables", "none", "--out", "out")
    assert done.code == 0, done.err
    drawn = sorted(Path("out").glob("*.svg"))
    assert drawn
    for path in drawn:
        ET.fromstring(path.read_bytes())
        assert _is_plain(path.read_text("utf-8"))


def test_in_a_report(folder: Path, call: Callable[..., Done]) -> None:
    done = call("report", folder)
    assert done.code == 0, done.err
    page = (folder / "report.html").read_text("utf-8")
    assert _is_plain("".join(page.split("<script>")[0].split()))
    assert r"m\x1b]0;t\x07" in page
    call("report", folder, "--force")
