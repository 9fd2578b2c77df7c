"""A page as one HTML file, and its colours.

Jinja escapes every text, and ``tojson`` writes ``<``, ``>`` and ``&`` of data as escapes, so no
text can end a script element. The Content-Security-Policy allows only the two scripts of the page,
by their hash, and no network; an attribute such as ``onerror`` would not run.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any

from distviz.output import visible_lines
from distviz.plots import BAND, DARK, GRID, INK, LIGHT, LINE
from distviz.reports.page import DataTable, Page

if TYPE_CHECKING:
    from jinja2 import Environment

DISTANCES = {
    "ks": ("KS", "$ks"),
    "wasserstein_normalized": ("W1 / std A", "$w1"),
    "js_divergence": ("JS (bits)", "$js"),
}
"""Titles and colours of columns of compare.csv, as in the figures."""

_LIGHT = {
    "ground": "#ffffff",
    "ink": INK,
    "muted": "#5c646b",
    "grid": GRID,
    "band": BAND,
    "before": LINE["before"],
    "before-light": LIGHT["before"],
    "before-dark": DARK["before"],
    "after": LINE["after"],
    "after-light": LIGHT["after"],
    "after-dark": DARK["after"],
    "ks": "#009e73",
    "w1": "#cc79a7",
    "js": "#56a0c8",
}
_DARK = {
    "ground": "#16191d",
    "ink": "#e6e8ea",
    "muted": "#a3abb2",
    "grid": "#30363c",
    "band": "#3a4148",
    "before": "#56b4e9",
    "before-light": "#2f6f96",
    "before-dark": "#a8dbfa",
    "after": "#f08a4b",
    "after-light": "#9c5a30",
    "after-dark": "#ffc9a3",
    "ks": "#2fc79a",
    "w1": "#dd9cc0",
    "js": "#7fbfe0",
}
PALETTES = {"light": _LIGHT, "dark": _DARK}
"""Colours by scheme. On a dark background the moved values have the brighter tone."""


def render(page: Page) -> str:
    """Return the HTML of a page; equal pages give equal bytes."""
    from markupsafe import Markup

    scripts = {"charts": _read("vendor", "vega.js"), "page": _read("templates", "report.js")}
    policy = [
        "default-src 'none'",
        "script-src " + " ".join(f"'sha256-{_digest(text)}'" for text in scripts.values()),
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            policy="; ".join(policy),
            palettes=PALETTES,
            style=Markup(_read("templates", "report.css")),
            scripts={name: Markup(text) for name, text in scripts.items()},
            compact=_compact,
        )
    )


def render_display(
    title: str, subtitle: str, verdict: str, picture: str | None, table: DataTable
) -> str:
    """Return the HTML of a result in a notebook; ``picture`` is a PNG in base64."""
    template = _environment().get_template("display.html.j2")
    return template.render(
        title=title, subtitle=subtitle, verdict=verdict, picture=picture, table=table
    )


def _environment() -> Environment:
    """Return the templates; every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("distviz.reports", "templates"),
        autoescape=True,
        finalize=lambda value: visible_lines(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "allow_nan": False,
        "separators": (",", ":"),
    }
    return environment


def _read(folder: str, name: str) -> str:
    place = resources.files("distviz.reports") / folder / name
    return place.read_text(encoding="utf-8").replace("\r\n", "\n")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _compact(block: Any) -> dict[str, Any]:
    """Return the data of a chart or a browser for the script of the page."""
    if block.kind == "chart":
        return {"spec": block.spec, "title": block.title}
    parts = {"specs": block.specs, "groups": block.groups, "scales": block.scales}
    return parts | {"first": list(block.first), "title": block.title}
