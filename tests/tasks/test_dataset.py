"""Texts and labels as callers give them: what is refused, what is warned of, what is held out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from ulmfit_fast import InputError
from ulmfit_fast.core.errors import InputWarning
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.hold_out import hold_out, hold_out_label_sets
from ulmfit_fast.tasks.labels import as_labels, as_weights, list_classes
from ulmfit_fast.tasks.texts import as_texts

TEXTS = ["one", "two", "three"]


def generate() -> Iterator[str]:
    yield from TEXTS


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS, tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), pd.Series(TEXTS), pd.Index(TEXTS),
        pd.Series(TEXTS, dtype="string"), pa.array(TEXTS).to_pylist(), generate(), dict.fromkeys(TEXTS).keys(),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_whatever_holds_texts(texts: object) -> None:
    assert as_texts("f", texts) == TEXTS


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "got one str; put it into a list"),
        (b"one text", "got one bytes"),
        (Path("a.csv"), "put it into a list"),
        (io.StringIO("a\nb"), "got an open file; read it first"),
        ({"text": TEXTS}, "got a dict, which is a mapping; give one of its columns"),
        (pd.DataFrame({"text": TEXTS}), "got a DataFrame of 2 dimensions; give one column of it"),
        (pd.DataFrame({"text": TEXTS})[["text"]], "2 dimensions"),
        (np.array([TEXTS]), "got a ndarray of 2 dimensions"),
        (np.array("one"), "got ndarray"),
        (pa.table({"text": TEXTS}), "got a Table of 2 dimensions"),
        ([*TEXTS, None], r"\[3\] must be a str, got NoneType"),
        ([b"one"], r"\[0\] must be a str, got bytes"),
        ([["one"]], r"\[0\] must be a str, got list"),
        (torch.zeros(2), r"\[0\] must be a str, got Tensor"),
        (3, "got int"),
    ],
)
def test_what_holds_no_texts(texts: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"^f: texts.*{message}"):
        as_texts("f", texts)
    with pytest.raises(TypeError, match=r"^f: valid_texts"):
        as_texts("f", texts, "valid_texts")


@pytest.mark.parametrize("valid", [{"a": 1}, "one", pd.DataFrame({"text": TEXTS}), [None, "x", "y"]])
def test_validation_texts_are_checked_alike(valid: object) -> None:
    with pytest.raises(TypeError, match="valid_texts"):
        Dataset.labelled("f", TEXTS, [0, 1, 0], valid_texts=valid, valid_labels=[0, 1, 0])
    with pytest.raises(TypeError, match="valid_texts"):
        Dataset.unlabelled("f", TEXTS, valid, 0.1, 0)


def test_labels_of_rows_that_are_all_different() -> None:
    with pytest.warns(InputWarning, match="12 classes for 12 texts: is this the column of the labels"):
        list_classes(["x"] * 12, list(range(12)))


@pytest.mark.parametrize(
    "labels", [["good", "good "], ["good", "Good"], ["a b", "a  b"], ["1", "1.0"], ["good", "\tgood"]]
)
def test_one_class_in_two_spellings(labels: list[str]) -> None:
    with pytest.warns(InputWarning, match="are different classes; if they mean the same, give them one spelling"):
        list_classes(["x"] * 20, labels * 10)


def test_labels_as_they_should_be_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_classes(["x"] * 20, ["a", "b"] * 10) == ["a", "b"]
        assert list_classes(["x"] * 4, [1, 2, 3, 4]) == [1, 2, 3, 4]  # of four texts nobody can say


def test_a_label_with_a_nul_is_refused() -> None:
    """NumPy's texts end there: two classes would become one."""
    with pytest.raises(InputError, match="row 2: a label must not contain the character NUL"):
        as_labels(["a", "a\0"])


def test_messages_have_an_end() -> None:
    with pytest.raises(InputError) as error:
        as_labels(["x" * 100_000, 3])
    assert len(str(error.value)) < 300


def test_the_same_rows_are_held_out_each_time() -> None:
    rest, held_out = hold_out(100, 0.05, seed=3)
    assert sorted([*rest, *held_out]) == list(range(100))
    assert len(held_out) == 5
    assert held_out.tolist() == hold_out(100, 0.05, seed=3)[1].tolist() != hold_out(100, 0.05, seed=4)[1].tolist()


def test_every_label_is_held_out_alike() -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 2
    rest, held_out = hold_out(92, 0.1, 0, labels)
    counts = [{label: sum(labels[i] == label for i in part) for label in "abc"} for part in (rest, held_out)]
    assert counts == [{"a": 54, "b": 27, "c": 1}, {"a": 6, "b": 3, "c": 1}]
    with pytest.raises(InputError, match="'d' has one text alone"):
        hold_out(93, 0.1, 0, [*labels, "d"])


def test_no_label_loses_its_last_text() -> None:
    random = np.random.default_rng(0)
    sets = [[label for label in range(30) if random.random() < 0.3 / (label + 1)] for _ in range(200)]
    rest, held_out = hold_out_label_sets(sets, 0.3, 1)
    assert sorted([*rest, *held_out]) == list(range(200))
    assert len(held_out) == 60
    assert {label for row in rest for label in sets[row]} == {label for each in sets for label in each}
    assert held_out.tolist() != hold_out_label_sets(sets, 0.3, 2)[1].tolist()
    assert len(hold_out_label_sets([["a"], ["b"], ["a", "b"]], 0.9, 0)[1]) == 1


def test_weights_of_texts() -> None:
    assert as_weights(np.array([1, 0.5, 0]), 3).tolist() == [1, 0.5, 0]
    for weights, message in (
        ([1, 2], "3 weights are needed"),
        ([1, -1, 0], "row 2: a weight must be finite and not negative, got -1.0"),
        ([1, 1, float("nan")], "row 3"),
        ([0, 0, 0], "all weights are zero"),
        (["a", "b", "c"], "weights must be numbers"),
    ):
        with pytest.raises(InputError, match=message):
            as_weights(weights, 3)
