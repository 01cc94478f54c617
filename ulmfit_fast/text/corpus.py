"""A corpus made ready for a language model: tokenized once, in bounded memory, into files that later runs read from.

A corpus folder holds ``tokenizer.json``, ``train.tokens`` and, where some documents are held out, ``valid.tokens``.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.text import parallel
from ulmfit_fast.text.corpus_source import VOCABULARY, Reading, Source, begin_corpus
from ulmfit_fast.text.inputs import check_exists, read_once
from ulmfit_fast.text.remote import shown_path
from ulmfit_fast.text.remote_corpus import local_corpus
from ulmfit_fast.text.shards import ShardedTokens, in_shards, open_tokens, remove_shards, write_shards
from ulmfit_fast.text.token_file import TokenCorpus, TokenFile, write_token_file
from ulmfit_fast.text.tokenizer import DIRECTIONS, KINDS, Tokenizer
from ulmfit_fast.text.unknown_tokens import UnknownTokens

__all__ = ["Corpus", "Source", "check_source", "find_corpus", "tokenize_corpus"]


@dataclass(frozen=True)
class Corpus:
    """Token ids of documents, their tokenizer, and some documents held out for validation."""

    tokenizer: Tokenizer
    train: TokenCorpus
    valid: TokenCorpus | None

    def checksum(self) -> int:
        """A checksum of ids, documents and vocabulary."""
        parts = (self.train.checksum, self.valid and self.valid.checksum, zlib.crc32(self.tokenizer.to_json().encode()))
        return zlib.crc32(repr(parts).encode())

    @property
    def source(self) -> dict[str, Any]:
        """How a corpus folder's texts were read (``Source.description``); empty for a corpus in memory."""
        files = isinstance(self.train, TokenFile | ShardedTokens)
        return self.train.source.get("source", {}) if files else {}  # type: ignore[attr-defined]

    @classmethod
    def load(cls, folder: str | Path) -> Corpus:
        """Open a corpus folder, or a copy of the one at an address (``text.remote_corpus``).

        Raises:
            InputError: not one, or truncated, altered or mixed files.
        """
        folder = local_corpus(Path(folder))
        if not (folder / "train.tokens").exists():
            raise InputError(f"{folder}: not a corpus folder: train.tokens is missing; make one: ulmfit-fast tokenize")
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        train = open_tokens(folder / "train.tokens")
        valid = TokenFile(folder / "valid.tokens") if train.source.get("valid") else None
        check = zlib.crc32((folder / "tokenizer.json").read_bytes())
        for file in (train, valid):
            if file is not None and file.source != train.source | {"tokenizer": check}:
                raise InputError(f"{file.path}: of another run than the folder's other files; tokenize again")
            if file is not None and file.vocabulary != len(tokenizer):
                raise InputError(f"{file.path}: has another vocabulary than tokenizer.json; tokenize again")
        return cls(tokenizer, train, valid)


def tokenize_corpus(
    source: Source,
    folder: str | Path,
    processes: int = 1,
    on_progress: Callable[[str, int], None] | None = None,
    overwrite: bool = False,
    shard_bytes: int = 0,
) -> tuple[Corpus, dict[str, float]]:
    """Tokenize files into a corpus folder, or open it where it holds just these files tokenized just so.

    One that an earlier release made of them, with older text rules, is opened as it is; ``overwrite`` makes it anew.

    The files are read once for the vocabulary (with a given one, for the number of documents) and once for the tokens,
    twice if some documents are held out.

    Args:
        source: what and how.
        folder: corpus folder to write.
        processes: cores to use; see ``parallel.encode`` about more than one.
        on_progress: called now and then with what is being done and the bytes of text read since.
        overwrite: allow ``folder`` to hold a corpus of other texts or options, or a damaged one; it is replaced when
            the new texts have been read once.
        shard_bytes: of text in each of several files for training; 0: one file. Ids, and their order, do not depend on
            it. Shards that an interrupted call has finished are not tokenized again.

    Returns:
        The corpus, and figures on how it was made: megabytes, seconds, documents, tokens (empty if it was there).

    Raises:
        InputError: unusable files, no text; a folder with a model or, without ``overwrite``, with another corpus; a
            folder that another run writes to.
    """
    folder = Path(folder)
    check_source(source)
    with read_once():  # by the readers, which go over the texts two or three times
        return _tokenize_corpus(source, folder, processes, on_progress, overwrite, shard_bytes)


