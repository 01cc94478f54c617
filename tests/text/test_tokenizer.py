"""fastai's rules, vocabularies, and tokenizer files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ulmfit_fast import InputError
from ulmfit_fast.text.rules import SPECIAL_TOKENS, apply_rules
from ulmfit_fast.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris", "xxmaj paris"),
        ("NASA and I", "xxup nasa and xxmaj i"),
        ("iPhone", "iphone"),
        ("École ÉCOLE", "xxmaj école xxup école"),
        ("sooooo", "s xxrep 5 o"),
        ("no!!!!", "no xxrep 4 !"),
        ("no!!!", "no!!!"),
        ("very very very good", "xxwrep 3 very good"),
        ("very very good", "very very good"),
        ("a &amp; b<br />c", "a & b \n c"),
        ("and/or #1", "and / or # 1"),
        ("  two   spaces ", "two spaces"),
        ("", ""),
    ],
)
def test_rules(text: str, expected: str) -> None:
    assert apply_rules(text) == expected


def test_word_tokens() -> None:
    tokenizer = Tokenizer.train_words(["I don't think it's 3.14, Bob's “quote”."], min_frequency=1)
    assert tokenizer.tokens("I don't think it's 3.14, Bob's “quote”.") == [
        "xxmaj", "i", "do", "n't", "think", "it", "'s", "3.14", ",", "xxmaj", "bob", "'s", "“", "quote", "”", ".",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["words", "subwords"])
def test_special_tokens_have_fastais_ids(kind: str) -> None:
    texts = ["NASA says so", "Paris is is is here"] * 3
    tokenizer = Tokenizer.train_words(texts) if kind == "words" else Tokenizer.train_subwords(texts, 60)
    assert tokenizer.vocabulary[:9] == list(SPECIAL_TOKENS)
    assert len(set(tokenizer.vocabulary)) == len(tokenizer.vocabulary) == len(tokenizer)
    assert (tokenizer.unk_id, tokenizer.pad_id, tokenizer.bos_id) == (0, 1, 2)


def test_frequency_and_size_limits() -> None:
    texts = ["three two three one three two"]
    assert Tokenizer.train_words(texts, min_frequency=2).vocabulary[9:] == ["three", "two"]
    assert Tokenizer.train_words(texts, vocab_size=10, min_frequency=1).vocabulary[9:] == ["three"]


def test_every_text_begins_with_bos_and_unknown_words_are_unk() -> None:
    tokenizer = Tokenizer.train_words(["one two"] * 3)
    assert [ids.tolist() for ids in tokenizer.encode(["", "two strange"])] == [[2], [2, 10, 0]]


def test_encoding_is_lazy_and_batched() -> None:
    tokenizer = Tokenizer.train_words(["one two"] * 3)
    assert sum(len(ids) for ids in tokenizer.encode("one two" for _ in range(3000))) == 9000


def test_subwords_spell_any_word_and_decode_gives_the_text() -> None:
    texts = ["the newest of the new news is renewed", "a b c d e f g h i j k l m n o p q r s t u v w x y z"] * 5
    tokenizer = Tokenizer.train_subwords(texts, 80)
    (ids,) = tokenizer.encode(["the renewable news"])
    assert 0 not in ids
    assert tokenizer.decode(ids) == "the renewable news"


@pytest.mark.parametrize("kind", ["words", "subwords"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    texts = ["Some text of NO importance"] * 3
    tokenizer = Tokenizer.train_words(texts) if kind == "words" else Tokenizer.train_subwords(texts, 60)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.uses_rules == tokenizer.uses_rules
    assert [i.tolist() for i in loaded.encode(texts)] == [i.tolist() for i in tokenizer.encode(texts)]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not a readable tokenizer.json"), ('{"version": ', "not a readable"), (None, "not a readable")],
)
def test_damaged_files(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        Tokenizer.load(path)


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    import tokenizers

    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(path))
    with pytest.raises(InputError, match="lacks the special tokens"):
        Tokenizer.load(path)
