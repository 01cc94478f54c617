"""A corpus in parts, by hand: together the bits of one run; what is missing or in the way is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command_line import assert_one_line
from tests.text.test_corpus import make_texts, write_text
from ulmfit_fast import InputError
from ulmfit_fast.cli.main import main
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.text import corpus_source, parallel
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.corpus_parts import Part, tokenize_part
from ulmfit_fast.text.shards import ShardedTokens

SHARD_BYTES = 3000


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(write_text(tmp_path / "a.txt", make_texts(100)), min_frequency=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def part_of(source: Source, folder: Path, text: str) -> int:
    return tokenize_part(source, folder, Part.parse(text), SHARD_BYTES)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_parts_make_the_files_of_one_run(
    count: int, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize_corpus(source, tmp_path / "whole", shard_bytes=SHARD_BYTES)
    whole, parts = contents(tmp_path / "whole"), tmp_path / "parts"
    shards = len([name for name in whole if name.startswith("train.0")])
    assert shards > 4
    assert part_of(source, parts, "vocabulary") == 0
    made = [part_of(source, parts, f"{index}/{count}") for index in reversed(range(1, count + 1))]
    assert sum(made) == shards
    assert max(made) - min(made) <= 1
    with pytest.raises(InputError, match="not a corpus folder"):
        Corpus.load(parts)
    encoded, encode = [], parallel.encode

    def counting(*arguments: Any) -> Any:
        for ids in encode(*arguments):
            encoded.append(ids)
            yield ids

    monkeypatch.setattr(parallel, "encode", counting)
    monkeypatch.setattr(corpus_source, "make_tokenizer", None)  # nobody reads for the vocabulary again
    joined, _ = tokenize_corpus(source, parts, shard_bytes=SHARD_BYTES)
    assert joined.valid is not None
    assert len(encoded) == len(joined.valid.offsets) - 1  # those held out alone
    assert contents(parts) == whole
    assert part_of(source, parts, f"1/{count}") == 0  # the corpus is there


def test_a_part_that_is_repeated_or_left_out(source: Source, tmp_path: Path) -> None:
    """What a part had finished is kept; what nobody did is done by the run that joins."""
    part_of(source, tmp_path / "c", "vocabulary")
    part_of(source, tmp_path / "c", "1/2")
    before = contents(tmp_path / "c")
    part_of(source, tmp_path / "c", "1/2")
    assert contents(tmp_path / "c") == before
    found, _ = tokenize_corpus(source, tmp_path / "c", shard_bytes=SHARD_BYTES)
    assert isinstance(found.train, ShardedTokens)
    assert found.checksum() == tokenize_corpus(source, tmp_path / "w", shard_bytes=SHARD_BYTES)[0].checksum()


def test_a_vocabulary_of_other_texts_is_refused(source: Source, tmp_path: Path) -> None:
    other = replace(source, min_frequency=2)
    for wrong in (source, other):
        with pytest.raises(InputError, match="no vocabulary of these texts and options; make it first"):
            part_of(wrong, tmp_path / "c", "1/2")
        part_of(source, tmp_path / "c", "vocabulary")
    for damage in ("{", "[]", json.dumps({"source": 1}), "null"):
        (tmp_path / "c" / "vocabulary.json").write_text(damage)
        with pytest.raises(InputError, match="no vocabulary of these texts"):
            part_of(source, tmp_path / "c", "1/2")
    part_of(source, tmp_path / "c", "vocabulary")
    (tmp_path / "c" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="no vocabulary of these texts"):
        part_of(source, tmp_path / "c", "1/2")


def test_one_run_writes_a_shard(source: Source, tmp_path: Path) -> None:
    part_of(source, tmp_path / "c", "vocabulary")
    lock = tmp_path / "c" / ".train.00002.tokens.lock"
    lock.mkdir()
    (lock / ".ulmfit-fast.lock").touch()  # of a run that was killed
    assert part_of(source, tmp_path / "c", "3/100") == 1
    assert not lock.exists()
    held = tmp_path / "c" / ".train.00001.tokens.lock"
    import threading

    ready, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked_folder(held):
            ready.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(60)
    try:
        for run in (lambda: part_of(source, tmp_path / "c", "2/100"), lambda: join(source, tmp_path / "c")):
            with pytest.raises(InputError, match=r"train\.00001\.tokens\.lock: another"):
                run()
    finally:
        done.set()
        thread.join()
    join(source, tmp_path / "c")
    assert [name for name in contents(tmp_path / "c") if name.startswith(".")] == []


def join(source: Source, folder: Path) -> None:
    tokenize_corpus(source, folder, shard_bytes=SHARD_BYTES)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_text(tmp_path / "a.txt", make_texts(100, 3000))
    arguments = ["tokenize", str(path), "--min-frequency", "1", "--processes", "1", "--output", str(tmp_path / "c")]
    for part, message in (
        (["--part", "1/2"], "--part goes with --shard-mb"),
        (["--part", "0/2", "--shard-mb", "1"], "such as 3/10, got '0/2'"),
        (["--part", "3/2", "--shard-mb", "1"], "such as 3/10, got '3/2'"),
        (["--part", "two", "--shard-mb", "1"], "such as 3/10, got 'two'"),
        (["--part", "1/2", "--shard-mb", "1"], "make it first: the same command with --part vocabulary"),
    ):
        assert main([*arguments, *part]) == 2
        assert_one_line(capsys, message)
    arguments += ["--shard-mb", "1"]
    for part in ("vocabulary", "2/2", "1/2"):
        assert main([*arguments, "--part", part]) == 0
    assert "part 1 of 2 of the corpus" in capsys.readouterr().out
    assert main(arguments) == 0
    assert len(Corpus.load(tmp_path / "c").train.shards) == 3  # type: ignore[attr-defined]
