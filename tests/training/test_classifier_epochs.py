"""How many epochs a classifier is trained where nobody says so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import CLASSIFY
from ulmfit_fast import ClassifierConfig, finetune_classifier


@pytest.mark.parametrize(
    ("texts", "batch_size", "epochs"),
    [(10, 32, 30), (100, 32, 24), (500, 32, 6), (384, 32, 8), (385, 32, 8), (100, 16, 14), (25_000, 32, 6)],
)
def test_few_texts_are_read_more_often(texts: int, batch_size: int, epochs: int) -> None:
    assert ClassifierConfig(batch_size=batch_size).for_texts(texts).epochs == epochs


def test_who_says_how_many_gets_them() -> None:
    assert ClassifierConfig(epochs=3).for_texts(10).epochs == 3


def test_the_folder_says_how_many_there_were(tmp_path: Path) -> None:
    texts, labels = ["good film", "bad film"] * 6, ["good", "bad"] * 6
    config = replace(CLASSIFY, epochs=0, batch_size=4)
    trained = finetune_classifier(texts, labels, None, config, output=tmp_path / "clf", progress=False)
    assert len(trained.history.records) == 30
    assert json.loads((tmp_path / "clf" / "training_args.json").read_text())["epochs"] == 30
