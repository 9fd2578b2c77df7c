"""The folder of a filler study: tables, one run a number of filler tokens, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.exports import save_figure
from distviz.runs import staging

if TYPE_CHECKING:
    from distviz.fillers import FillerStudy

__all__ = ["write_filler"]


def write_filler(
    study: FillerStudy, out: Path, *, figures: Sequence[str] = ("png",), force: bool = False
) -> Path:
    """Write the folder: complete, or not at all.

    Raises
    ------
    RequestError
        If the folder may not be written.
    """
    with staging(out, force=force) as place:
        study.write(place)
        if figures:
            (place / "figures").mkdir()
            for name, figure in _figures(study).items():
                save_figure(figure, place / "figures", name, figures)
    return out


def _figures(study: FillerStudy) -> dict[str, Any]:
    """Return every figure by file name: by layer for each count, by count for the first layer."""
    from distviz import plots

    table, attention = study.table, study.attention
    title = f"{study.manifest['model']['name']} · filler “{study.manifest['filler']}”"
    counts = [count for count in study.runs if count]
    found: dict[str, Any] = {}
    for site in dict.fromkeys(table["site"]):
        for count in counts:
            name = f"filler_{count:03d}_{site}"
            found[name] = plots.filler_by_layer(table, attention, count, site, title)
        if len(counts) > 1:
            first = int(table.loc[table["site"] == site, "layer"].min())
            name = f"by_count_layer_{first:03d}_{site}"
            found[name] = plots.filler_by_count(table, attention, first, site, title)
    return found
