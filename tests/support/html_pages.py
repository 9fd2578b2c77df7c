"""A page of a report, parsed: its elements, texts and data."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import html5lib
import pytest
from html5lib.html5parser import ParseError

EVIL = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
NAMESPACE = "{http://www.w3.org/1999/xhtml}"


@lru_cache(maxsize=4)
def parsed(text: str) -> Any:
    """Return the root of a page, parsed once however often it is asked; not to be changed."""
    return html5lib.parse(text)


def elements(text: str, name: str) -> list[Any]:
    return list(parsed(text).iter(f"{NAMESPACE}{name}"))


def texts_of(element: Any) -> str:
    return "".join(element.itertext())


def data_of(text: str, identity: str) -> Any:
    (found,) = [one for one in elements(text, "script") if one.get("id") == identity]
    return json.loads(found.text)


def browsers(text: str) -> list[Any]:
    named = [one for one in elements(text, "figure") if one.get("class") == "browser"]
    return [data_of(text, one.get("data-source")) for one in named]


def strict(text: str) -> None:
    """Parse as the standard says; the first error fails."""
    try:
        html5lib.HTMLParser(strict=True).parse(text)
    except ParseError as error:
        pytest.fail(f"not valid: {error}")


def curves(text: str) -> dict[str, Any]:
    """The charts by title; charts of one title, the last."""
    shown = [one for one in elements(text, "figure") if one.get("class") == "chart"]
    found = [data_of(text, one.get("data-source")) for one in shown]
    return {one["title"]: one["spec"] for one in found}
