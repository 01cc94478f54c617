"""fastai's rules, vocabularies, and tokenizer files."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import trainers

from tests.text.any_text import any_text
from ulmfit_fast import InputError
from ulmfit_fast.text import piece_table, rules_v1
from ulmfit_fast.text.rules import SPECIAL_TOKENS, apply_rules, encodable
from ulmfit_fast.text.tokenizer import TOKENIZERS, Tokenizer


def test_a_vocabulary_over_other_texts_keeps_what_has_room() -> None:
    counts = {"new": 5, "rare": 2, "two": 3}
    base = Tokenizer.from_vocabulary(["one", "two", "three"]).reading("backward")
    words = base.over(counts, vocab_size=16, min_frequency=3)
    assert words.vocabulary == [*SPECIAL_TOKENS, "new", "two", "one", "three"]
    assert (words.direction, words.rules_version) == ("backward", base.rules_version)
    assert base.over(counts, 10, 3).vocabulary[9:] == ["new", "two", "one"]  # no smaller than the base
    assert base.over(counts, 10, 1).vocabulary[9:] == ["new", "two", "rare"]
    many = {f"word{i}": 9 for i in range(20)}
    assert "one" not in base.over(many, 16, 3).vocabulary


def test_word_tokens() -> None:
    tokenizer = Tokenizer.train_words(["I don't think it's 3.14, Bob's “quote”."], min_frequency=1)
    assert tokenizer.tokens("I don't think it's 3.14, Bob's “quote”.") == [
        "xxmaj", "i", "do", "n't", "think", "it", "'s", "3.14", ",", "xxmaj", "bob", "'s", '"', "quote", '"', ".",
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
    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(path))
    with pytest.raises(InputError, match="lacks the special tokens"):
        Tokenizer.load(path)


@given(st.lists(any_text, max_size=5))
def test_in_pieces_as_in_one_go(texts: list[str]) -> None:
    """Against the library's own work on a whole text: of words after the rules in one go, of the others on the text."""
    for kind in TOKENIZERS:
        tokenizer = Tokenizer.train(kind, texts, 300, 1)
        for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
            whole = apply_rules(text) if kind == "word" else encodable(text)
            expected = tokenizer.backend.encode(whole, add_special_tokens=False)
            assert ids.dtype == np.int32
            assert ids.tolist() == [tokenizer.bos_id, *expected.ids]
            assert tokenizer.tokens(text) == expected.tokens


def test_what_was_met_long_ago_is_forgotten_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_table, "_MOST_PIECES", 8)
    monkeypatch.setattr(piece_table, "_MOST_CHARACTERS", 60)
    texts = [f"word{i % 7} no no no other{i} {'x' * (i % 90)}\n" for i in range(300)]
    tokenizer = Tokenizer.train_words(texts, min_frequency=1)
    for text, ids in zip(texts, (next(tokenizer.encode([text])) for text in texts), strict=True):
        expected = tokenizer.backend.encode(apply_rules(text), add_special_tokens=False).ids
        assert ids.tolist() == [tokenizer.bos_id, *expected]


def test_an_interrupted_call_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one two three", "four two five six"]
    tokenizer = Tokenizer.train_words(texts, min_frequency=1)
    expected = [ids.tolist() for ids in tokenizer.reading("forward").encode(texts)]

    def interrupted(pieces: list[str]) -> piece_table.Numbered:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tokenizer._table, "_split", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(tokenizer.encode(texts))
    assert [ids.tolist() for ids in tokenizer.encode(["two five", *texts])][1:] == expected


def test_half_a_surrogate_pair_is_a_question_mark_everywhere() -> None:
    half, mark = "great \ud83d film", "great ? film"
    for kind in TOKENIZERS:
        tokenizer = Tokenizer.train(kind, [half] * 3, 100, 1)
        assert tokenizer.vocabulary == Tokenizer.train(kind, [mark] * 3, 100, 1).vocabulary
        assert next(tokenizer.encode([half])).tolist() == next(tokenizer.encode([mark])).tolist()
        assert tokenizer.tokens(half) == tokenizer.tokens(mark)
    assert Tokenizer.from_vocabulary(["\ud83d"]).vocabulary[-1] == "?"
    assert Tokenizer.from_vocabulary([]).can_be_token("\ud83d")


def test_used_by_several_threads() -> None:
    texts = [" ".join(f"w{(i * j) % 977}" for j in range(50)) for i in range(400)]
    tokenizer = Tokenizer.train_words(texts, min_frequency=1)
    expected = [ids.tolist() for ids in tokenizer.reading("forward").encode(texts)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: next(tokenizer.encode([text])).tolist(), texts))
    assert found == expected


def test_copies(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train_words(["Some text of NO importance"] * 3, rules_version=1).reading("backward")
    for copied in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert copied.to_json() == tokenizer.to_json()
        assert copied.rules_version == 1
        assert next(copied.encode(["NO text"])).tolist() == next(tokenizer.encode(["NO text"])).tolist()


def test_rules_of_a_later_release_are_refused(tmp_path: Path) -> None:
    contents = json.loads(Tokenizer.from_vocabulary(["a"]).to_json()) | {"rules": 99}
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(InputError, match=r"tokenizer.json: text rules of version 99; this release of ulmfit_fast has"):
        Tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("vocab_size", [9, 12, 16, 100])
def test_vocabularies_of_version_1_are_the_librarys(vocab_size: int) -> None:
    """By frequency, equals by their characters; markers take places. So release 0.1.0 made them."""
    texts = ["b b a a z c c c é \U0001f600 \uffff NO No \n x", "y\n\ny z SO"] * 2
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="xxunk"))
    backend.pre_tokenizer = rules_v1.pre_tokenizer()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=1, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    backend.train_from_iterator(map(rules_v1.apply_rules, texts), trainer)
    found = backend.get_vocab()
    expected = dict.fromkeys([*SPECIAL_TOKENS, *sorted(found, key=found.__getitem__)])
    assert Tokenizer.train_words(texts, vocab_size, 1, rules_version=1).vocabulary == list(expected)


def test_markers_take_no_words_place() -> None:
    texts = ["NO No SO So GO Go"] * 3
    assert Tokenizer.train_words(texts, 12).vocabulary == [*SPECIAL_TOKENS, "go", "no", "so"]


@pytest.mark.parametrize("vocab_size", [20, 60])
def test_more_characters_than_the_vocabulary_has_room_for(vocab_size: int) -> None:
    """The frequent ones stay, pairs of them are encoded, and the vocabulary is not larger than asked for."""
    often, all_of_them = "".join(map(chr, range(0x4E00, 0x4E06))), "".join(map(chr, range(0x4E00, 0x4F00)))
    tokenizer = Tokenizer.train_subwords([often * 8] * 30 + [all_of_them] * 2, vocab_size)
    assert len(tokenizer) <= vocab_size
    assert set(often) <= set(tokenizer.vocabulary)
    (ids,) = tokenizer.encode([often * 2])
    assert len(ids) < 2 * len(often)
    assert tokenizer.unknown_share([ids]) == 0
