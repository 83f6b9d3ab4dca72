"""The studio in a real browser: what a user does from the first question to an export."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests import browser as real
from tests.browser import Browser, Served, browsing

from alphaedit.ledger.ledger import Ledger

pytestmark = pytest.mark.timeout(300)
VIEWS = ("ask", "edit", "history", "look", "compare")
SCRIPT = "<img src=x onerror=window.hit=1><script>window.hit=1</script>"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    real.needed()
    made = Served(tmp_path_factory.mktemp("studio"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, served: Served) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as made:
        made.driver.get(served.address)
        made.see("textarea")
        yield made


@pytest.fixture
def fresh(browser: Browser, served: Served) -> Browser:
    """The page as it is when it is opened."""
    browser.script("sessionStorage.clear()")
    browser.driver.get("about:blank")
    browser.driver.get(served.address)
    browser.see("textarea")
    browser.log()
    return browser


def examples(served: Served) -> list[dict[str, Any]]:
    from alphaedit.jobs.studio_about import examples

    return examples(served.studio)


def entries(served: Served) -> int:
    """Of the ledger."""
    place = served.request.ledger
    return len(Ledger(place).history.entries) if Ledger.at(place) else 0


def ask(browser: Browser, prompt: str) -> tuple[str, str]:
    """What the base and the other model say."""
    browser.view("ask")
    browser.fill("Prompt", prompt)
    browser.click("Ask", ".ask-form")
    browser.see(".verdict .badge")
    first, second = (e.text.removeprefix(prompt).strip() for e in browser.all(".answer"))
    return first, second


def test_a_user_walks_through(fresh: Browser, served: Served) -> None:
    browser, ledger = fresh, served.request.ledger
    facts = examples(served)[:3]
    prompts = [fact["prompt"].replace("{}", fact["subject"]) for fact in facts]

    # Open: the token leaves the address. Ask.
    assert "token" not in browser.driver.current_url
    base, edited = ask(browser, prompts[0])
    assert base == edited
    assert base.startswith(facts[0]["truth"])
    assert browser.text(".verdict") == "Both say the same"
    assert f"alphaedit ask --max-new-tokens 24 bundled-small '{prompts[0]}'" in browser.text("main")

    # Paste three facts, of which one is faulty; mend it.
    browser.view("edit")
    browser.see(".empty", "No facts yet")
    faulty = {**facts[1], "prompt": "The land is"}
    browser.click("Paste several, or choose a file")
    text = "\n".join(json.dumps(fact) for fact in (facts[0], faulty, facts[2]))
    browser.paste("textarea.mono", text)
    browser.click("Read the text")
    browser.see(".facts-count", "1 faulty")
    browser.see(".fact.faulty", "is not in its prompt")
    preview = browser.all(".bar button.main")[0]
    browser.see(".hint", "1 of 3 facts cannot be edited")
    assert not preview.is_enabled()
    browser.fill("Prompt", facts[1]["prompt"], ".fact.faulty")
    browser.see(".facts-count", "all can be edited")

    # Preview: nothing is recorded yet.
    browser.click("Preview")
    browser.see(".preview .tile", "3 of 3")
    browser.see(".preview", "nats a token of drift")
    assert not Ledger.at(ledger)

    # Keep, and ask again.
    browser.fill("Why (for the log)", "ticket 7")
    browser.click("Keep")
    browser.see(".notice.good", "Kept as entry @1")
    assert Ledger(ledger).history.entries[1].why == "ticket 7"
    browser.see("#chips", "1 edit in force")
    base, edited = ask(browser, prompts[0])
    assert edited.startswith(facts[0]["target"])
    assert base.startswith(facts[0]["truth"])
    assert browser.text(".verdict") == "The answers differ"
    marked = browser.all(".answer-card.other .token.differs")
    assert facts[0]["target"] in marked[0].text

    # Export.
    browser.view("history")
    browser.see(".entry.now", "ticket 7")
    browser.click("Export")
    browser.fill("Name", "adapter")
    browser.click("Export", ".export form")
    browser.see(".export .notice.good", "Written to")
    assert (served.request.folder / "adapter" / "adapter_model.safetensors").is_file()
    command = f"alphaedit export {ledger} --model bundled-small --format lora -o"
    assert command in browser.text(".export .command")

    # Revert it.
    (edit,) = Ledger(ledger).head.edits
    browser.click(f"Revert edit {edit}")
    browser.fill("Why (for the log)", "wrong")
    browser.click("Revert", ".entry-out")
    browser.see(".notice.good", f"Edit {edit} was taken out, as entry @2")
    assert Ledger(ledger).head.edits == []
    base, edited = ask(browser, prompts[0])
    assert base == edited
    assert browser.log() == []


def test_a_run_outlives_a_reload_and_is_cancelled(fresh: Browser, served: Served) -> None:
    browser = fresh
    before = entries(served)
    browser.view("edit")
    browser.click("Add examples")
    browser.see(".facts-count", "all can be edited")
    browser.click("Settings")
    browser.fill("steps", "100000")
    browser.fill("stop_loss", "0")
    browser.click("Preview")
    browser.see(".preview-area progress")
    browser.driver.refresh()
    browser.view("edit")
    browser.see(".facts-count", "4 facts")
    browser.see(".preview-area", "Preview of 4 facts")
    browser.view("ask")
    browser.see("#tray", "Preview of 4 facts")
    browser.click("Runs (1)", "header")
    browser.see("#runs-list", "running")
    browser.click("Runs (1)", "header")
    browser.view("edit")
    browser.click("Cancel the preview")
    browser.see(".preview-area", "was cancelled")
    assert entries(served) == before
    assert browser.see("#runs-button").text == "Runs"
    assert browser.log() == []


def test_keys_are_enough_to_ask_and_to_look_at_tokens(fresh: Browser, served: Served) -> None:
    from selenium.webdriver.common.keys import Keys

    browser, fact = fresh, examples(served)[0]
    active = browser.driver.switch_to
    assert active.active_element.get_attribute("name") == "prompt"
    active.active_element.send_keys(fact["prompt"].replace("{}", fact["subject"]), Keys.ENTER)
    browser.see(".verdict .badge")
    for _ in range(30):
        active.active_element.send_keys(Keys.TAB)
        if "token" in (active.active_element.get_attribute("class") or ""):
            break
    browser.see("#tip", fact["truth"])
    assert active.active_element.get_attribute("aria-describedby") == "tip"
    first = active.active_element.text
    active.active_element.send_keys(Keys.ARROW_RIGHT)
    assert active.active_element.text != first
    active.active_element.send_keys(Keys.ESCAPE)
    assert not browser.all("#tip")[0].is_displayed()
    assert fact["truth"] in browser.script("return document.getElementById('live').textContent")


def test_two_tabs_do_not_disturb_one_another(fresh: Browser, served: Served) -> None:
    browser = fresh
    browser.view("edit")
    browser.click("Add examples")
    browser.see(".facts-count", "4 facts")
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    try:
        browser.driver.get(served.address)
        browser.view("edit")
        browser.see(".empty", "No facts yet")
        browser.click("Add a fact")
        browser.see(".facts-count", "1 fact")
    finally:
        browser.driver.close()
        browser.driver.switch_to.window(first)
    browser.see(".facts-count", "4 facts")


def test_script_in_a_fact_is_text(fresh: Browser) -> None:
    browser = fresh
    browser.view("edit")
    browser.click("Paste several, or choose a file")
    fact = {"prompt": f"{SCRIPT} of {{}}", "subject": SCRIPT, "target": SCRIPT, "truth": SCRIPT}
    browser.paste("textarea.mono", f"{json.dumps(fact)}\n{SCRIPT}")
    browser.click("Read the text")
    browser.see(".facts", "2 facts")
    browser.see(".raw", SCRIPT)
    assert ask(browser, SCRIPT)
    assert SCRIPT in browser.text(".answer")
    browser.view("look")
    browser.fill("Prompt", f"{SCRIPT} {{}}")
    browser.fill("Subject", SCRIPT)
    browser.click("Trace")
    browser.see(".heat-legend")
    assert browser.script("return window.hit === undefined && !document.querySelector('main img')")
    assert browser.log() == []


def test_ten_thousand_facts_are_shown_page_by_page(fresh: Browser) -> None:
    browser = fresh
    browser.view("edit")
    browser.click("Paste several, or choose a file")
    lines = [f"The capital of {{}} is,Land {n},Rome" for n in range(10_000)]
    browser.paste("textarea.mono", "\n".join(["prompt,subject,target", *lines]))
    browser.click("Read the text")
    browser.see(".facts-count", "10,000 facts")
    browser.see(".facts-count", "all can be edited")
    assert len(browser.all(".fact")) == 20
    browser.see(".pager", "Page 1 of 500")
    browser.click("Remove all")
    browser.see(".empty")


def test_a_lost_server_is_told_and_nothing_is_lost(fresh: Browser, served: Served) -> None:
    browser = fresh
    browser.view("edit")
    browser.click("Add examples")
    browser.see(".facts-count", "all can be edited")
    served.end()
    browser.see("#banner", "The server does not answer.")
    browser.click("Does the model know them?")
    browser.see(".preview-area", "What is in the ledger is safe.")
    served.begin()
    browser.until(lambda: not browser.text("#banner"), "the end of the banner")
    browser.see(".facts-count", "4 facts")
    browser.view("history")
    browser.see(".entry", "@0")


def test_looking_inside_and_comparing(fresh: Browser) -> None:
    browser = fresh
    browser.view("look")
    browser.click("Trace")
    browser.see(".heat-legend")
    browser.until(lambda: not browser.all(".heat .pending"), "the whole heat map")
    browser.click("Show spectra")
    browser.until(lambda: len(browser.all(".chart[role=img][aria-label]")) == 3, "three spectra")
    browser.view("compare")
    browser.see("main", "No results of experiments")
    assert browser.log() == []


def test_without_the_token_there_is_nothing(fresh: Browser, served: Served) -> None:
    browser = fresh
    browser.script("sessionStorage.clear()")
    browser.driver.get(f"http://127.0.0.1:{served.port}/")
    browser.see("main", "This page needs its whole address")
    browser.driver.get("about:blank")
    browser.driver.get(f"http://127.0.0.1:{served.port}/#token=wrong")
    browser.see("main", "The token of the address is wrong.")


NAMELESS = """
const named = (e) => e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim();
return [...document.querySelectorAll("button, input, select, textarea, a[href], summary")]
  .filter((e) => e.getClientRects().length && !named(e)).map((e) => e.outerHTML);
"""


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_runs_over_the_edge_and_all_has_a_name(fresh: Browser, width: int) -> None:
    browser = fresh
    browser.size(width, 800)
    try:
        for view in VIEWS:
            browser.view(view)
            if view == "edit":
                browser.click("Add examples")
                browser.see(".facts-count", "all can be edited")
            over = browser.script("return document.scrollingElement.scrollWidth - innerWidth")
            assert over <= 0, view
            assert browser.script(NAMELESS) == [], view
            assert len(browser.all("h1")) == 1
    finally:
        browser.size(1200, 850)
