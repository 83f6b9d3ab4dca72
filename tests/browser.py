"""A real browser without a window, and a studio that it opens."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alphaedit.jobs import studio as job
from alphaedit.jobs.studio import StudioRequest
from alphaedit.server.listening import Server, bound
from alphaedit.server.studio import studio_application
from alphaedit.server.studio_safety import Door

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-prefers-reduced-motion",
)  # fmt: skip


def needed() -> None:
    """Skip where there is no browser."""
    pytest.importorskip("selenium")
    if not CHROMIUM or not DRIVER:
        pytest.skip("there is no chromium with its chromedriver")


class Browser:
    """What a user does, and what they see."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        self.size(1200, 850)

    def size(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """As a screen of this size shows it, to a user who likes it dark or light."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def all(self, selector: str) -> list[Any]:
        """Elements."""
        return self.driver.find_elements("css selector", selector)

    def until(self, condition: Callable[[], Any], what: str = "", seconds: float = 60) -> Any:
        """What a condition gives, once it gives something."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if value := condition():
                    return value
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{what or 'it'} does not come. The page says:\n{self.text('body')}")

    def see(self, selector: str, words: str = "") -> Any:
        """An element that is shown, with these words in it."""

        def shown() -> Any:
            rows = (e for e in self.all(selector) if e.is_displayed() and words in e.text)
            return next(rows, None)

        return self.until(shown, f"{selector} {words!r}")

    def text(self, selector: str) -> str:
        """What stands in the first element."""
        return str(self.all(selector)[0].text)

    def click(self, words: str, inside: str = "main") -> None:
        """Press what is called so."""

        def press() -> bool:
            kinds = ", ".join(f"{inside} {kind}" for kind in ("button", "a", "summary"))
            for element in self.all(kinds):
                named = words in (element.text.strip(), element.get_attribute("aria-label"))
                if named and element.is_displayed() and element.is_enabled():
                    self.script("arguments[0].scrollIntoView({block: 'center'})", element)
                    element.click()
                    return True
            return False

        self.until(press, f"a button {words!r}")

    def fill(self, label: str, text: str, inside: str = "main") -> None:
        """Write into the field of that label."""

        def field() -> Any:
            for mark in self.all(f"{inside} label"):
                if mark.text.strip() == label and mark.is_displayed():
                    return self.all(f"#{mark.get_attribute('for')}")[0]
            return None

        element = self.until(field, f"a field {label!r}")
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        if element.tag_name == "select":
            self.script(
                "arguments[0].value = arguments[1];"
                "arguments[0].dispatchEvent(new Event('change', {bubbles: true}))", element, text,
            )  # fmt: skip
            return
        element.clear()
        element.send_keys(text)

    def paste(self, selector: str, text: str) -> None:
        """Put a long text into a field at once."""
        self.script("arguments[0].value = arguments[1]", self.all(selector)[0], text)

    def script(self, code: str, *values: Any) -> Any:
        """What a piece of script gives."""
        return self.driver.execute_script(code, *values)

    def view(self, name: str) -> None:
        """Go to a part of the studio."""
        self.script("location.hash = arguments[0]", f"#/{name}")
        self.until(lambda: self.all(f"main[data-view={name}]"), name)

    def log(self) -> list[str]:
        """What went wrong in the page since it was last asked."""
        return [row["message"] for row in self.driver.get_log("browser")]

    def close(self) -> None:
        """End."""
        self.driver.quit()


class Served:
    """A studio that listens; it can be ended and begun again at the same address."""

    def __init__(self, folder: Path, model: str = "bundled-small", **more: Any) -> None:
        more = {"ledger": folder / "edits", **more}
        self.request = StudioRequest(
            model=model, folder=folder, tokens=6000,
            held_out_tokens=512, **more,
        )  # fmt: skip
        self.door, self.port = Door(), 0
        self.begin()

    @property
    def address(self) -> str:
        """What `alphaedit studio` prints."""
        return f"http://127.0.0.1:{self.port}/#token={self.door.token}"

    def begin(self) -> None:
        """Load the model and listen."""
        self.studio = job.run(self.request)
        self.listener = bound("127.0.0.1", self.port, key=None)
        self.port = self.listener.getsockname()[1]
        app = studio_application(self.studio, self.door)
        self.server = Server(self.studio, None, grace=1, app=app)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True
        )
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def end(self) -> None:
        """Stop listening."""
        self.server.end()
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.listener.close()


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser for a block."""
    os.environ.setdefault("SE_OFFLINE", "true")
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
