"""The page at / in a real browser: what it shows of a text, typing, the keyboard alone, a phone's width."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.inference.serve.conftest import Client
from ulmfit_fast.inference.classifiers import Classifiers

TEXT = "the film was really great and its story superb too"
PHONE = {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def browser_path() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def expected(loaded: Classifiers) -> str:
    (row,) = loaded.activated([TEXT])
    return f"{('bad', 'good')[row.argmax()]} ({round(100 * float(row.max()))} %)"


@pytest.fixture
def page(browser_path: str) -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        shown = browser.new_page(viewport=PHONE)
        faults: list[str] = []
        shown.on("pageerror", lambda error: faults.append(str(error)))
        yield shown
        browser.close()
    assert faults == []


def test_a_phone_and_the_keyboard_alone(serve: Callable[..., Client], loaded: Classifiers, page: Any) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    both = Classifiers(loaded.members * 2)  # which no stream reads: the page asks for the whole
    port = serve({"clf": loaded, "both": both}).connection.port
    outside: list[str] = []
    page.on("request", lambda request: None if f":{port}/" in request.url else outside.append(request.url))
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#choice:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type(TEXT)
    expect(page.locator("#said")).to_have_text(expected(loaded))
    expect(page.locator("#chart")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]  # nothing to scroll sideways
    assert page.evaluate("Math.min(...['model', 'again'].map(id => document.getElementById(id).offsetHeight))") >= 44
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "model"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "again"
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_value("both")
    expect(page.locator("#said")).to_have_text(expected(loaded))
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    expect(page.locator("#said")).to_have_text("")
    page.evaluate("document.getElementById('text').value = 'x'.repeat(100001)")
    with page.expect_response(lambda answer: answer.status == 413):
        page.keyboard.press("Control+Enter")
    expect(page.locator("#trouble")).to_contain_text("at most 100,000")
    assert outside == []


def test_a_text_behind_the_address_is_read_at_once(
    serve: Callable[..., Client], loaded: Classifiers, page: Any
) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    port = serve({"clf": loaded}).connection.port
    page.goto(f"http://127.0.0.1:{port}/#{quote(TEXT)}")
    expect(page.locator("#said")).to_have_text(expected(loaded))
    expect(page.locator("#choice")).to_be_hidden()  # there is one model
    points = page.locator("#path").get_attribute("points").split()
    assert len(points) == len(TEXT.split())  # a prediction after each word
    probability = loaded.activated([TEXT])[0].max()
    assert float(points[-1].split(",")[1]) == pytest.approx(135 - 130 * probability, abs=1e-3)
    assert page.locator(".bar").count() == 2
