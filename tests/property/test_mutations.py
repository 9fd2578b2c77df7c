"""Damaged result folders are refused by name, warned about, or give the right result.

A failure prints its number: ``DISTVIZ_MUTATION=1234 pytest -m extended tests/property/
test_mutations.py`` repeats it alone. ``DISTVIZ_MUTATIONS=100000`` makes more of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.mutations import mutate, strip_checksums
from support.synthetic_allocations import allocation_of
from support.synthetic_fillers import study
from support.synthetic_sweeps import sweep_of
from support.synthetic_trainings import training

from distviz import reports
from distviz.cli.views import allocation, comparison, filler, run, sweep, whatif
from distviz.cli.views import training as training_view
from distviz.errors import DistvizError
from distviz.reports.export import export
from distviz.results import Run, load
from distviz.studies.comparison import compare_runs
from distviz.studies.whatif import evaluate_whatif, parse_whatif

N = int(os.environ.get("DISTVIZ_MUTATIONS", "2000"))
ONLY = os.environ.get("DISTVIZ_MUTATION")
PARTS = 4
MOST_SECONDS, MOST_MB = 5, 1000
VIEWS: dict[str, Any] = {
    "run": run, "comparison": comparison, "filler": filler, "sweep": sweep,
    "allocation": allocation, "whatif": whatif, "training": training_view,
}  # fmt: skip
CHANGED = "changed after distviz wrote the folder"


class Folders:
    """A folder of each kind, and what each route makes of it while it is undamaged."""

    def __init__(self, place: Path, measured: Run) -> None:
        self.place = place
        small = measured.select(layers=[0, 1])
        other = measured.select(layers=[2])
        asked = parse_whatif(sparsity="50", formats="int8", ranges="max")
        results = {
            "run": small,
            "comparison": compare_runs(small, small, phase_b="after"),
            "filler": study(),
            "sweep": sweep_of(),
            "allocation": allocation_of(),
            "whatif": evaluate_whatif(small, asked, "run"),
            "training": training((0, 10), layers=2, n_documents=8).training,
        }
        self.sound = {kind: one.save(place / "sound" / kind) for kind, one in results.items()}
        self.others = [other.save(place / "other"), *self.sound.values()]
        self.baseline: dict[tuple[str, str], str] = {}
        self.seconds: dict[tuple[str, str], float] = {}
        for kind in self.sound:
            for name, route in ROUTES.items():
                started = time.process_time()
                result = load(self.damaged(kind))
                assert CHANGED not in str(result.stated.get("warnings"))
                self.baseline[kind, name] = _digest(route(result, self))
                self.seconds[kind, name] = time.process_time() - started

    def damaged(self, kind: str) -> Path:
        """A copy to damage, always at the same place."""
        folder = self.place / "damaged" / kind
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.sound[kind], folder)
        return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, demo_run: Run) -> Folders:
    return Folders(tmp_path_factory.mktemp("mutations"), demo_run)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Routes -------------------------------------------------------------------------------------


def _show(result: Any, _folders: Folders) -> str:
    kind = Path(result.FILE).stem
    console = Console(width=100, file=open(os.devnull, "w"), record=True)  # noqa: PTH123, SIM115
    console.print(VIEWS[kind].summary(result, console))
    console.file.close()
    return console.export_text()


def _json(result: Any, _folders: Folders) -> str:
    return json.dumps(result.summary(), allow_nan=False)


def _report(result: Any, folders: Folders) -> str:
    out = folders.place / "report.html"
    folder = folders.place / "damaged" / Path(result.FILE).stem
    reports.report_folders([folder], out, force=True)
    return out.read_text(encoding="utf-8")


def _export(result: Any, folders: Folders) -> str:
    out = folders.place / "export"
    shutil.rmtree(out, ignore_errors=True)
    export(result, out, figures=(), tables=("csv", "json"))
    return "".join(path.read_text() for path in sorted(out.iterdir()))


def _figures(result: Any, folders: Folders) -> str:
    out = folders.place / "export"
    shutil.rmtree(out, ignore_errors=True)
    export(result, out, figures=("svg",), tables=())
    return "".join(path.read_text() for path in sorted(out.iterdir()))


def _whatif(result: Any, _folders: Folders) -> str:
    if not isinstance(result, Run):
        return ""
    asked = parse_whatif(sparsity="50", formats="int8", ranges="max")
    return _json(evaluate_whatif(result, asked, "run"), _folders)


def _compare(result: Any, folders: Folders) -> str:
    if not isinstance(result, Run):
        return ""
    return _json(compare_runs(Run.load(folders.sound["run"]), result), folders)


ROUTES: dict[str, Callable[[Any, Folders], str]] = {
    "show": _show, "json": _json, "report": _report, "export": _export, "figures": _figures,
    "whatif": _whatif, "compare": _compare,
}  # fmt: skip
WEIGHTS = {"report": 2, "figures": 1, "whatif": 4, "compare": 4, "export": 6, "json": 6, "show": 6}


def _try(number: int, folders: Folders) -> tuple[str, str]:
    """Damage a folder and read it; return how it ended and a description."""
    rng = random.Random(number)
    kind = rng.choice(["run", "run", "run", *folders.sound])
    route = rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
    folder = folders.damaged(kind)
    is_old = rng.random() < 0.2
    if is_old:
        strip_checksums(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = f"{mutate(rng, folder, folders.others)}{', no checksums' * is_old}"
    done = f"mutation {number}, {kind}, {route}, {done}"
    started = time.process_time()
    try:
        result = load(folder)
        text = ROUTES[route](result, folders)
    except DistvizError as error:
        if error.exit_code != 2 or "\n" in error.message:
            raise AssertionError(f"{done}: {error!r}") from error
        end = "refused"
    except BaseException as error:
        raise AssertionError(f"{done}: {type(error).__name__}: {error}") from error
    else:
        is_said = CHANGED in str(result.stated.get("warnings"))
        is_same = _digest(text) == folders.baseline[kind, route]
        end = "right" if is_same else "warned" if is_said else "old" if is_old else "silent"
    seconds = time.process_time() - started - 2 * folders.seconds[kind, route]
    assert seconds < MOST_SECONDS, f"{done} took too long"
    return end, done


@pytest.mark.extended
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.filterwarnings("ignore")
def test_no_damage_is_silent(part: int, folders: Folders) -> None:
    numbers = [int(ONLY)] if ONLY is not None else range(part, N, PARTS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends: dict[str, int] = {}
    failures = []
    for number in numbers:
        try:
            end, done = _try(number, folders)
        except AssertionError as error:
            end, done = "failed", str(error)
        ends[end] = ends.get(end, 0) + 1
        if end in ("failed", "silent"):
            failures.append(f"{end}: {done}")
    sys.stderr.write(f"{ends}\n")
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    assert not failures, f"{ends}\n" + "\n".join(failures[:40])
    assert used < MOST_MB
