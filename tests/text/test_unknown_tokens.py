"""Texts that a vocabulary does not know draw one warning, in the library and on the command line."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL
from tests.tiny import CLASSIFY, PRETRAIN
from ulmfit_fast import InputWarning, finetune_classifier, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.text.corpus import Source, tokenize_corpus
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import warn_of_unknown

# Each run of characters is a word of its own, as in Chinese.
CHINESE = ["".join(chr(0x4E00 + (i * 7 + j * j) % 1000) for j in range(12)) + "\u3002" for i in range(60)]
LABELS = ["a", "b"] * 30


def test_share() -> None:
    tokenizer = Tokenizer.from_vocabulary(["one", "two"])
    ids = list(tokenizer.encode(["one two three", "", "four"]))
    assert tokenizer.unknown_share(ids) == 0.5
    assert tokenizer.reading("backward").unknown_share(ids) == 0.5
    assert tokenizer.unknown_share([]) == tokenizer.unknown_share(list(tokenizer.encode([""]))) == 0


@pytest.mark.parametrize(
    ("unknown", "known", "warns"), [(21, 79, True), (20, 80, False), (99, 0, False), (100, 0, True)]
)
def test_threshold(unknown: int, known: int, warns: bool) -> None:
    tokenizer = Tokenizer.from_vocabulary(["one", ","])
    ids = list(tokenizer.encode(["one, " * (known // 2) + "one " * (known % 2), *(f"word{i}" for i in range(unknown))]))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_unknown("here", tokenizer, ids)
    assert [w.category for w in found] == [InputWarning] * warns
    if warns:
        assert str(found[0].message).startswith(
            f"here: {unknown / (known + unknown):.0%} of the 100 tokens are unknown"
        )
        assert "--tokenizer subword" in str(found[0].message)


def test_every_stage_and_prediction_says_so_once(tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match="pretrain_lm: 50% of the .* --tokenizer subword") as found:
        pretrain_lm(CHINESE, replace(PRETRAIN, min_frequency=3))
    assert len([w for w in found if w.category is InputWarning]) == 1
    with pytest.warns(InputWarning, match="finetune_classifier: 50%"):
        trained = finetune_classifier(CHINESE, LABELS, config=replace(CLASSIFY, min_frequency=3))
    with pytest.warns(InputWarning, match="predict: 50%"):
        predict_probabilities(trained.model, trained.tokenizer, trained.task, CHINESE)
    (tmp_path / "zh.txt").write_text("\n\n".join(CHINESE), encoding="utf-8")
    with pytest.warns(InputWarning, match=r"zh.txt: \d+%"):
        tokenize_corpus(Source(tmp_path / "zh.txt"), tmp_path / "corpus")


def test_known_text_says_nothing() -> None:
    tokenizer = Tokenizer.train_subwords(CHINESE, 2000)
    assert tokenizer.unknown_share(tokenizer.encode(CHINESE)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unknown("here", tokenizer, tokenizer.encode(CHINESE))
        warn_of_unknown("here", tokenizer, [np.array([tokenizer.bos_id], np.int32)])


def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "zh.csv"
    pd.DataFrame({"text": CHINESE, "label": LABELS}).to_csv(table, index=False)
    clf = str(tmp_path / "clf")
    for arguments in (
        ["train", str(table), "--output", clf, "--epochs", "1", *SIZES, *SMALL, "--min-frequency", "3"],
        ["predict", str(table), "--model", clf, "--output", str(tmp_path / "out.csv")],
        ["evaluate", str(table), "--model", clf],
        ["tokenize", str(table), "--output", str(tmp_path / "corpus")],
    ):
        assert main(arguments) == 0
        said = [line for line in capfd.readouterr().err.splitlines() if "unknown to the vocabulary" in line]
        assert len(said) == 1, arguments
        assert said[0].startswith("ulmfit-fast: warning: ")
        assert "--tokenizer subword" in said[0]
