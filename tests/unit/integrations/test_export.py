"""``distviz export --for``: files, messages, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING

import pytest

from distviz.errors import RequestError
from distviz.integrations.export import TOOLS, export_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from support.commands import Done

    from distviz.results import Run

FILES = {
    "imatrix": ["imatrix.gguf"],
    "smoothquant": ["act_scales.pt"],
    "teal": ["histograms/layer-1/mlp/histograms.pt", "histograms/layer-1/self_attn/histograms.pt"],
    "tensorboard": ["tensorboard/before/events.out.tfevents.0.distviz"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_files_stand_beside_others_and_are_replaced_on_demand(
    tool: str, linear_run: tuple[Run, Path], tmp_path: Path
) -> None:
    pytest.importorskip(TOOLS[tool].package or "torch")
    (tmp_path / "mine").write_text("stays")
    for force in (False, True):
        files, warnings = export_for(linear_run[1], tool, tmp_path, layers="1", force=force)
        assert files == [tmp_path / name for name in FILES[tool]]
        assert warnings == []
        assert all(path.stat().st_size for path in files)
    assert (tmp_path / "mine").read_text() == "stays"
    with pytest.raises(RequestError, match="exists"):
        export_for(linear_run[1], tool, tmp_path)


def test_a_part_of_the_layers_is_said(linear_run: tuple[Run, Path], tmp_path: Path) -> None:
    part = linear_run[0].select([0, 4]).save(tmp_path / "part")
    _, warnings = export_for(part, "smoothquant", tmp_path / "out")
    assert warnings == ["the run holds 2 of 6 layers, so do the files"]


def test_a_missing_package_is_asked_for_by_name(
    linear_run: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    gone = ("gguf", "tensorboard")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in gone else find(name, *a)
    )
    for tool, package in (("imatrix", "gguf"), ("tensorboard", "tensorboard")):
        with pytest.raises(RequestError, match=f"needs the package {package}, which") as refused:
            export_for(linear_run[1], tool, tmp_path)
        assert refused.value.hint == f"pip install {package}"


def test_the_command(
    linear_run: tuple[Run, Path], tmp_path: Path, call: Callable[..., Done], demo_run: Run
) -> None:
    folder, out = linear_run[1], tmp_path / "out"
    done = call("export", folder, "--for", "smoothquant", "--out", out, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    assert found == {
        "folder": str(out), "files": [str(out / "act_scales.pt")], "warnings": []
    }  # fmt: skip
    for options, message in (
        (("--for", "imatrx"), "--for is 'imatrx' (did you mean 'imatrix'?)"),
        (("--for", "teal", "--figures", "png"), "--figures has no effect with --for"),
        (("--for", "teal", "--sites", "act"), "--sites has no effect with --for"),
        (("--for", "teal", "--centred"), "--centred has no effect with --for"),
    ):
        done = call("export", folder, *options)
        assert done.code == 2
        assert message in done.err
    plain = demo_run.save(tmp_path / "plain")
    done = call("export", plain, "--for", "imatrix")
    assert done.code == 2
    assert "imatrix needs sites attn_in, attention, mlp_in, product" in done.err
    assert "measure again with --sites linear" in done.err
    with pytest.raises(RequestError, match="is not a run"):
        export_for(tmp_path, "teal", out)
