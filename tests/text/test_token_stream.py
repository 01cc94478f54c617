"""Pieces of a text give the tokens of the whole, wherever it is cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text.any_text import any_text
from ulmfit_fast.text.token_stream import TokenStream
from ulmfit_fast.text.tokenizer import Tokenizer

TEXTS = [
    "The film was GREAT, really great!!!!! I don't think it's 3.14 / 5 #1.\n\nNo no no no, she said: aaaaah.\n",
    "\n\n  begins with<br /><br\n/>breaks &amp; entities: caf&eacute; no&nbsp;no no no &lt;br&gt; x<br >y\t\n \n",
    "oooo o o and o o oooo o; a\xa0 a a a\u3000a a\r\na a <br\n> don't t t t",
    "no no no no no no no no no no",
    "no <br /> no <br /> no yes foo a foo<br\r\n/>yes no a b foo <br\r > yes no a <br\xa0/> b c d",
    "\x1cfoo a b yes and so on \x1c\n",
    "half \ud83d a pair \ud83d \ude00 of\ude00 them",
    "DON\u2019T  don\u2019t E\u0301te\u0301 \r\n soft\xadware &#9999999999; no No NO\r\n\r\n",
    "word",
    " ",
    "",
]


TOKENIZERS = {
    "words": Tokenizer.train_words(TEXTS * 3, min_frequency=1),
    "words, version 1": Tokenizer.train_words(TEXTS * 3, min_frequency=1, rules_version=1),
    "subwords": Tokenizer.train_subwords(TEXTS * 3, 200),
    "whitespace": Tokenizer.train_whitespace(TEXTS * 3),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


@pytest.mark.parametrize("text", TEXTS)
def test_any_cuts_give_the_whole_texts_tokens(tokenizer: Tokenizer, text: str) -> None:
    whole = next(tokenizer.encode([text])).tolist()
    generator = random.Random(0)
    cuts = [[], list(range(len(text)))] + [sorted(generator.choices(range(len(text) + 1), k=4)) for _ in range(60)]
    for cut in cuts:
        stream, ids = TokenStream(tokenizer), []
        for begin, end in zip([0, *cut], [*cut, len(text)], strict=True):
            ids += stream.feed(text[begin:end])
            assert [*ids, *stream.rest()] == next(tokenizer.encode([text[:end]])).tolist(), f"{cut}: up to {end}"
        assert [*ids, *stream.rest()] == whole


def test_a_word_over_and_over_takes_linear_time(tokenizer: Tokenizer) -> None:
    """20,000 pieces; each used to look at all that waits."""
    stream = TokenStream(tokenizer)
    ids = [token for _ in range(20_000) for token in stream.feed("no ")]
    assert [*ids, *stream.rest()] == next(tokenizer.encode(["no " * 20_000])).tolist()


def test_little_waits(tokenizer: Tokenizer) -> None:
    stream = TokenStream(tokenizer)
    certain = sum(len(stream.feed(f"word{i} and\n more. ")) for i in range(500))
    assert len(stream.rest()) < 20
    assert certain > 1500


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=any_text, data=st.data())
def test_any_text_in_any_pieces(kind: str, text: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    stream, ids = TokenStream(tokenizer), []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        ids += stream.feed(text[begin:end])
        assert [*ids, *stream.rest()] == next(tokenizer.encode([text[:end]])).tolist()


@pytest.mark.parametrize(
    "piece", ["a", " ", "\n", "\r", ".", "\xa0", "\ud83d", "&#1", "n't", "\u0301", "<br ", "a "], ids=ascii
)
def test_a_hundred_thousand_pieces_take_linear_time(tokenizer: Tokenizer, piece: str) -> None:
    """Quadratic work would take many minutes."""
    stream = TokenStream(tokenizer)
    ids = [token for _ in range(100_000 // len(piece)) for token in stream.feed(piece)]
    assert [*ids, *stream.rest()] == next(tokenizer.encode([piece * (100_000 // len(piece))])).tolist()
