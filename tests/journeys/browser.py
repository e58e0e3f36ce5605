"""A headless Chromium at the feedback page; skipped with its reason where there is none."""

from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")


def launch():
    """Yields a browser."""
    if not CHROMIUM.exists():
        pytest.skip("no /usr/bin/chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


class Page:
    """The comparing page as a person uses it, by keys or by buttons."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.page = self.context.new_page()
        self.troubles = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.troubles.append(dialog.message), dialog.dismiss()))
        self.page.on("console", lambda line: line.type == "error" and self.troubles.append(line.text))
        self.url = url

    def begin(self, name="Ada"):
        self.page.goto(self.url)
        self.page.fill("#name", name)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#read:not([hidden])")
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#compare:not([hidden])")
        return self

    def shown(self):
        """What stands on the screen: the prompt's turns and both sides."""
        read = "[...document.querySelectorAll('#prompt .said, .answer div.text')].map(x => x.textContent)"
        *prompt, left, right = self.page.evaluate(read)
        return prompt, left, right

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def until(self, status):
        self.page.wait_for_function("s => document.querySelector('#status').textContent.includes(s)", arg=status)

    def answer(self, act, status="Stored."):
        """Do something that answers, and wait until the page has gone on."""
        self.page.evaluate("document.querySelector('#status').textContent = ''")
        act()
        self.until(status)
        self.page.wait_for_selector("#main:not([aria-busy=true])")
