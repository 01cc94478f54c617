"""The page at / in a real browser: what it shows of a text, typing, the keyboard alone, a phone's width."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser import assert_legible, browser
from tests.inference.serve.conftest import Client
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.explain import explain

TEXT = "the film was really great and its story superb too"
PHONE = {"width": 360, "height": 640}


def expected(loaded: Classifiers) -> str:
    (row,) = loaded.activated([TEXT])
    return f"{('bad', 'good')[row.argmax()]} ({round(100 * float(row.max()))} %)"


@pytest.fixture
def page() -> Iterator[Any]:
    with browser() as context:
        shown = context.new_page()
        shown.set_viewport_size(PHONE)
        yield shown


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
    assert_legible(page)
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_coloured_by_what_they_say(
    serve: Callable[..., Client], models: Path, page: Any, scheme: str
) -> None:
    """The words' colours and titles are the weights of ``explain``, of the label that is chosen."""
    expect = pytest.importorskip("playwright.sync_api").expect
    trained = Classifiers.load([models / "clf"], "cpu")
    page.emulate_media(color_scheme=scheme)
    page.goto(f"http://127.0.0.1:{serve({'clf': trained}).connection.port}/")
    text = "\U0001f600 the film was great<br />and its story was dull"  # the first character is two of JavaScript's
    page.locator("#text").fill(text)
    expect(page.locator("#why")).to_be_visible()
    expect(page.locator("#words")).to_be_hidden()
    page.locator("#explain").press("Enter")
    expect(page.locator("#words")).to_be_visible()
    for label in (None, "good", "bad"):
        if label is not None:
            page.locator("#label").select_option(label=label)
        found = explain(trained.members, text, label=label)
        expect(page.locator("#legend mark").first).to_have_text(f"speaks for {found.evidence_for}")
        assert page.locator("#words").evaluate("words => words.textContent") == text
        largest = max(abs(part.weight) for part in found.parts)
        expected_marks = [
            [part.text, "for" if part.weight > 0 else "against", f"{part.weight:+.2f}".replace("-", "\u2212")]
            for part in found.parts if abs(part.weight) >= 0.15 * largest and part.text.strip()
        ]  # fmt: skip
        marks = page.locator("#words mark").evaluate_all("all => all.map(m => [m.textContent, m.className, m.title])")
        assert marks == expected_marks
        assert 0 < len(marks) < len(found.parts)  # words that weigh little have no colour
        assert_legible(page)
    page.locator("#text").press_sequentially(" too")  # an explanation of another text is none of this one
    expect(page.locator("#words")).to_be_hidden()


def test_what_explains_depends_on_the_model_and_the_length(
    serve: Callable[..., Client], loaded: Classifiers, page: Any
) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    int8 = Classifiers([(model.quantize(), tokenizer, task) for model, tokenizer, task in loaded.members])
    page.goto(f"http://127.0.0.1:{serve({'int8': int8}).connection.port}/")
    for text, method in ((TEXT, "occlusion"), (f"{TEXT}. " * 60, "sentence_occlusion"), (f"{TEXT} " * 100, "chunks")):
        page.locator("#text").fill(text)
        page.locator("#text").press("Control+Enter")
        expect(page.locator("#why")).to_be_visible()
        with page.expect_response("**/explain") as answer:
            page.locator("#explain").click()
        assert answer.value.json()["method"] == method
        expect(page.locator("#heaviest")).to_contain_text("Heaviest: ")
    page.locator("#text").fill("x" * 10_001)
    expect(page.locator("#words")).to_be_hidden()
    page.locator("#explain").click()
    expect(page.locator("#trouble")).to_contain_text("at most 10,000 are explained here")
