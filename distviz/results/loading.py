"""Loading a folder of any kind of result."""

from __future__ import annotations

from pathlib import Path

from distviz.errors import RequestError
from distviz.results.allocation import Allocation
from distviz.results.comparison import Comparison
from distviz.results.filler_study import FillerStudy
from distviz.results.output_folder import advice_for, result_at
from distviz.results.reading import is_there
from distviz.results.run import Run
from distviz.results.sweep import Sweep
from distviz.results.training import Training
from distviz.results.whatif import WhatIf
from distviz.stats import checks_types

Kind = Run | Comparison | FillerStudy | Sweep | Allocation | WhatIf | Training
_KINDS: tuple[type[Kind], ...] = (Run, Comparison, FillerStudy, Sweep, Allocation, WhatIf, Training)


@checks_types
def load(folder: str | Path) -> Kind:
    """Read a folder that distviz wrote, of any kind.

    Raises
    ------
    RequestError
        If it is no such folder, or damaged; the file is named.
    """
    path = Path(folder)
    is_model = (path / "config.json").is_file() and result_at(path) is None
    for kind in _KINDS:
        if is_there(path / kind.FILE) and not is_model:  # which may have a file of this name
            return kind.load(path)
    if not is_there(path) or not path.is_dir():
        what = "is not a folder" if is_there(path) else "does not exist"
        raise RequestError(f"{path} {what}", advice_for(path))
    *names, last = [kind.FILE for kind in _KINDS]
    raise RequestError(
        f"{path} is not a result of distviz: it has no {', '.join(names)} or {last}",
        advice_for(path),
    )
