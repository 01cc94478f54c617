"""Words left out, swapped and replaced: what stays, how often it happens, and what draws depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, LanguageModel, Tokenizer
from ulmfit_fast.inference.candidates import likely_words, near_words
from ulmfit_fast.text.augment import Augmentation, Augmenter, by_place, by_word

FILM = "Great GREAT film!!!!! No No No No what a story , and a very long one it is"
WORDS = Tokenizer.train_words([FILM, "xxfld 1 title xxfld 2 body"], min_frequency=1)


def names(tokenizer: Tokenizer, ids: np.ndarray) -> list[str]:
    return [tokenizer.vocabulary[i] for i in ids]


def augmenter(tokenizer: Tokenizer, texts: Sequence[str], **probabilities: Any) -> Augmenter:
    candidates = probabilities.pop("candidates", None)
    return Augmenter(tokenizer, list(tokenizer.encode(texts)), Augmentation(**probabilities), 0, candidates)


def test_off() -> None:
    assert not Augmentation()
    made = augmenter(WORDS, [FILM])
    assert np.array_equal(made.text(0, 3), made.ids[0])


def test_one_word_stays_and_the_beginning() -> None:
    made = augmenter(WORDS, [FILM, ""], dropout=1.0)
    units = [
        ["xxmaj", "great"], ["xxup", "great"], ["film"], ["xxrep", "5", "!"], ["xxwrep", "4", "xxmaj", "no"], ["what"],
        ["a"], ["story"], [","], ["and"], ["very"], ["long"], ["one"], ["it"], ["is"],
    ]  # fmt: skip
    seen = [names(WORDS, made.text(0, epoch)) for epoch in range(300)]
    assert all(text[0] == "xxbos" for text in seen)
    assert {tuple(text[1:]) for text in seen} == {tuple(unit) for unit in units}  # markers go with their word
    assert names(WORDS, made.text(1, 0)) == ["xxbos"]


def test_swapped_words_take_their_markers_along() -> None:
    made = augmenter(WORDS, [FILM], swap=1.0)
    assert names(WORDS, made.text(0, 0)) == [
        "xxbos", "xxup", "great", "xxmaj", "great", "xxrep", "5", "!", "film", "what", "xxwrep", "4", "xxmaj", "no",
        "story", "a", "and", ",", "very", "a", "one", "long", "is", "it",
    ]  # fmt: skip


def test_fields_stay_where_they_are() -> None:
    text = "xxfld 1 title xxfld 2 body a story"
    assert names(WORDS, augmenter(WORDS, [text], swap=1.0).text(0, 0)) == (
        ["xxbos", "xxfld", "1", "title", "xxfld", "2", "a", "body", "story"]
    )
    dropped = names(WORDS, augmenter(WORDS, [text], dropout=1.0).text(0, 0))
    assert dropped[:3] == ["xxbos", "xxfld", "1"]
    assert [name for name in dropped if name in ("1", "2")] == ["1", "2"]
    assert len(dropped) == 6


def test_replaced_words_keep_their_case() -> None:
    (one,) = WORDS.encode(["one"])
    table = {i: np.array([one[1], one[1]], np.int32) for i in range(len(WORDS))}
    ids = list(WORDS.encode([FILM]))
    made = augmenter(WORDS, [FILM], replace=1.0, candidates=by_word(table, ids, False))
    expected = "xxmaj one xxup one one xxrep 5 ! xxwrep 4 xxmaj no one one one one one one one one one one one"
    assert names(WORDS, made.text(0, 0)) == ["xxbos", *expected.split()]
    none = augmenter(WORDS, [FILM], replace=1.0, candidates=lambda row, at: np.full((len(at), 2), -1, np.int32))
    assert np.array_equal(none.text(0, 0), ids[0])


def test_noise_is_drawn_by_frequency() -> None:
    texts = ["a " * 300 + "b " * 100 + "c"]
    tokenizer = Tokenizer.from_vocabulary(["a", "b"], "whitespace")  # c is unknown
    made = augmenter(tokenizer, texts, noise=1.0)
    seen: Counter[str] = Counter()
    for epoch in range(50):
        seen.update(names(tokenizer, made.text(0, epoch))[1:])
    share = seen["a"] / (seen["a"] + seen["b"])
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 20_000) ** 0.5)
    assert seen["xxunk"] == 50  # of which nothing is known, and which nothing becomes


@pytest.mark.parametrize("kind", ["dropout", "swap", "noise"])
def test_how_often(kind: str) -> None:
    words = [f"w{i}" for i in range(1000)]
    tokenizer = Tokenizer.from_vocabulary(words, "whitespace")
    made = augmenter(tokenizer, [" ".join(words)], **{kind: 0.2})
    before = made.ids[0]
    rates = []
    for epoch in range(30):
        after = made.text(0, epoch)
        if kind == "dropout":
            rates.append(1 - (len(after) - 1) / 1000)
            assert np.array_equal(after, before[np.isin(before, after)])  # the rest in its order
        else:
            rates.append(float((after != before).mean()))
            assert len(after) == len(before)
            if kind == "swap":
                assert sorted(after) == sorted(before)
    # A word changes places with the next unless the one before has with it: p / (1 + p) of the pairs, two words each.
    expected = 2 * 0.2 / 1.2 if kind == "swap" else 0.2
    assert float(np.mean(rates)) == pytest.approx(expected, abs=0.01)


def test_draws_depend_on_seed_epoch_and_row_alone() -> None:
    texts = [FILM, FILM, "a very long story"]
    ids = list(WORDS.encode(texts))
    by = Augmentation(dropout=0.3, swap=0.3, noise=0.2)
    one, other = Augmenter(WORDS, ids, by, 0), Augmenter(WORDS, ids, by, 0)
    here = {(row, epoch): one.text(row, epoch).tolist() for row in range(3) for epoch in range(4)}
    np.random.seed(3)
    there = {(row, epoch): other.text(row, epoch).tolist() for epoch in (3, 0, 2, 1) for row in (2, 0, 1)}
    assert here == there
    assert here[0, 0] != here[1, 0]
    assert here[0, 0] != here[0, 1]
    assert here[0, 0] != Augmenter(WORDS, ids, by, 1).text(0, 0).tolist()


def test_backward_texts_are_changed_as_forward_ones() -> None:
    backward = WORDS.reading("backward")
    by = {"dropout": 0.3, "swap": 0.3, "noise": 0.2}
    one, other = augmenter(WORDS, [FILM], **by), augmenter(backward, [FILM], **by)
    assert other.ids[0][-1] == WORDS.bos_id
    for epoch in range(5):
        assert np.array_equal(other.text(0, epoch), one.text(0, epoch)[::-1])


def test_pieces_of_a_word_stay_together() -> None:
    texts = ["unbelievable story"] * 30 + ["believer unstory"] * 30 + ["\u4e2d\u6587\u7535\u5f71\u597d"] * 3
    tokenizer = Tokenizer.train_subwords(texts, 40)
    made = augmenter(tokenizer, ["unbeliever story", "\u4e2d\u6587\u7535\u5f71\u597d"], dropout=1.0)
    assert len(made.ids[0]) > 4
    seen = {tokenizer.decode(made.text(0, epoch)) for epoch in range(40)}
    assert seen == {"unbeliever", "story"}
    assert len({tuple(made.text(1, epoch)) for epoch in range(60)}) > 2  # no spaces: each piece is a word


def test_near_words() -> None:
    torch.manual_seed(0)
    embedding, ids = torch.randn(30, 6), [np.array([2, 12, 15, 29], np.int32), np.array([2, 12], np.int32)]
    found = near_words(embedding, ids, 3)
    assert sorted(found) == [2, 12, 15, 29]
    for word, near in found.items():
        cosine = F.cosine_similarity(embedding[word][None], embedding)
        cosine[:9] = cosine[word] = -2
        assert near.tolist() == cosine.topk(3).indices.tolist()
    assert near_words(torch.randn(11, 2), [np.array([9], np.int32)], 8)[9].tolist() == [10]


def test_likely_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the model read a text at a time; texts longer and shorter than what is read at once."""
    monkeypatch.setattr("ulmfit_fast.inference.candidates._ROWS_AT_A_TIME", 4)
    torch.manual_seed(0)
    model = LanguageModel(AWDLSTM(AWDLSTMConfig(20, 5, 7, 2))).train()
    with torch.no_grad():
        model.decoder_bias.normal_()
    random = np.random.default_rng(0)
    ids = [np.append(2, random.integers(9, 20, n)).astype(np.int32) for n in (0, 1, 3, 4, 7, 8, 9)]
    found = likely_words(model, "cpu", ids, 3)
    assert model.training
    model.eval()
    for text, words in zip(ids, found, strict=True):
        assert words.shape == (len(text), 3)
        assert words[0].tolist() == [-1] * 3
        with torch.no_grad():
            logits = model.logits(model(torch.from_numpy(text).long()[:, None]))[:, 0]
        for position in range(1, len(text)):
            scores = logits[position - 1].clone()
            scores[:9] = scores[int(text[position])] = -torch.inf
            assert words[position].tolist() == scores.topk(3).indices.tolist()


def test_candidates_in_the_order_of_the_text() -> None:
    ids = [np.array([10, 11, 12, 2], np.int32)]  # backward: the text is 12 11 10
    table = {i: np.array([i + 100], np.int32) for i in range(13)}
    assert by_word(table, ids, True)(0, np.array([1, 3])).tolist() == [[112], [110]]
    found = [np.array([[0], [1], [2], [3]], np.int32)]
    assert by_place(found, True)(0, np.array([0, 3])).tolist() == [[3], [0]]
    assert by_place(found, False)(0, np.array([0, 3])).tolist() == [[0], [3]]


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match=r"Augmentation: swap must be in \[0, 1\], got 1\.5"):
        Augmentation(swap=1.5)
    with pytest.raises(InputError, match="words are replaced by candidates, and there are none"):
        augmenter(WORDS, [FILM], replace=0.1)
