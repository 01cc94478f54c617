"""Labels that were made wrong are found by classifiers that have not seen them; folds keep what belongs together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import SMALL, assert_one_line, write_task
from tests.tiny import CLASSIFY, make_task
from ulmfit_fast import InputError
from ulmfit_fast.cli.main import main
from ulmfit_fast.few_labels.check_labels import OUT_OF_FOLD, SAME_TEXT, check_labels, fold_of_texts

TEXTS, LABELS = make_task(90)
WRONG = [3, 20, 41, 66, 87]
FLIPPED = [("good" if label == "bad" else "bad") if i in WRONG else label for i, label in enumerate(LABELS)]


def test_folds() -> None:
    texts = [*(f"text {i}" for i in range(40)), "same", "same", "same"]
    labels = ["a"] * 30 + ["b"] * 10 + ["a", "b", "a"]
    fold = fold_of_texts(texts, labels, 5, seed=0)
    assert set(fold.tolist()) == {0, 1, 2, 3, 4}
    assert len({*fold[40:].tolist()}) == 1
    for label, most in (("a", 7), ("b", 3)):
        counts = Counter(fold[i] for i in range(40) if labels[i] == label)
        assert max(counts.values()) - min(counts.values()) <= 2  # the equal texts are one of a label
        assert max(counts.values()) <= most
    assert fold_of_texts(["x", "y", "z", "v"], ["a", "a", "b", "b"], 10, 0).max() == 3  # no fold is empty
    with pytest.raises(InputError, match="the label 'b' has one text alone"):
        fold_of_texts(["x", "y", "z", "z"], ["a", "a", "b", "b"], 2, 0)


def test_wrong_labels_are_found(models: Path) -> None:
    config = replace(CLASSIFY, epochs=6, batch_size=8)
    texts, labels = [*TEXTS, TEXTS[0]], [*FLIPPED, "bad"]  # the first text is good
    folds = []
    found = check_labels(
        texts, labels, models / "lm2", config, folds=3, progress=False, on_fold=lambda *of: folds.append(of)
    )
    assert folds == [(1, 3), (2, 3), (3, 3)]
    assert found.probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    suspects = {suspect.place: suspect for suspect in found.suspects}
    assert len(set(WRONG) & set(suspects)) >= 4
    assert len(suspects) <= 12
    assert suspects[20].label == FLIPPED[20]
    assert suspects[20].likely == LABELS[20]
    assert suspects[20].probability < 0.5 < suspects[20].likely_probability
    assert suspects[20].reason == OUT_OF_FOLD
    assert suspects[90].reason == SAME_TEXT
    assert 0.02 < found.share < 0.2
    order = [suspect.probability for suspect in found.suspects]
    assert order == sorted(order)


def test_what_is_refused(models: Path) -> None:
    with pytest.raises(InputError, match="may have learned these labels"):
        check_labels(TEXTS, LABELS, models / "clf")
    with pytest.raises(InputError, match="the task multi_label has no one label a text"):
        check_labels(TEXTS, [["a"], ["b"]] * 45, models / "lm")
    with pytest.raises(InputError, match="folds must be at least 2"):
        check_labels(TEXTS, LABELS, models / "lm", folds=1)


def test_the_command(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = str(write_task(tmp_path / "t.csv", 24)), tmp_path / "suspects.csv"
    arguments = ["check-labels", data, "--model", str(models / "lm2"), "--output", str(output), "--folds", "2"]
    assert main([*arguments, "--epochs", "1", *SMALL]) == 0
    said = capsys.readouterr()
    assert "of 24 labels" in said.out
    assert "fold 2 of 2 is through" in said.err
    table = pd.read_csv(output)
    assert list(table.columns) == [
        "row", "text", "label", "likely", "probability", "probability_of_likely", "reason"
    ]  # fmt: skip
    original = pd.read_csv(data)
    assert table["text"].tolist() == original["text"].iloc[table["row"].to_numpy(np.int64) - 1].tolist()
    assert main([*arguments, "--epochs", "1"]) == 2
    assert_one_line(capsys, "exists; choose another file or pass --overwrite")
