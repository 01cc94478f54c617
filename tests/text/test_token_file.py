"""Token files: what is written is read, and what was truncated or altered is refused."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from ulmfit_fast import InputError
from ulmfit_fast.text import token_file
from ulmfit_fast.text.batching import LanguageModelStream
from ulmfit_fast.text.token_file import TokenFile, write_token_file


def documents(seed: int = 0, vocabulary: int = 500) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, vocabulary, int(n), dtype=np.int32) for n in random.integers(0, 400, 60)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "_BLOCK_BYTES", 1 << 10)


@pytest.mark.parametrize(("vocabulary", "bytes_each"), [(500, 2), (65_536, 2), (65_537, 4)])
@pytest.mark.usefixtures("small_blocks")
def test_reads_what_was_written(tmp_path: Path, vocabulary: int, bytes_each: int) -> None:
    ids = documents(vocabulary=vocabulary)
    file = write_token_file(tmp_path / "a.tokens", iter(ids), vocabulary, {"path": "a.txt"})
    again = TokenFile(tmp_path / "a.tokens")
    assert (again.source, again.vocabulary) == ({"path": "a.txt"}, vocabulary)
    assert (tmp_path / "a.tokens").stat().st_size < 5000 + 8 * 61 + bytes_each * sum(map(len, ids)) + 4 * 100
    for i, document in enumerate(ids):
        np.testing.assert_array_equal(file.read(again.offsets[i], again.offsets[i + 1]), document)
    np.testing.assert_array_equal(again.read(0, int(again.offsets[-1])), np.concatenate(ids))


def test_streams_are_those_of_the_same_texts_in_memory(tmp_path: Path) -> None:
    ids = documents()
    file = write_token_file(tmp_path / "a.tokens", ids, 500)
    streams = [LanguageModelStream(corpus, 4, 30, True, True, seed=7) for corpus in (ids, file)]
    for _ in range(2):
        batches = [list(stream.epoch()) for stream in streams]
        assert len(batches[0]) == len(batches[1]) > 20
        for mine, theirs in zip(*batches, strict=True):
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])


def test_skipped_batches_leave_the_rest_as_it_was(tmp_path: Path) -> None:
    whole = list(LanguageModelStream(documents(), 4, 30, True, True, seed=7).epoch())
    rest = list(LanguageModelStream(documents(), 4, 30, True, True, seed=7).epoch(skip=9))
    assert len(rest) == len(whole) - 9
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[9:], rest, strict=True))


def test_nothing_and_empty_documents(tmp_path: Path) -> None:
    assert write_token_file(tmp_path / "a.tokens", [], 9).offsets.tolist() == [0]
    assert write_token_file(tmp_path / "a.tokens", [np.empty(0, int)] * 2, 9).offsets.tolist() == [0, 0, 0]


@pytest.mark.usefixtures("small_blocks")
def test_a_file_that_is_cut_while_it_is_in_use(tmp_path: Path) -> None:
    """By who writes into the file itself: an error, where the system would end a process that has mapped it."""
    path = tmp_path / "a.tokens"
    file, ids = write_token_file(path, documents(), 500), np.concatenate(documents())
    np.testing.assert_array_equal(file.read(0, len(ids)), ids)
    os.truncate(path, 6000)
    np.testing.assert_array_equal(file.read(0, 900), ids[:900])
    with pytest.raises(InputError, match=r"a\.tokens: was cut while it was in use"):
        file.read(900, 1200)
    os.truncate(path, 0)
    assert file.offsets[-1] == len(ids)


def test_a_file_that_takes_the_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    file, ids = write_token_file(path, documents(), 500), np.concatenate(documents())
    write_token_file(path, [np.arange(3)], 9)
    np.testing.assert_array_equal(file.read(0, len(ids)), ids)


@pytest.mark.usefixtures("small_blocks")
def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    write_token_file(path, documents(), 500)
    data = path.read_bytes()
    for length in (0, 7, 100, 4096, 5000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"a\.tokens: (truncated|not a token file|altered).*make it again"):
            TokenFile(path)


@pytest.mark.usefixtures("small_blocks")
def test_altered_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    tokens = int(write_token_file(path, documents(), 500).offsets[-1])
    data = path.read_bytes()
    assert len(data) < 40_000
    in_padding = range(16 + int.from_bytes(data[8:12], "little"), 4096)
    for position in [*range(0, 300, 7), *range(4000, len(data), 97), len(data) - 1]:
        if position in in_padding:
            continue
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        try:
            file = TokenFile(path)
            file.read(0, tokens)
        except InputError as error:
            assert "make it again" in str(error)  # noqa: PT017
        else:
            between = 4096 + 2 * tokens
            assert between <= position < between + 8, f"byte {position} was altered unnoticed"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    write_token_file(path, documents(), 500)
    before = path.read_bytes()

    def broken() -> object:
        yield documents()[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_token_file(path, broken(), 500)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.tokens"]
    with pytest.raises(InputError, match="cannot be read"):
        TokenFile(tmp_path / "none")


def test_a_full_disk_is_named_with_its_file(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))  # a full disk fails at the same calls
    try:
        with pytest.raises(OSError, match="File too large") as error:
            write_token_file(tmp_path / "train.tokens", [np.zeros(1 << 18, np.int32)], 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.filename == str(tmp_path / "train.tokens")
    assert list(tmp_path.iterdir()) == []
