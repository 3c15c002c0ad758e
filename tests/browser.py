"""A real headless Chromium for tests that look at pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_CHROMIUM = "no Chromium is installed here"
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """Start it; there must be one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_OPTIONS, *options])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page that is open, and all that it asked for and complained of so far."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def visit(browser: Browser, address: str | Path, **options: Any) -> Iterator[Visit]:
    """Open an address (or a file) in a context of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, **options)
    try:
        page = context.new_page()
        seen = Visit(page)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                seen.complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.goto(address.as_uri() if isinstance(address, Path) else address)
        yield seen
    finally:
        context.close()
