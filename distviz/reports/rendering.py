"""A page as one HTML file: templates with autoescaping, a policy that lets nothing else run.

Every text goes through Jinja's autoescaping, all data through ``tojson``, which writes ``<``, ``>``
and ``&`` as escapes, so that no text can end a script element. The Content-Security-Policy names
the two scripts of the page by their hash and forbids the network altogether; an attribute such as
``onerror`` would not run even if one got in.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any

from distviz.reports.page import DataTable, Page
from distviz.reports.palette import PALETTES

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render", "render_display"]


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
    """Return what a notebook shows of a result; ``picture`` is a PNG in base64."""
    template = _environment().get_template("display.html.j2")
    return template.render(
        title=title, subtitle=subtitle, verdict=verdict, picture=picture, table=table
    )


def _environment() -> Environment:
    """Return the templates, every text escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("distviz.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    return environment


def _read(folder: str, name: str) -> str:
    place = resources.files("distviz.reports") / folder / name
    return place.read_text(encoding="utf-8").replace("\r\n", "\n")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _compact(block: Any) -> dict[str, Any]:
    """Return what the script of the page needs of a chart or a browser."""
    if block.kind == "chart":
        return {"spec": block.spec, "title": block.title}
    return {"specs": block.specs, "groups": block.groups, "title": block.title}
