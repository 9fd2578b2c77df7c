"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("DISTVIZ_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Start Chromium; without one the tests are skipped."""
    found = _chromium()
    if found is None:
        pytest.skip("no Chromium here: install Debian's chromium, or set DISTVIZ_CHROMIUM")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=options)
        yield started
        started.close()


class Opened:
    """A tab, what it logged, asked for, and popped up."""

    def __init__(self, browser: Browser, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.tab: Tab = self.context.new_page()
        self.logged: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.logged.append(message.text))
        self.tab.on("pageerror", lambda error: self.logged.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("dialog", lambda dialog: (self.logged.append("dialog"), dialog.dismiss()))
        self.tab.goto(file.as_uri())
        self.tab.wait_for_selector("html[data-ready=yes]")
