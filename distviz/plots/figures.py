"""Figures of a result: their file names and kinds, and how each is drawn."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from distviz.plots.site_axes import AxisChoice
from distviz.results import (
    Allocation,
    Comparison,
    FillerStudy,
    Run,
    Sweep,
    Training,
    WhatIf,
    channels_before,
    format_kinds,
    partition_rows,
)
from distviz.sites import SiteKey

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from distviz.results import Result

_LONGEST = 70
"""Bytes of a part of a file name."""


@dataclass(frozen=True)
class FigureSpec:
    """A figure that is drawn when called, so that only one is in memory at a time.

    Attributes
    ----------
    kind
        Its name in ``distviz export --figure``: ``paired``, ``overview`` ...
    draw
        Takes the width, see `distviz.plots.style.styled`.
    """

    kind: str
    draw: Callable[..., Figure]

    def __call__(self, width: str | None = None) -> Figure:
        """Draw it, for a screen or for one or two columns of a paper."""
        return self.draw(width=width)


FigureSpecs = dict[str, FigureSpec]
"""By file name without its suffix."""


def figure_specs(
    result: Result, choice: AxisChoice | None = None, whole: Result | None = None
) -> FigureSpecs:
    """Return every figure of a result.

    Parameters
    ----------
    result
        The result, or a selection of it.
    choice
        Of the axes of distributions; None decides for each site.
    whole
        The result that ``result`` was selected from: figures have the same names and axes as there.
    """
    source = result if whole is None else whole
    if isinstance(result, FillerStudy):
        return _of_filler(result)
    if isinstance(result, WhatIf):
        return _of_whatif(result)
    if isinstance(result, Sweep):
        return _of_sweep(result)
    if isinstance(result, Allocation):
        return _of_allocation(result)
    if isinstance(result, Training):
        return _of_training(result)
    asked = choice or AxisChoice()
    names = figure_names(source)
    axes = {"whole": source, "x_axis": asked.x_axis, "centred": asked.centred}
    axes["log"] = "auto" if asked.log is None else asked.log
    if isinstance(result, Comparison):
        return _of_comparison(result, axes, names)
    if isinstance(result, Run):
        return _of_run(result, axes, names)
    raise TypeError(f"{type(result).__name__} has no figures")


def _of_run(run: Run, axes: dict[str, Any], names: dict[SiteKey, str]) -> FigureSpecs:
    from distviz import plots

    figures: FigureSpecs = {
        names[key]: FigureSpec(
            "paired",
            partial(plots.paired, run, key.layer, key.site, module=key.module, **axes),
        )
        for key in run.places()
    }
    sites = _by_site(key.site for key in run.places())
    for end, site in sites:
        figures[f"overview{end}"] = FigureSpec("overview", partial(plots.overview, run, site))
    classes = run.classes()
    for end, site in sites:
        figures |= _of_classes(run, classes[classes["phase"].isin(["before", "after"])], site, end)
    known = channels_before(run)
    for end, site in sites:
        if len(known) and known.loc[known["site"] == site, "absmax"].notna().any():
            draw = partial(plots.channels, run, site)
            figures[f"channels{end}"] = FigureSpec("channels", draw)
        if format_kinds(run, site):
            draw = partial(plots.measured_formats, run, site)
            figures[f"formats{end}"] = FigureSpec("formats", draw)
    return figures


def _of_comparison(
    comparison: Comparison, axes: dict[str, Any], names: dict[SiteKey, str]
) -> FigureSpecs:
    from distviz import plots

    figures: FigureSpecs = {
        names[pair.a]: FigureSpec("compared", partial(plots.compared, comparison, pair, **axes))
        for pair in comparison.pairs
    }
    for end, site in _by_site(pair.a.site for pair in comparison.pairs):
        draw = partial(plots.comparison_overview, comparison, site)
        figures[f"overview{end}"] = FigureSpec("overview", draw)
        figures |= _of_classes(comparison, comparison.classes, site, end)
    if comparison.elementwise:
        figures["elementwise"] = FigureSpec("elementwise", partial(plots.elementwise, comparison))
    return figures


def _of_classes(
    measured: Run | Comparison, classes: pd.DataFrame, site: str, end: str
) -> FigureSpecs:
    """Return the figures by token class, role and position at a site, where they are known."""
    from distviz import plots

    found: FigureSpecs = {}
    here = classes[classes["site"] == site] if len(classes) else classes
    for partition, name in (("class", "classes"), ("role", "roles"), ("position", "positions")):
        if len(partition_rows(here, partition)):
            draw = partial(plots.token_classes, measured, site, partition)
            found[f"token_{name}{end}"] = FigureSpec("classes", draw)
    return found


def _of_whatif(asked: WhatIf) -> FigureSpecs:
    from distviz import plots

    figures: FigureSpecs = {}
    for end, site in _by_site(asked.sites):
        if asked.kinds(site):
            figures[f"formats{end}"] = FigureSpec(
                "formats", partial(plots.format_losses, asked, site)
            )
        if asked.levels(site):
            figures[f"zeros{end}"] = FigureSpec("zeros", partial(plots.zeros_kept, asked, site))
    return figures


def _of_sweep(sweep: Sweep) -> FigureSpecs:
    from distviz import plots

    draw = plots.sweep_by_layer if sweep.is_by_layer else plots.sweep_overview
    return {
        "sweep": FigureSpec("sweep", partial(draw, sweep, str(sweep.manifest["model"]["name"])))
    }


def _of_allocation(found: Allocation) -> FigureSpecs:
    from distviz import plots

    draw = partial(plots.allocated, found, str(found.manifest["model"]["name"]))
    return {"allocation": FigureSpec("allocation", draw)}


def _of_training(training: Training) -> FigureSpecs:
    from distviz import plots

    figures: FigureSpecs = {}
    for end, site in _by_site(key.site for key in training.keys):
        curves = partial(plots.training_curves, training, site)
        figures[f"curves{end}"] = FigureSpec("curves", curves)
        if len(training.steps) > 1:
            heatmap = partial(plots.training_heatmap, training, site)
            figures[f"steps{end}"] = FigureSpec("steps", heatmap)
    return figures


def _of_filler(study: FillerStudy) -> FigureSpecs:
    from distviz import plots

    counts, last = study.counts, study.counts[-1]
    figures: FigureSpecs = {}
    for site in dict.fromkeys(study.table["site"]):
        end = _safe(site)
        for count in counts:
            what = (study, count, site)
            by_layer = partial(plots.filler_by_layer, *what)
            figures[f"filler_{count:03d}_{end}"] = FigureSpec("filler", by_layer)
            along = partial(plots.filler_positions, *what)
            figures[f"positions_{count:03d}_{end}"] = FigureSpec("positions", along)
        if len(counts) > 1:
            layer = study.most_changed(last, site)[0]
            by_count = partial(plots.filler_by_count, study, layer, site)
            figures[f"by_count_layer_{layer:03d}_{end}"] = FigureSpec("by-count", by_count)
    return figures


def figure_names(measured: Result) -> dict[SiteKey, str]:
    """Return the file name of the figure of each place, without its suffix.

    ``layer_000_act``; preceded by the stack unless that is the decoder, followed by the module's
    path where a layer has several modules at a site. A comparison uses the layers of A. Figures
    of a filler study do not belong to one place.
    """
    if isinstance(measured, Comparison):
        places = [pair.a for pair in measured.pairs]
    else:
        places = list(measured.places()) if isinstance(measured, Run) else []
    plain = {key: _plain_name(key) for key in places}
    known = list(plain.values())
    return {
        key: name if known.count(name) == 1 else f"{name}_{_safe(key.module)}"
        for key, name in plain.items()
    }


def _plain_name(key: SiteKey) -> str:
    stack = "" if key.stack == "decoder" else f"{_safe(key.stack)}_"
    if key.layer < 0:
        return f"{stack}outside_{_safe(key.module)}"
    return f"{stack}layer_{key.layer:03d}_{_safe(key.site)}"


def _safe(text: str) -> str:
    """Return a text as a part of a file name; the end of a long one is its hash."""
    name = re.sub(r"[^\w.-]+", "-", text).strip("-.") or "x"
    if len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}-{digest}"


def _by_site(sites: Iterable[str]) -> list[tuple[str, str]]:
    """Return the sites with suffixes of file names: none for act, or for the first site."""
    known = list(dict.fromkeys(sites))
    main = "act" if "act" in known else next(iter(known), "")
    return [("" if site == main else f"_{_safe(site)}", site) for site in known]
