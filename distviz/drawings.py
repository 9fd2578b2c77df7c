"""Which figures belong to a run or a comparison: file names, and how each is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from distviz.comparisons import Comparison
from distviz.sites import Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distviz.runs import Run
    from distviz.whatifs import WhatIf

__all__ = ["Drawings", "drawings", "figure_names", "whatif_drawings"]

Drawings = dict[str, "Callable[[], Figure]"]
"""By file name without its ending; drawn when called, so that one figure is kept at a time."""


def drawings(
    measured: Run | Comparison, log: bool | None = None, names: dict[Key, str] | None = None
) -> Drawings:
    """Return every figure of a run or a comparison.

    Parameters
    ----------
    measured
        What is drawn.
    log
        Scale of the counts; None decides figure by figure.
    names
        File names of the places, as of `figure_names`; None takes all.
    """
    scale = "auto" if log is None else log
    if isinstance(measured, Comparison):
        return _of_comparison(measured, scale, names)
    return _of_run(measured, scale, names)


def _of_run(run: Run, log: bool | str, names: dict[Key, str] | None) -> Drawings:
    from distviz import plots

    figures: Drawings = {
        name: partial(plots.paired, run, key.layer, key.site, module=key.module, log=log)
        for key, name in (figure_names(run) if names is None else names).items()
    }
    sites = _by_site(key.site for key in run.places())
    figures |= {f"overview{end}": partial(plots.overview, run, site) for end, site in sites}
    classes = run.classes()
    for end, site in sites:
        if site in set(classes.loc[classes["phase"].isin(["before", "after"]), "site"]):
            figures[f"token_classes{end}"] = partial(plots.token_classes, run, site)
    return figures


def _of_comparison(
    comparison: Comparison, log: bool | str, names: dict[Key, str] | None
) -> Drawings:
    from distviz import plots

    names = figure_names(comparison) if names is None else names
    figures: Drawings = {
        names[pair.a]: partial(plots.compared, comparison, pair, log=log)
        for pair in comparison.pairs
    }
    for end, site in _by_site(pair.a.site for pair in comparison.pairs):
        figures[f"overview{end}"] = partial(plots.comparison_overview, comparison, site)
        if len(comparison.classes) and site in set(comparison.classes["site"]):
            figures[f"token_classes{end}"] = partial(plots.token_classes, comparison, site)
    return figures


def whatif_drawings(asked: WhatIf) -> Drawings:
    """Return the figures of the answers about a run: formats and zeros, for each site."""
    from distviz import plots

    figures: Drawings = {}
    for end, site in _by_site(asked.sites):
        if asked.kinds(site):
            figures[f"formats{end}"] = partial(plots.format_losses, asked, site)
        if asked.levels(site):
            figures[f"zeros{end}"] = partial(plots.zeros_kept, asked, site)
    return figures


def figure_names(measured: Run | Comparison) -> dict[Key, str]:
    """Return the file name of each place's figure, without its ending.

    ``layer_000_act``; with the stack before it unless that is the decoder, and with the module's
    path behind it where a layer has several modules at a site. Those of a comparison are named
    after the layers of A.
    """
    if isinstance(measured, Comparison):
        places = [pair.a for pair in measured.pairs]
    else:
        places = list(measured.places())
    plain = {key: _plain_name(key) for key in places}
    known = list(plain.values())
    return {
        key: name if known.count(name) == 1 else f"{name}_{_safe(key.module)}"
        for key, name in plain.items()
    }


def _plain_name(key: Key) -> str:
    stack = "" if key.stack == "decoder" else f"{_safe(key.stack)}_"
    if key.layer < 0:
        return f"{stack}outside_{_safe(key.module)}"
    return f"{stack}layer_{key.layer:03d}_{_safe(key.site)}"


def _safe(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "x"


def _by_site(sites: Iterable[str]) -> list[tuple[str, str]]:
    """Return the sites with the endings of their names: none for act, or for the first site."""
    known = list(dict.fromkeys(sites))
    main = "act" if "act" in known else known[0]
    return [("" if site == main else f"_{_safe(site)}", site) for site in known]
