"""Several runs in one report: the curves of their statistics by layer, laid over one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.output import counted
from distviz.reports import charts
from distviz.reports.page import Block, Chart, Choice, Fold, Part, Prose, Section, Switch
from distviz.results import measured_line, records

if TYPE_CHECKING:
    from distviz.results import Run

_DASHES = {"before": "solid", "after": "dashed"}
_MAIN = {
    "near_zero": "near-zero share",
    "std": "standard deviation",
    "gini": "Gini coefficient of |x|",
}
_KEY = ("layer", "site", "phase", "module", "stack")
_DIGITS = 5
Lines = dict[tuple[int, str], charts.Line]


def overlay_part(runs: Mapping[str, Run]) -> Part:
    """Return the part that lays runs, given by name, over one another.

    A run has a colour, a phase a kind of line; runs may have other layers and other sites.
    """
    stats = pd.concat(
        [run.stats().assign(run=number) for number, run in enumerate(runs.values())],
        ignore_index=True,
    )
    stats = stats[stats["phase"].isin(list(_DASHES))]
    lines = _lines(list(runs), stats)
    choices = [
        Choice(line.key, line.title, line.color.removeprefix("$"), line.dash)
        for line in lines.values()
    ]
    names = [f"{name}: {measured_line(run)}" for name, run in runs.items()]
    first: list[Block] = [Prose("\n".join(names)), Switch("show", choices)]
    sections = [Section("The runs", first)]
    sections += [_section(stats, site, lines) for site in dict.fromkeys(stats["site"])]
    return Part(
        f"{counted(len(runs), 'run')} together", "the same statistics by layer", "", sections
    )


def _lines(names: list[str], stats: pd.DataFrame) -> Lines:
    found = list(dict.fromkeys(zip(stats["run"], stats["phase"], strict=True)))
    paired = {number for number, phase in found if phase == "after"}
    return {
        (number, phase): _line(number, names[number] + f", {phase}" * (number in paired), phase)
        for number, phase in found
    }


def _line(number: int, title: str, phase: str) -> charts.Line:
    line = charts.line_of(number, title, _DASHES[phase])
    return line._replace(key=f"{phase[0]}{number}")


def _section(stats: pd.DataFrame, site: str, lines: Lines) -> Section:
    here = stats[stats["site"] == site]
    rest = [str(name) for name in here if name not in (*_KEY, *_MAIN, "run")]
    main = [_chart(here, name, title, lines) for name, title in _MAIN.items() if name in here]
    others = [chart for name in rest if (chart := _chart(here, name, name, lines))]
    blocks: list[Block] = [chart for chart in main if chart is not None]
    blocks.append(Fold("All other statistics by layer", [*others], grid=True))
    return Section(f"By depth: {site}", blocks, grid=True)


def _chart(stats: pd.DataFrame, name: str, title: str, lines: Lines) -> Chart | None:
    """Return one statistic of all runs by layer; None if it has no finite value."""
    rows: dict[tuple[int, int], dict[Any, Any]] = {}
    numbers: dict[tuple[int, str, int], int] = {}
    for row in records(stats[["run", *_KEY, name]]):
        if row[name] is None:
            continue
        # Several modules of a layer are curves of their own, in the order of each run.
        place = (row["run"], row["phase"], row["layer"])
        number = numbers[place] = numbers.get(place, -1) + 1
        kind = "" if number == 0 else f"module {number + 1}"
        here = rows.setdefault((row["layer"], number), {"place": row["layer"], "kind": kind})
        here[row["run"], row["phase"]] = float(f"{row[name]:.{_DIGITS}g}")
    known = {line: lines[line] for line in lines if any(line in row for row in rows.values())}
    if not known:
        return None
    ordered = [rows[place] for place in sorted(rows)]
    spec = charts.by_depth(ordered, known, share=name == "near_zero", has_legend=False)
    return Chart(title, spec)
