"""Streams for the language model and batches of documents."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from ulmfit_fast import InputError
from ulmfit_fast.text.batching import LanguageModelStream, document_batches, pack_documents


def texts(*lengths: int) -> list[np.ndarray]:
    starts = np.cumsum([0, *lengths])
    return [np.arange(a, b, dtype=np.int32) for a, b in itertools.pairwise(starts)]


def test_lanes_continue_from_batch_to_batch() -> None:
    stream = LanguageModelStream(texts(10, 13), batch_size=2, bptt=4)
    inputs, targets = zip(*stream.epoch(), strict=True)
    assert [len(batch) for batch in inputs] == [4, 4, 2]
    assert torch.cat(inputs)[:, 1].tolist() == list(range(11, 21))
    assert torch.cat(targets)[:, 1].tolist() == list(range(12, 22))
    assert sum(batch.numel() for batch in inputs) == stream.tokens


def test_shuffling_moves_whole_texts() -> None:
    stream = LanguageModelStream(texts(5, 5, 5, 5, 5, 5), batch_size=1, bptt=100, shuffle=True)
    first, second = (torch.cat([next(stream.epoch())[0][:, 0]]).tolist() for _ in range(2))
    assert first != second
    assert all(b == a + 1 for a, b in itertools.pairwise(first[:5]))


def test_variable_lengths_are_drawn_around_bptt() -> None:
    stream = LanguageModelStream(texts(20000), batch_size=1, bptt=70, variable_length=True, seed=3)
    lengths = [len(inputs) for inputs, _ in stream.epoch()][:-1]
    assert len(set(lengths)) > 10
    assert 55 < np.median(lengths) < 85
    assert min(lengths) >= 5
    assert abs(len(lengths) - stream.expected_batches()) < 0.1 * len(lengths)


@pytest.mark.parametrize(("tokens", "bptt"), [(100, 70), (160, 70), (700, 70), (200, 3)])
def test_the_number_of_batches_is_foreseen(tokens: int, bptt: int) -> None:
    """With the shorter last one: a schedule made for fewer steps would end before the training does."""
    stream = LanguageModelStream(texts(tokens), batch_size=1, bptt=bptt, variable_length=True, seed=3)
    mean = np.mean([sum(1 for _ in stream.epoch()) for _ in range(40)])
    assert abs(stream.expected_batches() - mean) < max(0.6, 0.03 * mean)
    fixed = LanguageModelStream(texts(tokens), batch_size=1, bptt=bptt)
    assert fixed.expected_batches() == sum(1 for _ in fixed.epoch())


def test_too_little_text() -> None:
    with pytest.raises(InputError, match="30 tokens are too few for 16 lanes"):
        LanguageModelStream(texts(30), batch_size=16, bptt=10)


@pytest.mark.parametrize("random", [None, 5])
def test_every_document_is_in_one_batch(random: int | None) -> None:
    ids = texts(*[1 + 37 * i % 50 for i in range(41)])
    generator = None if random is None else np.random.default_rng(random)
    seen: list[int] = []
    for packed, rows in document_batches(ids, 8, random=generator):
        seen += rows.tolist()
        for position, row in enumerate(rows):
            start = packed.unsorted_indices[position]
            assert packed.data[start] == ids[row][0]  # the first step holds each document's first token
    assert sorted(seen) == list(range(41))


def test_no_training_batch_of_one() -> None:
    def sizes(count: int, random: np.random.Generator | None) -> list[int]:
        return [len(rows) for _, rows in document_batches(texts(*[3] * count), 8, random=random)]

    assert sorted(sizes(17, np.random.default_rng(0))) == [8, 9]
    assert sizes(17, None) == [8, 8, 1]
    assert sizes(1, np.random.default_rng(0)) == [1]


@pytest.mark.parametrize("random", [None, 3])
def test_one_long_document_and_many_short_ones(random: int | None) -> None:
    ids = texts(40_000, *[20 + i % 9 for i in range(100)])
    generator = None if random is None else np.random.default_rng(random)
    batches = [rows.tolist() for _, rows in document_batches(ids, 32, 500, generator)]
    assert sorted(row for rows in batches for row in rows) == list(range(101))
    with_novel = next(rows for rows in batches if 0 in rows)
    assert len(with_novel) == (1 if random is None else 2)
    others = [rows for rows in batches if 0 not in rows]
    assert all(sum(len(ids[i]) for i in rows) <= 500 for rows in others)
    assert len(others) <= 7  # 2,400 tokens in batches of at most 500


def test_packing_equals_torchs() -> None:
    generator = np.random.default_rng(1)
    for lengths in ([1], [3, 3], [2, 9, 1, 9, 4], generator.integers(1, 50, 40).tolist()):
        documents = [torch.from_numpy(generator.integers(0, 99, n)) for n in lengths]
        ours, expected = pack_documents(documents), pack_sequence(documents, enforce_sorted=False)
        assert torch.equal(ours.data, expected.data) or sorted(lengths) != sorted(set(lengths))
        for mine, theirs in zip(*(pad_packed_sequence(packed) for packed in (ours, expected)), strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(ours.batch_sizes, expected.batch_sizes)


def test_longest_first_without_shuffling() -> None:
    lengths = [len(packed.batch_sizes) for packed, _ in document_batches(texts(3, 9, 5, 7), 2)]
    assert lengths == [9, 5]
