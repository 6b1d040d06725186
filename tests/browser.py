"""A real browser for tests of the report page: Debian's Chromium, headless, without network."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

DETAIL = "report.views().detail"  # the map of the chosen model
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
    "--window-size=1440,1000",
)


def missing() -> str:
    """Say what is missing to drive a browser; empty if nothing is."""
    absent = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return (
        f"{' and '.join(absent)} not on the path (Debian: apt-get install chromium chromium-driver)" if absent else ""
    )


def start_browser(profile: Path) -> Iterator[Chrome]:
    """Yield a browser with a new profile; without one installed the test is skipped, or fails where CI=true."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(profile)})
    # With the driver's path given, Selenium looks for none on the network.
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))
    browser.set_script_timeout(30)
    yield browser
    browser.quit()


def severe_entries(browser: Chrome) -> list[str]:
    """Return the errors in the console since the last call."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def open_page(browser: Chrome, path: Path) -> None:
    """Open a report from its file and wait until its first map is drawn."""
    severe_entries(browser)  # forget those of the page before
    browser.get(path.as_uri())
    browser.execute_async_script(
        "const done = arguments[0]; window.report.ready.then(() => requestAnimationFrame(done))"
    )


def css(page: Chrome, selector: str) -> Any:
    """Return the first element that a selector finds."""
    return page.find_element("css selector", selector)


def settled(page: Chrome, condition: str, *values: Any) -> None:
    """Wait until a condition in JavaScript holds: what the page does is asynchronous."""
    end = time.monotonic() + 10
    while not page.execute_script(f"return Boolean({condition})", *values):
        assert time.monotonic() < end, f"still not: {condition}"
        time.sleep(0.01)


def place(page: Chrome, view: str, position: int) -> tuple[float, float]:
    """Bring a map into view; return where a row is on it, from the middle of the canvas as ActionChains counts."""
    x, y = page.execute_script(
        f"const v = {view}; v.frame.scrollIntoView({{block: 'center'}}); v.draw(); const at = v.locate(arguments[0]);"
        "const box = v.canvas.getBoundingClientRect(); return [at.x - box.width / 2, at.y - box.height / 2]",
        position,
    )
    return x, y


def drag(page: Chrome, corners: list[tuple[int, int]], *, shift: bool = False) -> None:
    from selenium.webdriver import ActionChains, Keys

    canvas = css(page, "#map-column canvas")
    chain = ActionChains(page, duration=0).move_to_element_with_offset(canvas, *corners[0])
    chain = chain.key_down(Keys.SHIFT) if shift else chain
    chain = chain.click_and_hold()
    for corner in corners[1:]:
        chain = chain.move_to_element_with_offset(canvas, *corner)
    chain.release().key_up(Keys.SHIFT).perform()


def hover(page: Chrome, x: float, y: float) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).move_to_element_with_offset(css(page, "#map-column canvas"), round(x), round(y)).perform()
    settled(page, "!document.getElementById('tooltip').hidden")


def watch_pointer(page: Chrome) -> None:
    """Record where the pointer really is while its button is down: the driver rounds to whole pixels."""
    page.execute_script(
        f"window.trail = []; const c = {DETAIL}.canvas; const box = c.getBoundingClientRect();"
        "for (const kind of ['pointerdown', 'pointermove']) c.addEventListener(kind, (event) => {"
        "  if (event.buttons) window.trail.push([event.clientX - box.left, event.clientY - box.top]); })"
    )


def shown_models(page: Chrome) -> list[int]:
    """Return the models in the table, in its order."""
    rows = "[...document.querySelectorAll('#models tbody tr')].map((row) => Number(row.dataset.model))"
    return list(page.execute_script(f"return {rows}"))


def click_model(page: Chrome, index: int) -> None:
    """Click a row of the table and wait for the detail."""
    css(page, f'#models tr[data-model="{index}"] .name').click()
    settled(page, "document.getElementById('detail-name').textContent === report.data.models[arguments[0]].name", index)
