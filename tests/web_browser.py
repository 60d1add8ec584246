"""The page in headless Chromium: its server as a process of its own, and a browser that writes down what it must not do.

A test takes the fixtures `page_server` and `browser` of `conftest.py`, and opens a page by `page_server.visit(browser, "runs")`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from customize.storage import lock

ROOT = Path(__file__).parents[1]
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
SCREEN: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-software-rasterizer", "--in-process-gpu"]
"""Of Chromium: pages are drawn without an accelerator, which would be computed as well."""


class PageServer:
    """`customize web` on a folder. url: with the key; address: without it."""

    def __init__(self, folder: Path, *arguments: str, **environment: str):
        self.folder = folder
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
        variables.pop("DISPLAY", None)
        self.command = [sys.executable, "-m", "customize", "web", str(folder), "--port", "0", "--no_browser", *arguments]
        self.environment = variables
        self.start()

    def start(self) -> None:
        """Starts the server, and waits until it listens."""
        begin = time.monotonic()
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=self.environment, cwd=self.folder)
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        self.seconds = time.monotonic() - begin
        self.address = self.url.partition("?")[0]
        self.key = self.url.partition("key=")[2]

    def visit(self, browser, page: str = "", **options) -> "Visit":
        """A page in a new window of its own. options: of playwright's `new_context`, such as viewport and color_scheme."""
        return Visit(self, browser, page, options)

    def kill(self) -> None:
        """Ends the server without a chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends the server as Ctrl-C does, and the worker, which would wait for more jobs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        if worker := lock.holder(self.folder / "jobs"):
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


class Visit:
    """An open page. errors: of its console; others: requests that left the server; page: playwright's."""

    def __init__(self, server: PageServer, browser, page: str, options: dict):
        self.context = browser.new_context(**{**SCREEN, "reduced_motion": "reduce", **options})
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.others: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.look_at(server, request.url))
        self.page.goto(f"{server.address}{page}{'&' if '?' in page else '?'}key={server.key}")
        self.page.wait_for_selector("h1", timeout=30_000)

    def look_at(self, server: PageServer, url: str) -> None:
        if not url.startswith((server.address, "data:", "blob:")):
            self.others.append(url)

    def scrolls_sideways(self) -> int:
        """The pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def check(self) -> None:
        """The page fits a telephone and a screen, and can be read on both: dark and light."""
        for device in PHONE, SCREEN:
            self.page.set_viewport_size(device["viewport"])
            self.page.emulate_media(color_scheme=device["color_scheme"])
            self.page.wait_for_function(f"document.body.classList.contains('dark') === {str(device is PHONE).lower()}")
            found = self.scrolls_sideways(), self.findings()
            assert found == (0, []), (device, found)

    def findings(self) -> list[str]:
        """What axe finds that is serious or critical, one line each."""
        from axe_playwright_python.sync_playwright import Axe

        options = {"resultTypes": ["violations"]}  # else it describes each element that is in order, too: half of the time
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{each['id']}: {node['html'][:150]}"
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]

    def close(self) -> None:
        """Closes the window; the page must not have failed or asked another host."""
        self.context.close()
        assert not self.errors and not self.others, (self.errors, self.others)


@contextmanager
def chromium() -> Iterator:
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
        yield found
        found.close()
