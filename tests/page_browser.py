"""Opening interactive pages in a real browser, for the tests of the page."""

import os
import re
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")


def launch():
    """Start headless Chromium, or skip; where CI is set a missing browser is a failure."""
    missing = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed"
    if missing is None and not CHROMIUM.exists():
        missing = f"no browser at {CHROMIUM}"
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}, and CI must test the page in a browser")
        pytest.skip(missing)
    playwright = sync_playwright().start()
    return playwright, playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])


class Visit:
    """A page in the browser with what went over the network and to the console."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests, self.problems = [], []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("dialog", lambda d: (self.problems.append(f"dialog {d.message}"), d.dismiss()))
        self.page.goto(path.as_uri())
        self.settled()

    def settled(self):
        """Wait until the boxes outside of what is seen have their places too."""
        self.page.locator("#canvas[aria-busy=false]").wait_for()
        return self

    @property
    def nodes(self):
        """The boxes of the graph, when all have their places."""
        return self.settled().page.locator(".node:visible")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector):
        return self.page.inner_text(selector)

    def texts(self, selector):
        return self.page.eval_on_selector_all(selector, "list => list.map((e) => e.textContent)")

    @property
    def says(self):
        return self.page.text_content("#says")

    @property
    def step(self):
        return int(self.page.input_value("#slider"))

    def box(self, label):
        """Return the node box whose heading is `label`."""
        return self.page.locator(
            ".node:visible", has=self.page.locator(".k", has_text=re.compile(rf"^{label}( |$)"))
        ).first

    def open(self, label):
        self.box(label).click()

    def gradient(self):
        """Return the numbers of the explained node's gradient as written in the page."""
        return self.texts('#inspector [data-summary="grad"] .gradvalues td')
