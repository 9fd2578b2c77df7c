"""The folders that distviz writes: what all kinds of results share, and which kind a folder is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distviz.errors import RequestError
from distviz.results.comparison import Comparison
from distviz.results.filler_study import FillerStudy
from distviz.results.run import COMPARISON, FILLER, RUN, SWEEP, WHATIF, Run
from distviz.results.sweep import Sweep
from distviz.results.whatif import WhatIf

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Result", "load"]


class Result(Protocol):
    """What is shown, exported and written in one way: a run, a comparison, a study."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the JSON file of the folder holds; ``kind`` names the kind of result."""

    @property
    def n_layers(self) -> int:
        """How many layers may be asked for."""

    def select(self, layers: Iterable[int] | None, sites: Iterable[str] | None) -> Result:
        """Return the part at some layers and sites."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder."""


Kind = Run | Comparison | FillerStudy | Sweep | WhatIf
_KINDS: dict[str, type[Kind]] = {
    RUN: Run,
    COMPARISON: Comparison,
    FILLER: FillerStudy,
    SWEEP: Sweep,
    WHATIF: WhatIf,
}
"""The file that tells the kind of a folder, and what reads it."""


def load(folder: str | Path) -> Kind:
    """Read a folder that distviz wrote, whichever kind it is.

    Raises
    ------
    RequestError
        If it is none, or damaged; the file is named.
    """
    path = Path(folder)
    for name, kind in _KINDS.items():
        if (path / name).exists():
            return kind.load(path)
    if not path.is_dir():
        raise RequestError(f"{path} is not a folder", "give a folder that distviz wrote")
    *names, last = _KINDS
    raise RequestError(f"{path} is not a result of distviz: it has no {', '.join(names)} or {last}")
