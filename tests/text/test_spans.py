"""Tokens and the places in a text that became them: every tokenizer, whatever its rules change."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings

from tests.text.any_text import any_text
from ulmfit_fast.text.spans import Part, sentences, token_spans, words
from ulmfit_fast.text.tokenizer import Tokenizer

TEXT = (
    "Don't go! NASA said &quot;it's sooooo GOOD&quot;<br /><br>No No NO\nno. Caf\u00e9 na\u00efve Qwrtzpl-xyz 3,000.50 "
    "&amp; that\u2019s \u201call\u201d.\n\nNew   para ... !!!!!!"
)
WORDS = "do n't go ! nasa said \" it 's s o good no . caf\u00e9 na\u00efve & that all new para 2 3 4 5 6 film the was"
KINDS = {
    "word": Tokenizer.from_vocabulary([*WORDS.split(), "\n"]),
    "whitespace": Tokenizer.from_vocabulary(["the", "film", "<eos>", "go!"], "whitespace"),
    "subword": Tokenizer.train_subwords([TEXT, "the film was good"] * 3, 90),
}


def shown(text: str, tokenizer: Tokenizer, parts: list[Part], ids: list[int]) -> dict[str, list[str]]:
    return {text[part.start : part.end]: [tokenizer.vocabulary[ids[i]] for i in part.tokens] for part in parts}


def test_words_are_those_of_the_text() -> None:
    ids, parts = words(KINDS["word"], TEXT)
    found = shown(TEXT, KINDS["word"], parts, ids.tolist())
    assert " ".join(found) == (
        "Don't go ! NASA said &quot; it's sooooo GOOD <br /> <br> No No NO\nno . Caf\u00e9 na\u00efve Qwrtzpl-xyz "
        "3,000.50 &amp; that\u2019s \u201c all \u201d \n\n New para ... !!!!!!"
    )
    assert found["Don't"] == ["xxmaj", "do", "n't"]
    assert found["NASA"] == ["xxup", "nasa"]
    assert found["sooooo"] == ["s", "xxrep", "5", "o"]
    assert found["No No NO\nno"] == ["xxwrep", "4", "xxmaj", "no"]
    assert found["Qwrtzpl-xyz"] == ["xxmaj", "xxunk", "xxunk", "xxunk"]
    assert found["&amp;"] == ["&"]
    assert found["<br />"] == ["\n"]
    assert found["!!!!!!"] == ["xxrep", "6", "!"]


def test_subwords_make_up_words_and_unspaced_scripts_stand_token_by_token() -> None:
    tokenizer = KINDS["subword"]
    ids, parts = words(tokenizer, "the GOOD film's, \u65e5\u672c")
    found = shown("the GOOD film's, \u65e5\u672c", tokenizer, parts, ids.tolist())
    assert list(found)[:4] == ["the", "GOOD", "film's", ","]
    assert "".join(found["the"]).strip("\u2581") == "the"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=any_text)
def test_every_token_belongs_to_one_word_of_any_text(kind: str, text: str) -> None:
    for direction in ("forward", "backward"):
        tokenizer = KINDS[kind].reading(direction)
        (expected,) = tokenizer.encode([text])
        ids, spans = token_spans(tokenizer, text)
        assert ids.tolist() == expected.tolist()
        assert len(spans) == len(ids)
        assert all(0 <= start <= end <= len(text) for start, end in spans)
        for find in (words, sentences):
            _, parts = find(tokenizer, text)
            held = sorted(token for part in parts for token in part.tokens)
            if parts:
                bos = 0 if direction == "forward" else len(ids) - 1
                assert held == [i for i in range(len(ids)) if i != bos]
            starts = [(part.start, part.end) for part in parts]
            assert starts == sorted(starts)
            assert all(a[1] <= b[0] for a, b in pairwise(starts))


def test_sentences() -> None:
    text = (
        "A film. \u201cGood!\u201d he said? Yes \u2026 e.g. this<br /><br />New line\n\nAnd \u65e5\u672c\u3002 \u8a9e"
    )
    _, parts = sentences(KINDS["word"], text)
    assert [text[part.start : part.end].strip() for part in parts] == [
        "A film.", "\u201cGood!\u201d", "he said?", "Yes \u2026", "e.g.", "this<br /><br />", "New line",
        "And \u65e5\u672c\u3002", "\u8a9e",
    ]  # fmt: skip


def test_long_texts_take_no_more_than_their_length() -> None:
    text = "the film no No NO was good &amp; " * 3000
    ids, parts = words(KINDS["word"], text)
    assert [text[part.start : part.end] for part in parts] == ["the", "film", "no No NO", "was", "good", "&amp;"] * 3000
    assert len(ids) > 20_000
