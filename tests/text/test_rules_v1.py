"""Version 1 of the text rules gives, for ever, the tokens that release 0.1.0 gave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from tests.text.any_text import any_text
from tests.tiny import FINETUNE, PRETRAIN
from ulmfit_fast import InputError, finetune_lm, pretrain_lm
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.storage.model_folder import load_classifier
from ulmfit_fast.text.corpus import Source, tokenize_corpus
from ulmfit_fast.text.rules import RULES_VERSION, encodable
from ulmfit_fast.text.rules_v1 import apply_rules
from ulmfit_fast.text.tokenizer import Tokenizer

FOLDERS = Path(__file__).parents[1] / "data" / "folders_0_1_0"
# [text, tokens] of commit 85ef027: words, contractions, repetitions, HTML, every kind of white space, scripts, marks.
EXPECTED = json.loads((Path(__file__).parents[1] / "data" / "rules_v1" / "tokens.json").read_text())


def test_tokens_of_the_first_release() -> None:
    assert len(EXPECTED) > 350
    for text, tokens in EXPECTED:
        tokenizer = Tokenizer.train_words([text], 1 << 20, 1, rules_version=1)
        assert tokenizer.tokens(text) == tokens, ascii(text)


def test_the_file_says_which_rules(tmp_path: Path) -> None:
    texts = ["Don\u2019t say DON'T"]
    old, new = Tokenizer.train_words(texts, 100, 1, rules_version=1), Tokenizer.train_words(texts, 100, 1)
    for tokenizer, version in ((old, 1), (new, RULES_VERSION)):
        for direction in ("forward", "backward"):
            (tmp_path / "tokenizer.json").write_text(tokenizer.reading(direction).to_json())
            loaded = Tokenizer.load(tmp_path / "tokenizer.json")
            assert (loaded.rules_version, loaded.direction) == (version, direction)
            assert loaded.tokens(texts[0]) == tokenizer.tokens(texts[0])
    assert "rules" not in json.loads(old.to_json())  # as the first release wrote it
    assert old.tokens(texts[0]) != new.tokens(texts[0])


@pytest.mark.parametrize("name", ["word", "subword", "backward"])
def test_model_folders_of_the_first_release(name: str) -> None:
    """Ids to the last, probabilities as that release computed them on some processor."""
    folder = FOLDERS / name
    expected = json.loads((folder / "expected.json").read_text())
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    assert tokenizer.rules_version == (1 if name != "subword" else RULES_VERSION)
    assert tokenizer.to_json() == (folder / "tokenizer.json").read_text()
    assert [ids.tolist() for ids in tokenizer.encode(expected["texts"])] == expected["ids"]
    model, loaded, task = load_classifier(folder)
    found = predict_probabilities(model, loaded, task, expected["texts"])
    np.testing.assert_allclose(found, expected["probabilities"], atol=1e-6)


def test_what_goes_on_with_an_old_model_keeps_its_rules() -> None:
    texts = ["DON\u2019T go, don't go, DON'T"] * 20
    tuned = finetune_lm(texts, FOLDERS / "language_model", FINETUNE)
    assert tuned.tokenizer.rules_version == 1
    words = Tokenizer.train_words(texts, rules_version=1)
    assert tuned.tokenizer.tokens(texts[0]) == words.tokens(texts[0]) != Tokenizer.train_words(texts).tokens(texts[0])
    assert pretrain_lm(texts, PRETRAIN).tokenizer.rules_version == RULES_VERSION


def test_a_corpus_of_the_first_release_goes_on(tmp_path: Path) -> None:
    """Its description names version 1; it is opened as it is unless it is to be overwritten."""
    path, folder = tmp_path / "texts.txt", tmp_path / "corpus"
    path.write_text("DON'T go\n\ndon't go\n\n" * 30)
    source = Source(path, min_frequency=1)
    old, _ = tokenize_corpus(replace(source, rules_version=1), folder)
    assert old.source["rules"] == 1
    assert old.tokenizer.rules_version == 1
    again, figures = tokenize_corpus(source, folder)
    assert figures == {}
    assert again.checksum() == old.checksum()
    given = Source(path, given=old.tokenizer)
    assert given.description()["rules"] == 1
    with pytest.raises(InputError, match="other texts or options"):
        tokenize_corpus(replace(source, min_frequency=2), folder)
    new, _ = tokenize_corpus(source, folder, overwrite=True)
    assert new.tokenizer.rules_version == RULES_VERSION
    assert "'t" not in new.tokenizer.vocabulary


@given(any_text)
def test_in_pieces_as_in_one_go(text: str) -> None:
    """The library's own splitting of the text in one go, which release 0.1.0 used."""
    tokenizer = Tokenizer.train_words([text], 1 << 20, 1, rules_version=1)
    whole = tokenizer.backend.encode(apply_rules(encodable(text)), add_special_tokens=False).ids
    assert next(tokenizer.encode([text])).tolist() == [tokenizer.bos_id, *whole]
