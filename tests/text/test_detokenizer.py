"""Text for people from tokens: it gives the same tokens again, and reads as it was."""

from __future__ import annotations

import pytest

from ulmfit_fast import Tokenizer
from ulmfit_fast.demo.topics import load_topics
from ulmfit_fast.text.detokenizer import detokenize, detokenizer

TEXTS = [
    "Hello world! It isn't (very) good; he'd said \"well\", and we're 3.5% up.",
    "NASA's rockets, e.g. the X-15, cost $5 a piece: NO, no, no!!!!",
    "A line\nand another one.",
    'She asked: "What?" "Nothing", he said.',
    "A well-known half/half thing \u2014 isn't it\u2026",
]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    (ids,) = tokenizer.encode([text])
    return ids[1:].tolist()


def test_texts_read_as_they_were() -> None:
    tokenizer = Tokenizer.train_words(TEXTS, min_frequency=1)
    written = [detokenize(tokenizer, ids_of(tokenizer, text)) for text in TEXTS]
    assert written[0] == TEXTS[0]
    assert written[2] == TEXTS[2]
    assert written[3] == TEXTS[3]
    for text, found in zip(TEXTS, written, strict=True):
        assert tokenizer.tokens(found) == tokenizer.tokens(text), found


def test_sentences_of_wikipedia_give_the_same_tokens() -> None:
    texts = load_topics()[0]["text"].tolist()[:150]
    tokenizer = Tokenizer.train_words(texts, min_frequency=1)
    same = [
        tokenizer.tokens(detokenize(tokenizer, ids_of(tokenizer, text))) == tokenizer.tokens(text) for text in texts
    ]
    assert sum(same) / len(same) > 0.97


def test_a_count_is_written_out_within_bounds() -> None:
    tokenizer = Tokenizer.train_words(["! no 5 1234567 xxrep xxwrep"], min_frequency=1)
    number = tokenizer.backend.token_to_id

    def written(*tokens: str) -> str:
        return detokenize(tokenizer, [number(token) for token in tokens])

    assert written("no", "xxrep", "5", "!") == "no!!!!!"
    assert written("xxwrep", "5", "no") == "no no no no no"
    assert len(written("xxrep", "1234567", "!")) == 40
    assert written("xxrep", "no") == "no"  # a model may forget the number
    assert written("xxmaj", "no", "xxup", "no", "xxunk") == "No NO"


@pytest.mark.parametrize("kind", ["subword", "whitespace"])
def test_other_tokenizers(kind: str) -> None:
    texts = [*TEXTS, "Stra\u00dfe \u4f60\u597d \U0001f600 " * 40]
    tokenizer = Tokenizer.train(kind, texts, 400, 1)
    for text in texts:
        ids = ids_of(tokenizer, text)
        reader = detokenizer(tokenizer)
        pieces = [reader.feed(i) for i in ids]
        assert "".join([*pieces, reader.rest()]).split() == tokenizer.decode(ids).split()
        assert sum(map(bool, pieces)) > len(pieces) / 4  # it comes as it is made