def check_source(source: Source) -> None:
    """Raises ValueError for settings that cannot be, InputError where there are no files."""
    if source.tokenizer not in KINDS:
        raise ValueError(f"tokenize_corpus: tokenizer must be one of {KINDS}, got {source.tokenizer!r}")
    if source.direction not in DIRECTIONS:
        raise ValueError(f"tokenize_corpus: direction must be one of {DIRECTIONS}, got {source.direction!r}")
    if source.given is not None and source.direction == "backward" and source.given.direction == "forward":
        raise ValueError("tokenize_corpus: direction is 'backward', but the given tokenizer reads forward")
    for path in (source.path, source.valid_path):
        if path is not None:
            check_exists(path)


def _tokenize_corpus(
    source: Source, folder: Path, processes: int, on_progress: Callable[[str, int], None] | None, overwrite: bool,
    shard_bytes: int,
) -> tuple[Corpus, dict[str, float]]:  # fmt: skip
    if (found := find_corpus(folder, source, overwrite)) is not None:  # which needs no permission to write
        return found, {}
    with locked_folder(folder):
        if (found := find_corpus(folder, source, overwrite)) is not None:
            return found, {}
        return _tokenize(source, folder, processes, on_progress, shard_bytes)


def find_corpus(folder: Path, source: Source, overwrite: bool) -> Corpus | None:
    """The corpus in a folder, if it is the one that is wanted. Raises InputError where it may not be replaced."""
    if (folder / "config.json").exists():
        raise InputError(f"{folder}: holds a model; choose another folder for the corpus")
    if not (folder / "train.tokens").exists():
        return None
    try:
        corpus = Corpus.load(folder)
        if corpus.source == source.description() or (source.made(corpus) and not overwrite):
            return corpus
        refusal = "holds a corpus of other texts or options"
    except InputError as error:
        refusal = f"holds a corpus that cannot be read ({error})"
    if not overwrite:
        raise InputError(f"{folder}: {refusal}; choose another folder or pass --overwrite")
    return None


def _tokenize(
    source: Source,
    folder: Path,
    processes: int,
    on_progress: Callable[[str, int], None] | None,
    shard_bytes: int,
) -> tuple[Corpus, dict[str, float]]:
    start = time.perf_counter()
    reading = Reading(source, on_progress)
    begun = begin_corpus(source, folder, reading, processes)
    tokenizer, unknown = begun.tokenizer, UnknownTokens(begun.tokenizer)

    def write(name: str, texts: Iterable[str]) -> TokenFile:
        ids = unknown.watch(parallel.encode(tokenizer, texts, processes))
        return write_token_file(folder / name, ids, len(tokenizer), begun.facts)

    if begun.facts["valid"]:  # before the training file, which says that it is there
        valid = reading.texts("tokenize", source.valid_path) if source.valid_path else reading.part("tokenize", True)
        write("valid.tokens", valid)
        if TokenFile(folder / "valid.tokens").offsets[-1] < 2:
            raise InputError(f"{shown_path(source.valid_path or source.path)}: the texts for validation are empty")
    train: TokenFile | ShardedTokens
    if shard_bytes:
        # Each group's ids are made when they are asked for, which they are not where its shard is there already.
        shards = (
            (check, unknown.watch(parallel.encode(tokenizer, group, processes)))
            for check, group in in_shards(begun.texts(), shard_bytes)
        )
        train = write_shards(folder / "train.tokens", shards, len(tokenizer), begun.facts)
    else:
        train = write("train.tokens", begun.texts())
        remove_shards(folder / "train.tokens")
    (folder / VOCABULARY).unlink(missing_ok=True)
    figures = {
        "megabytes": reading.bytes / 1e6, "seconds": time.perf_counter() - start, "documents": float(reading.documents),
        "tokens": float(train.offsets[-1]),
    }  # fmt: skip
    unknown.warn(shown_path(source.path))
    return Corpus.load(folder), figures
