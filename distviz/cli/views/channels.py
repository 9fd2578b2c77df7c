"""The channels of a run on the terminal: dead ones, always-on ones, the largest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from distviz.cli.views.console import Column, FittedTable, paragraph, percent_cell
from distviz.cli.views.run import module_labels
from distviz.errors import RequestError
from distviz.results import Run, channel_summary, number, records
from distviz.sites import SiteKey

if TYPE_CHECKING:
    from distviz.results import Result

_WITHOUT_TOP = "measure with --channels to see which channel is the largest of most tokens"
_LEGEND = (
    "dead: only zeros; always on: only values above 0; times: largest abs(x) over that of the "
    "median channel"
)


def channel_details(
    result: Result, folder: Path
) -> tuple[Callable[[], dict[str, Any]], list[Callable[[Console], RenderableType]]]:
    """Return what ``show --channels`` prints: the data of ``--json``, and the view.

    Raises
    ------
    RequestError
        If the result has no channels.
    """
    rows = records(channel_summary(result)) if isinstance(result, Run) else []
    if not rows:
        raise RequestError(f"{folder} has no channels", "give the folder of a run")

    def data() -> dict[str, Any]:
        return result.summary() | {"channels": rows, "folder": str(folder)}

    return data, [lambda screen: channel_table(rows, screen), lambda _: Text(f"\n{folder}")]


def channel_table(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> Group:
    """Return a table of the rows of `channel_summary`."""
    has_top = any(row["persistent"] is not None for row in rows)
    keys = [SiteKey(row["layer"], row["stack"], row["site"], "", row["module"]) for row in rows]
    labels = module_labels(keys)
    names = ["site"] * (len({key.site for key in keys}) > 1)
    names += ["module"] * (len({key._replace(module="") for key in keys}) < len(keys))
    table = FittedTable(
        [
            Column("layer", kind="text"),
            *(Column(name, kind="name") for name in names),
            Column("channels", drop=4),
            Column("dead"),
            Column("always on", drop=3),
            Column("largest", "channel"),
            Column("largest", "abs(x)", drop=1),
            Column("largest", "times"),
            *[Column("most tokens", part, drop=2) for part in ("channel", "share")] * has_top,
        ],
        "channels.parquet",
    )
    for key, row in zip(keys, rows, strict=True):
        own = {"site": key.site, "module": labels[key]}
        stack = "" if key.stack == "decoder" else f"{key.stack} "
        cells = [f"{stack}{key.layer}", *(own[name] for name in names), f"{row['channels']:,}"]
        cells += [_whole(row[name]) for name in ("dead", "always_on", "largest")]
        cells += [number(row["absmax"]), number(row["ratio"])]
        cells += [_whole(row["persistent"]), percent_cell(row["share"])] * has_top
        table.add_row(cells)
    parts: list[RenderableType] = [
        Text("Channels, before any change", style="bold"),
        table,
        paragraph(_LEGEND, console, style="dim"),
    ]
    return Group(*parts, *[paragraph(_WITHOUT_TOP, console, style="dim")] * (not has_top))


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
