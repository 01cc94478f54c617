"""Version 1 of the text rules gives, for ever, the tokens that release 0.1.0 gave."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given

from tests.text.any_text import any_text
from ulmfit_fast.text.rules import RULES_VERSION
from ulmfit_fast.text.tokenizer import Tokenizer

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


@given(any_text)
def test_in_pieces_as_in_one_go(text: str) -> None:
    """The library's own splitting of the text in one go, which release 0.1.0 used."""
    from ulmfit_fast.text.rules import encodable
    from ulmfit_fast.text.rules_v1 import apply_rules

    tokenizer = Tokenizer.train_words([text], 1 << 20, 1, rules_version=1)
    whole = tokenizer.backend.encode(apply_rules(encodable(text)), add_special_tokens=False).ids
    assert next(tokenizer.encode([text])).tolist() == [tokenizer.bos_id, *whole]
