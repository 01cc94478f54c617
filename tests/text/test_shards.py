"""Corpora in several files: the same ids, order and batches as in one; finished shards are kept; faults are named."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.text.test_corpus import make_texts, write_text
from ulmfit_fast import InputError
from ulmfit_fast.cli.main import main
from ulmfit_fast.text import parallel, shards
from ulmfit_fast.text.batching import LanguageModelStream
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.shards import ShardedTokens
from ulmfit_fast.text.token_file import TokenFile

SHARD_BYTES = 3000


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(write_text(tmp_path / "a.txt", make_texts(100)), min_frequency=1)


def sharded(source: Source, folder: Path) -> ShardedTokens:
    corpus, _ = tokenize_corpus(source, folder, shard_bytes=SHARD_BYTES)
    assert isinstance(corpus.train, ShardedTokens)
    return corpus.train


def test_ids_and_batches_are_those_of_one_file(source: Source, tmp_path: Path) -> None:
    whole = tokenize_corpus(source, tmp_path / "one")[0].train
    parts = sharded(source, tmp_path / "several")
    assert isinstance(whole, TokenFile)
    assert len(parts.shards) > 3
    assert np.array_equal(parts.offsets, whole.offsets)
    tokens = int(whole.offsets[-1])
    cuts = [0, *(int(shard.offsets[-1]) for shard in parts.shards)]
    for start, stop in [
        (0, tokens),
        (5, 5),
        (tokens, tokens),
        *((cut - 2, cut + 700) for cut in np.cumsum(cuts)[1:-1]),
    ]:
        assert np.array_equal(parts.read(start, stop), whole.read(start, stop))
        assert parts.read(start, stop).dtype == np.int32
    streams = [LanguageModelStream(corpus, 4, 10, True, True, 3) for corpus in (whole, parts)]
    for (a, _), (b, _) in zip(*(stream.epoch() for stream in streams), strict=True):
        assert a.tolist() == b.tolist()


def test_finished_shards_are_not_tokenized_again(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, encode, encoded = shards.write_token_file, parallel.encode, []

    def fails_at_the_third(path: Path, *arguments: Any) -> TokenFile:
        if ".00002." in path.name:
            raise KeyboardInterrupt
        return write(path, *arguments)

    def counts(tokenizer: Any, texts: Iterable[str], processes: int) -> Any:
        for ids in encode(tokenizer, texts, processes):
            encoded.append(ids)
            yield ids

    monkeypatch.setattr(parallel, "encode", counts)
    monkeypatch.setattr(shards, "write_token_file", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        sharded(source, tmp_path / "c")
    with pytest.raises(InputError, match="not a corpus folder"):
        Corpus.load(tmp_path / "c")
    monkeypatch.setattr(shards, "write_token_file", write)
    encoded.clear()
    found = sharded(source, tmp_path / "c")
    kept = sum(len(shard.offsets) - 1 for shard in found.shards[:2])
    held_out = len(TokenFile(tmp_path / "c" / "valid.tokens").offsets) - 1
    assert len(encoded) == 100 - kept
    assert len(found.offsets) - 1 == 100 - held_out
    whole = tokenize_corpus(source, tmp_path / "one")[0].train
    assert np.array_equal(found.read(0, int(found.offsets[-1])), whole.read(0, int(whole.offsets[-1])))


def test_other_texts_or_one_file_leave_no_old_shard(source: Source, tmp_path: Path) -> None:
    many = len(sharded(source, tmp_path / "c").shards)
    write_text(source.path, make_texts(40))
    few, _ = tokenize_corpus(source, tmp_path / "c", overwrite=True, shard_bytes=SHARD_BYTES)
    assert isinstance(few.train, ShardedTokens)
    assert len(list((tmp_path / "c").glob("train.0*.tokens"))) == len(few.train.shards) < many
    write_text(source.path, make_texts(41))
    tokenize_corpus(source, tmp_path / "c", overwrite=True)
    assert list((tmp_path / "c").glob("train.0*.tokens")) == []


def test_faults_are_named(source: Source, tmp_path: Path) -> None:
    manifest = sharded(source, tmp_path / "c").path
    text, shard = manifest.read_text(), tmp_path / "c" / "train.00001.tokens"
    for altered, message in (
        (text[:-20], "not a manifest of token shards"),
        (text.replace('"tokens": ', '"tokens": 1', 1), "does not fit its checksum"),
        (json.dumps(json.loads(text) | {"version": 9}), "of another version"),
        ("[]", "not a token file"),
        ("{" * 100_000, "not a manifest of token shards"),
    ):
        manifest.write_text(altered)
        with pytest.raises(InputError, match=message):
            Corpus.load(tmp_path / "c")
    manifest.write_text(text)
    data = shard.read_bytes()
    shard.write_bytes((tmp_path / "c" / "train.00000.tokens").read_bytes())
    with pytest.raises(InputError, match=r"train\.00001\.tokens: not the shard that train\.tokens names"):
        Corpus.load(tmp_path / "c")
    shard.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    corpus = Corpus.load(tmp_path / "c")
    with pytest.raises(InputError, match=r"train\.00001\.tokens: altered: block 0"):
        corpus.train.read(0, int(corpus.train.offsets[-1]))
    shard.unlink()
    with pytest.raises(InputError, match=r"train\.00001\.tokens: cannot be read"):
        Corpus.load(tmp_path / "c")


def test_the_command_writes_shards(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", make_texts(100, 3000))
    arguments = ["tokenize", str(path), "--min-frequency", "1", "--processes", "1"]
    assert main([*arguments, "--output", str(tmp_path / "c"), "--shard-mb", "1"]) == 0
    corpus = Corpus.load(tmp_path / "c")
    assert isinstance(corpus.train, ShardedTokens)
    assert len(corpus.train.shards) == 3  # of 2.2 MB
