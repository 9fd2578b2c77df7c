"""Writing snapshots: nothing that fails is raised, everything is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distviz.measure import Sink
from distviz.measure.snapshots import Snapshots
from distviz.results import Training

SETTINGS: dict[str, Any] = {"every": 1, "sites": "act", "layers": "all"}
PLACE = {"step": 4, "layer": 2, "stack": "decoder", "site": "act", "kind": "nan", "module": "m"}


def test_the_first_place_stays(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "a", SETTINGS)
    snapshots.found_nonfinite(PLACE)
    snapshots.found_nonfinite(PLACE | {"step": 5})
    snapshots.close()
    assert Training.load(tmp_path / "a").manifest["first_nonfinite"] == PLACE
    resumed = Snapshots(tmp_path / "a", SETTINGS, resume=True)
    assert resumed.first_nonfinite == PLACE


def test_notes_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshots = Snapshots(tmp_path / "a", SETTINGS)
    snapshots.note("something")
    snapshots.note("something")
    snapshots.close()
    assert capsys.readouterr().err == "distviz: something\n"
    assert Training.load(tmp_path / "a").manifest["warnings"] == ["something"]


def test_what_has_the_methods_of_a_sink_is_one() -> None:
    class Own:
        def write(self, step: int, run: Any) -> None:
            assert step >= 0

        def close(self) -> None:
            pass

    sink: Sink = Own()
    sink.write(1, None)
    sink.close()
