"""Make the pictures of docs/studio.md: the studio in a real browser, with the bundled model.

python docs/update_studio.py [--results DIR]

It needs Chromium with its chromedriver, and selenium.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.browser import Browser, Served, browsing  # noqa: E402

from alphaedit.jobs.studio_about import examples  # noqa: E402

OUT = ROOT / "docs" / "studio"
COLOURS = 256
WIDE, PHONE = (1160, 780), (390, 800)


def shoot(browser: Browser, name: str) -> None:
    """Write what is seen, in few colours, so that it stays small."""
    time.sleep(0.4)
    picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    OUT.mkdir(exist_ok=True)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(OUT / f"{name}.png", optimize=True)
    print(OUT / f"{name}.png")


def top(browser: Browser, selector: str = "main") -> None:
    """Bring something to the top of the window."""
    browser.script("document.querySelector(arguments[0]).scrollIntoView()", selector)


def ask(browser: Browser, prompt: str) -> None:
    """Ask, and wait for both answers."""
    browser.view("ask")
    browser.fill("Prompt", prompt)
    browser.click("Ask", ".ask-form")
    browser.see(".verdict .badge")


def edit(browser: Browser, facts: list[dict[str, object]]) -> None:
    """Paste facts, of which one is faulty; mend it; preview; keep."""
    browser.view("edit")
    faulty = {**facts[1], "prompt": "The country is"}
    browser.click("Paste several, or choose a file")
    text = "\n".join(json.dumps(fact) for fact in (facts[0], faulty, facts[2]))
    browser.paste("textarea.mono", text)
    browser.click("Read the text")
    browser.see(".fact.faulty")
    browser.see("section[aria-label=Method] p", "AlphaEdit")
    top(browser)
    shoot(browser, "edit")
    browser.fill("Prompt", str(facts[1]["prompt"]), ".fact.faulty")
    browser.see(".facts-count", "all can be edited")
    browser.click("Preview")
    browser.see(".decide")
    top(browser, ".preview")
    shoot(browser, "preview")
    browser.size(*WIDE, dark=True)
    shoot(browser, "preview-dark")
    browser.size(*WIDE)
    browser.fill("Why (for the log)", "ticket 7")
    browser.click("Keep")
    browser.see(".notice.good")


def main() -> None:
    """Walk through the studio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="results of an experiment to show")
    results = parser.parse_args().results
    results = results.resolve() if results else None
    with tempfile.TemporaryDirectory() as folder, browsing(Path(folder) / "profile") as browser:
        os.chdir(folder)  # commands are shown, and name the ledger
        served = Served(Path(), ledger=Path("my-edits"), results=results)
        facts = examples(served.studio)
        prompt = facts[0]["prompt"].replace("{}", facts[0]["subject"])
        try:
            browser.size(*WIDE)
            browser.driver.get(served.address)
            browser.see("textarea")
            edit(browser, facts)
            ask(browser, prompt)
            top(browser)
            browser.all(".answer-card.other .token")[0].click()
            shoot(browser, "ask")
            browser.size(*WIDE, dark=True)
            browser.view("look")
            browser.click("Trace")
            browser.see(".heat-legend")
            browser.until(lambda: not browser.all(".heat .pending"))
            browser.click("Show spectra")
            browser.until(lambda: len(browser.all(".chart")) == 3)
            top(browser)
            shoot(browser, "look-dark")
            browser.size(*WIDE)
            browser.view("history")
            browser.click("Show", ".entry")
            browser.see(".shown")
            top(browser)
            shoot(browser, "history")
            browser.view("compare")
            browser.see(".numbers")
            if results:
                browser.see(".experiment summary")
                browser.all(".experiment summary")[0].click()
            top(browser)
            shoot(browser, "compare")
            browser.size(*PHONE, scale=1.5)
            ask(browser, prompt)
            top(browser, ".answers-area")
            shoot(browser, "phone-ask")
            browser.view("history")
            browser.see(".entry")
            top(browser)
            shoot(browser, "phone-history")
        finally:
            served.end()


if __name__ == "__main__":
    main()
