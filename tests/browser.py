"""Pages in a real browser, where the machine has one: what they show, and whether a person can read it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
_ENOUGH_MS = 60_000  # on a busy machine
LEGIBLE = 4.5  # the contrast that WCAG 2 (AA) asks of text of ordinary size

# Every text that is shown, with its colour, and what lies behind it: each element's colour over its parents'.
_TEXTS = """() => {
  const parse = (written) => {
    const numbers = written.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    const unit = written.startsWith("color(srgb") ? 255 : 1;
    return [...numbers.slice(0, 3).map((x) => x * unit), numbers.length > 3 ? numbers[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (element) => element
    ? over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement)) : [255, 255, 255, 1];
  const luminance = (colour) => {
    const [r, g, b] = colour.map((x) => x / 255).map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, written = walker.currentNode.textContent.trim();
    if (!written || !element.checkVisibility() || ["STYLE", "SCRIPT", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element), background = behind(element);
    const colour = over(parse(element instanceof SVGElement ? style.fill : style.color), background);
    const [one, other] = [luminance(colour), luminance(background)].sort((a, b) => b - a);
    found.push([written.slice(0, 40), (one + 0.05) / (other + 0.05), parseFloat(style.fontSize)]);
  }
  return found;
}"""


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium; skips the test where there is none. Errors of the pages' scripts fail it."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    faults: list[str] = []
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = opened.new_context()
        context.set_default_timeout(_ENOUGH_MS)
        driver.expect.set_options(timeout=_ENOUGH_MS)
        context.on("weberror", lambda error: faults.append(str(error.error)))
        yield context
        opened.close()
    assert faults == []


def assert_legible(page: Any) -> None:
    """All texts that are shown now have the contrast that WCAG asks for, and are not tiny; nothing is cut off."""
    shown = page.evaluate(_TEXTS)
    assert shown
    assert [text for text in shown if text[1] < LEGIBLE] == []
    assert [text for text in shown if text[2] < 11] == []
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
