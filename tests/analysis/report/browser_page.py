"""A page opened in a browser, watched for what a page must not do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = """<script>document.body.innerHTML="gone"</script><img src=x onerror="document.title='gone'">'"&amp;{{7*7}}"""
KOREAN = "한국어 \u2028 </script> 질문"


def program(*names: str) -> str | None:
    """Return the path of the first of these programs that this machine has."""
    return next(filter(None, map(shutil.which, names)), None)


def required(browser: str | None, environment: Mapping[str, str]) -> str:
    """Return the browser; where there is none fail under CI, whose 18 skips nobody would read, and skip elsewhere."""
    if browser is not None:
        return browser
    missing = "needs Chromium: apt-get install chromium"
    if environment.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(missing)
    pytest.fail(f"CI={environment['CI']}, and the tests of the page in a browser would be skipped: {missing}")


@dataclass
class Opened:
    """A page in the browser, with what it did that a page must not do."""

    page: Page
    said: list[str] = field(default_factory=list)
    """Messages on the console and errors that nobody caught."""
    requested: list[str] = field(default_factory=list)
    """Addresses other than the file itself."""

    def count(self, selector: str) -> int:
        """Return how many elements there are."""
        return self.page.locator(selector).count()

    def texts(self, selector: str) -> list[str]:
        """Return the text of each element."""
        return [text.strip() for text in self.page.locator(selector).all_text_contents()]

    def drawn(self, figure: str) -> None:
        """Scroll to a chart and wait until it is drawn."""
        self.page.locator(f"#{figure}").scroll_into_view_if_needed()
        self.page.wait_for_selector(f"#{figure}[data-drawn] svg", timeout=20_000)


class opening:  # noqa: N801  # used as a function
    """Open a file in a window of its own; on leaving require that it said nothing and asked for nothing."""

    def __init__(self, browser: Browser, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.file = file

    def __enter__(self) -> Opened:
        self.found = found = Opened(self.context.new_page())
        found.page.on("console", lambda message: found.said.append(message.text))
        found.page.on("pageerror", lambda error: found.said.append(str(error)))
        found.page.on("request", lambda request: found.requested.append(request.url))
        found.page.goto(self.file.as_uri())
        found.page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
        return found

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.found.said == []
            assert [url for url in self.found.requested if url != self.file.as_uri()] == []
