"""The page at / in a real browser: what it shows of a text, typing, the keyboard alone, a phone's width."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
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


def test_the_page_reads_a_text(
    serve: Callable[..., Client], loaded: Classifiers, browser_path: str, tmp_path: Path
) -> None:
    """A text behind the address's # is read at once; the page as it stands at the end has what the model says."""
    port = serve({"clf": loaded}).connection.port
    dumped = subprocess.run(
        [browser_path, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
         "--virtual-time-budget=4000", "--dump-dom", f"http://127.0.0.1:{port}/#{quote(TEXT)}"],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    said = re.search(r'<div id="said"[^>]*>([^<]*)', dumped)
    assert said is not None
    assert said[1] == expected(loaded)
    path = re.search(r'<polyline[^>]* points="([^"]*)"', dumped)
    assert path is not None
    assert len(path[1].split()) == len(TEXT.split())  # a prediction after each word
    assert dumped.count('<div class="bar">') == 2


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
    both = Classifiers(loaded.members * 2)  # which no stream reads: the page asks for the whole
    port = serve({"clf": loaded, "both": both}).connection.port
    outside: list[str] = []
    page.on("request", lambda request: None if f":{port}/" in request.url else outside.append(request.url))
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#choice:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type(TEXT)
    page.wait_for_function("text => document.getElementById('said').textContent === text", arg=expected(loaded))
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]  # nothing to scroll sideways
    assert page.evaluate("Math.min(...['model', 'again'].map(id => document.getElementById(id).offsetHeight))") >= 44
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "model"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "again"
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('model').value === 'both'")
    page.wait_for_function("text => document.getElementById('said').textContent === text", arg=expected(loaded))
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.wait_for_function("document.getElementById('said').textContent === ''")
    page.evaluate("document.getElementById('text').value = 'x'.repeat(100001)")
    with page.expect_response(lambda answer: answer.status == 413):
        page.keyboard.press("Control+Enter")
    page.wait_for_function("document.getElementById('trouble').textContent.includes('at most 100,000')")
    assert outside == []
