"""Writing the snapshots of a training, one after the other, into a folder that is always valid.

A snapshot is an ordinary run in a folder of its own, which is there as a whole or not at all. The
timeline grows at its end and the manifest names how far it is valid, so the cost of a snapshot does
not depend on how many there are; only the manifest, 150 bytes for each, is written anew.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from distviz.errors import MeasurementError, RequestError
from distviz.output import visible
from distviz.results.output_folder import check_output
from distviz.results.reading import file_digest
from distviz.results.run import Run
from distviz.results.schema import SCHEMA_VERSION
from distviz.results.storage import RUN, TRAINING, replacing, staging, write_manifest
from distviz.results.training import (
    COLUMNS,
    TIMELINE,
    Training,
    step_folder,
    timeline_rows,
)


class TrainingWriter:
    """Writes the folder of a training.

    Parameters
    ----------
    out
        The folder.
    settings
        What the snapshots observe, for the manifest: ``every``, ``sites``, ``layers`` and so on;
        lists are joined by commas.
    resume
        Continue the training in the folder, if there is one.
    force
        Replace an existing result of distviz.

    Attributes
    ----------
    manifest
        Content of ``training.json``; changes are written with the next snapshot.

    Raises
    ------
    RequestError
        If the folder may not be written; with ``resume``, if it is damaged or its snapshots observe
        something else.
    """

    def __init__(
        self,
        out: str | Path,
        settings: dict[str, Any],
        *,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        self.out = Path(out)
        settings = {n: ",".join(v) if isinstance(v, list) else v for n, v in settings.items()}
        self.manifest: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kind": "training",
            "model": None,
            "settings": settings,
            "steps": [],
            "first_nonfinite": None,
            "warnings": [],
        }
        self._session, self._digest, self._size = 0, hashlib.sha256(), 0
        if resume and (self.out / TRAINING).is_file():
            self._continue(settings)
            return
        check_output(self.out, force=force)
        if self.out.is_dir():
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True)
        self._rewrite(pd.DataFrame(columns=COLUMNS))

    def _continue(self, settings: dict[str, Any]) -> None:
        """Take over what an earlier process has written."""
        found = Training.load(self.out)
        own = found.manifest.get("settings") or {}
        for name in (name for name in settings if settings[name] != own.get(name)):
            if name != "every":
                was = f"the snapshots in {self.out} have {name} {own.get(name)}"
                raise RequestError(
                    f"{was}, not {settings[name]}", "give another folder, or the same settings"
                )
        self.manifest |= found.manifest | {"settings": settings}
        noted = {one["step"]: one for one in self.manifest["steps"]}
        self._session = 1 + max((one.get("session", 0) for one in noted.values()), default=0)
        missing = [step for step in found.steps if step not in noted]
        self.manifest["steps"] = [
            *noted.values(), *({"step": step, "session": self._session - 1} for step in missing)
        ]  # fmt: skip
        self._rewrite(found.timeline)

    def add(
        self,
        step: int,
        run: Run,
        *,
        tokens: int | None = None,
        passes: int | None = None,
        first_nonfinite: dict[str, Any] | None = None,
        warnings: Iterable[str] = (),
    ) -> Path:
        """Write the snapshot of a step, which replaces an earlier one of it; return its folder.

        Parameters
        ----------
        step
            Its number, 0 or more.
        run
            What was observed.
        tokens, passes
            How many tokens in how many forward passes.
        first_nonfinite
            Where the first NaN or infinity was found: ``step``, ``layer``, ``stack``, ``site``,
            ``kind`` and what is known of the token; the first that is given stays.
        warnings
            Of the training as a whole; each is kept once.

        Raises
        ------
        RequestError, MeasurementError
            If the folder cannot be written.
        """
        place = self.out / step_folder(step)
        is_known = any(one["step"] == step for one in self.manifest["steps"])
        rows = timeline_rows(step, run)
        with staging(place, force=True) as new:
            run.write(new)
        counts = {"tokens": tokens, "passes": passes, "session": self._session}
        note = {"step": step, **counts, "checksum": file_digest(place / RUN)}
        others = [one for one in self.manifest["steps"] if one["step"] != step]
        self.manifest["steps"] = [*others, note]
        self.manifest["model"] = self.manifest["model"] or run.manifest.get("model")
        self._keep(first_nonfinite, warnings)
        with self._writing():
            if is_known:
                self._rewrite(Training.load(self.out).timeline)
            else:
                self._append(rows)
                self._write_manifest()
        return place

    def note(
        self, *, first_nonfinite: dict[str, Any] | None = None, warnings: Iterable[str] = ()
    ) -> None:
        """Write the manifest without a snapshot; the arguments and errors are those of `add`."""
        self._keep(first_nonfinite, warnings)
        with self._writing():
            self._write_manifest()

    def _keep(self, first_nonfinite: dict[str, Any] | None, warnings: Iterable[str]) -> None:
        if self.manifest["first_nonfinite"] is None:
            self.manifest["first_nonfinite"] = first_nonfinite
        every = [*self.manifest["warnings"], *map(visible, warnings)]
        self.manifest["warnings"] = list(dict.fromkeys(every))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MeasurementError(f"{self.out} cannot be written: {error.strerror}") from error

    def _append(self, rows: pd.DataFrame) -> None:
        text = rows.to_csv(index=False, header=not self._size, lineterminator="\n").encode()
        with (self.out / TIMELINE).open("r+b") as file:
            file.seek(self._size)
            file.write(text)
            file.truncate()
        self._digest.update(text)
        self._size += len(text)

    def _rewrite(self, timeline: pd.DataFrame) -> None:
        """Write the whole timeline; until it is complete, only what the snapshots say is valid."""
        steps = self.manifest["steps"]
        self._digest, self._size = hashlib.sha256(), 0
        self.manifest["steps"] = [one | {"checksum": ""} for one in steps]
        self._write_manifest()
        with replacing(self.out / TIMELINE) as temporary:
            timeline.to_csv(temporary, index=False, lineterminator="\n")
        self._size = (self.out / TIMELINE).stat().st_size
        with (self.out / TIMELINE).open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256")
        self.manifest["steps"] = [one | {"checksum": self._checksum(one)} for one in steps]
        self._write_manifest()

    def _checksum(self, note: dict[str, Any]) -> str:
        path = self.out / step_folder(note["step"]) / RUN
        return file_digest(path) if path.is_file() else str(note.get("checksum", ""))

    def _write_manifest(self) -> None:
        self.manifest["steps"].sort(key=lambda one: one["step"])
        content = self.manifest | {"sizes": {TIMELINE: self._size}}
        with replacing(self.out / TRAINING) as temporary:
            write_manifest(temporary, content, {TIMELINE: self._digest.hexdigest()})
