"""The pages that are written: HTML by the standard, and legible in a browser, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.browser import DESKTOP, PHONE, assert_legible, browser
from ulmfit_fast.inference import intervals
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.evaluation import evaluation_of
from ulmfit_fast.inference.explain import explain, methods_of
from ulmfit_fast.inference.highlight import coloured_html, explanation_html
from ulmfit_fast.inference.page import page
from ulmfit_fast.inference.report import report_page
from ulmfit_fast.tasks.regression import Regression
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import Task

TEXT = "the <b>film</b> was great & its story<br />was really dull, " + "x" * 80
HISTORY = [{"stage": "classifier", "loss": 1 / n, "valid_loss": 1.2 / n, "accuracy": 1 - 0.4 / n} for n in range(1, 7)]
FOLDER = "/a/folder/whose/name/is/long/and-has-no-space/" + 8 * "deeper" + "/clf"


def classes(count: int) -> SingleLabel:
    return SingleLabel([f"a class with a rather long name, {place}" for place in range(count)])


def made(loaded: Classifiers, task: Task, texts: int = 60) -> str:
    """A report of a model with ``task`` on texts of which it has many wrong."""
    ((model, tokenizer, _),) = loaded.members
    model = type(model)(model.bpt3c.encoder, task.outputs)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    some = Classifiers([(model.eval(), tokenizer, task)])
    given = [f"{place} {TEXT}" for place in range(texts)]
    given[1] += " the story" * 1000
    expected: list[Any] = [float(place % 7) for place in range(texts)]
    if task.labels:
        expected = [task.labels[place % len(task.labels)] for place in range(texts)]
    targets, activated = task.encode(expected, "t.csv"), some.activated(given)
    found = evaluation_of(some, FOLDER, "t.csv", given, expected, range(1, texts + 1), activated, targets)
    return report_page(found, some, HISTORY, "# A card\n\nIt says: <what> & why.")


@pytest.fixture(scope="module")
def pages(loaded: Classifiers) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "_MOST", 20)
        patch.setattr(intervals, "_FEWEST", 20)
        found = {
            "two classes": made(loaded, SingleLabel(["bad", "good"])), "classes": made(loaded, classes(12)),
            "many classes": made(loaded, classes(45)), "numbers": made(loaded, Regression([], 3.0, 2.0)),
        }  # fmt: skip
    body = "".join(
        explanation_html(explain(loaded.members, TEXT, method), style=False) for method in methods_of(loaded.members)
    )
    return found | {"explanations": page("Explanations", f"<h1>Explanations</h1>{body}")}


KINDS = ["two classes", "classes", "many classes", "numbers", "explanations"]


@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_html_by_the_standard(pages: dict[str, str], kind: str) -> None:
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed")
    html5lib.HTMLParser(strict=True).parse(pages[kind])  # raises at the first error


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_legible(
    pages: dict[str, str], context: Any, tmp_path: Path, kind: str, size: dict[str, int]
) -> None:
    file = tmp_path / "page.html"
    file.write_text(pages[kind])
    shown = context.new_page()
    shown.set_viewport_size(size)
    shown.goto(file.as_uri())
    assert_legible(shown)
    shown.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert_legible(shown)
    shown.close()


def test_a_line_break_of_a_text_is_one_on_the_page(loaded: Classifiers) -> None:
    text = "a film<br />a story < a tale"
    found = coloured_html(text, explain(loaded.members, text).parts)
    assert re.sub("<[^>]*>", "", found) == "a film\na story &lt; a tale"


def test_the_server_s_page_is_html_by_the_standard() -> None:
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed")
    page_of_server = resources.files("ulmfit_fast.inference.serve").joinpath("page.html").read_text()
    html5lib.HTMLParser(strict=True).parse(page_of_server)
