"""A corpus made ready for a language model: tokenized once, in bounded memory, into files that later runs read from.

A corpus folder holds ``tokenizer.json``, ``train.tokens`` and, where some documents are held out, ``valid.tokens``.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.text import parallel
from ulmfit_fast.text.files import iterate_texts
from ulmfit_fast.text.inputs import borrowed_copies, can_be_read_again, check_exists, read_once, text_files
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.remote import shown_path
from ulmfit_fast.text.remote_corpus import local_corpus
from ulmfit_fast.text.rules import RULES_VERSION
from ulmfit_fast.text.shards import ShardedTokens, in_shards, open_tokens, remove_shards, write_shards
from ulmfit_fast.text.token_counts import TokenCounter
from ulmfit_fast.text.token_file import TokenCorpus, TokenFile, write_token_file
from ulmfit_fast.text.tokenizer import DIRECTIONS, KINDS, Tokenizer
from ulmfit_fast.text.unknown_tokens import UnknownTokens

_HELD_OUT = 20  # one document of so many is for validation


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


@dataclass(frozen=True)
class Source:
    """Files of text, and how to tokenize them.

    Args:
        path: a file or folder, as ``read_documents`` takes them.
        valid_path: for validation; where None, one document of twenty is held out (none of fewer than twenty).
        reading: where the texts are, and how the files are read.
        tokenizer: one of ``KINDS``.
        vocab_size: largest vocabulary.
        min_frequency: rarer words are unknown.
        seed: draws the held-out documents.
        given: a language model's tokenizer, to use as it is; the other settings of a tokenizer then mean nothing.
        direction: "forward", or "backward": texts are read from their end.
        rules_version: of the text rules that words are split by; older ones are for what goes on with an older model.
        base: a language model's tokenizer of words (of the kind ``tokenizer``), to go on with over the texts'
            vocabulary (``Tokenizer.over``); its direction and rules hold.
    """

    path: Path
    valid_path: Path | None = None
    reading: ReadOptions = field(default_factory=ReadOptions)
    tokenizer: str = "word"
    vocab_size: int = 60_000
    min_frequency: int = 3
    seed: int = 0
    given: Tokenizer | None = None
    direction: str = "forward"
    rules_version: int = RULES_VERSION
    base: Tokenizer | None = None

    def __post_init__(self) -> None:
        if self.base is not None:
            object.__setattr__(self, "direction", self.base.direction)
            object.__setattr__(self, "rules_version", self.base.rules_version)

    def description(self) -> dict[str, Any]:
        """All that the tokens depend on: equal descriptions, equal tokens."""
        rules_version = self.rules_version if self.given is None else self.given.rules_version
        return {
            "rules": rules_version, "tokenizers": tokenizers.__version__,
            "path": _identity(self.path), "valid_path": None if self.valid_path is None else _identity(self.valid_path),
            "seed": self.seed,
        } | self.reading.description() | (
            {"kind": self.tokenizer, "vocab_size": self.vocab_size, "min_frequency": self.min_frequency}
            | ({} if self.direction == "forward" else {"direction": self.direction})
            | ({} if self.base is None else {"base": zlib.crc32(self.base.to_json().encode())})
            if self.given is None else {"given": zlib.crc32(self.given.to_json().encode())}
        )  # fmt: skip

    def made(self, corpus: Corpus) -> bool:
        """Whether the corpus was made of just these files in just this way, be it with older text rules."""
        return corpus.source == self.description() | {"rules": corpus.source.get("rules")}


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
    if source.tokenizer not in KINDS:
        raise ValueError(f"tokenize_corpus: tokenizer must be one of {KINDS}, got {source.tokenizer!r}")
    if source.direction not in DIRECTIONS:
        raise ValueError(f"tokenize_corpus: direction must be one of {DIRECTIONS}, got {source.direction!r}")
    if source.given is not None and source.direction == "backward" and source.given.direction == "forward":
        raise ValueError("tokenize_corpus: direction is 'backward', but the given tokenizer reads forward")
    for path in (source.path, source.valid_path):
        if path is not None:
            check_exists(path)
    with read_once():  # by the readers, which go over the texts two or three times
        return _tokenize_corpus(source, folder, processes, on_progress, overwrite, shard_bytes)


def _tokenize_corpus(
    source: Source, folder: Path, processes: int, on_progress: Callable[[str, int], None] | None, overwrite: bool,
    shard_bytes: int,
) -> tuple[Corpus, dict[str, float]]:  # fmt: skip
    if (found := _find(folder, source, overwrite)) is not None:  # which needs no permission to write
        return found, {}
    with locked_folder(folder):
        if (found := _find(folder, source, overwrite)) is not None:
            return found, {}
        return _tokenize(source, folder, processes, on_progress, shard_bytes)


def _find(folder: Path, source: Source, overwrite: bool) -> Corpus | None:
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
    reading = _Reading(source, on_progress)
    tokenizer = _train(source, reading, processes)
    if reading.documents == 0:
        raise InputError(f"{shown_path(source.path)}: holds no text")
    holds_out = source.valid_path is None and reading.documents >= _HELD_OUT
    has_valid = holds_out or source.valid_path is not None
    megabytes = reading.bytes / 1e6
    (folder / "train.tokens").unlink(missing_ok=True)  # until the new one is there the folder is no corpus
    write_atomically(folder / "tokenizer.json", tokenizer.to_json())
    facts = {"tokenizer": zlib.crc32(tokenizer.to_json().encode()), "source": source.description()}

    unknown = UnknownTokens(tokenizer)

    def write(name: str, texts: Iterable[str]) -> TokenFile:
        ids = unknown.watch(parallel.encode(tokenizer, texts, processes))
        return write_token_file(folder / name, ids, len(tokenizer), facts | {"valid": has_valid})

    if has_valid:  # before the training file, which says that it is there
        valid = reading.texts("tokenize", source.valid_path) if source.valid_path else reading.part("tokenize", True)
        write("valid.tokens", valid)
        if TokenFile(folder / "valid.tokens").offsets[-1] < 2:
            raise InputError(f"{shown_path(source.valid_path or source.path)}: the texts for validation are empty")
    texts = reading.part("tokenize", False) if holds_out else reading.texts("tokenize")
    train: TokenFile | ShardedTokens
    if shard_bytes:
        # Each group's ids are made when they are asked for, which they are not where its shard is there already.
        shards = (
            (check, unknown.watch(parallel.encode(tokenizer, group, processes)))
            for check, group in in_shards(texts, shard_bytes)
        )
        train = write_shards(folder / "train.tokens", shards, len(tokenizer), facts | {"valid": has_valid})
    else:
        train = write("train.tokens", texts)
        remove_shards(folder / "train.tokens")
    figures = {
        "megabytes": megabytes, "seconds": time.perf_counter() - start, "documents": float(reading.documents),
        "tokens": float(train.offsets[-1]),
    }  # fmt: skip
    unknown.warn(shown_path(source.path))
    return Corpus.load(folder), figures


class _Reading:
    """The source's texts, again and again; counts what was read."""

    def __init__(self, source: Source, on_progress: Callable[[str, int], None] | None) -> None:
        self.source = source
        self.on_progress = on_progress
        self.documents = self.bytes = 0

    def texts(self, title: str, path: Path | None = None) -> Iterator[str]:
        for text in iterate_texts(path or self.source.path, self.source.reading):
            if self.on_progress is not None:
                self.on_progress(title, len(text.encode()))
            yield text

    def part(self, title: str, held_out: bool) -> Iterator[str]:
        """The documents that are held out, or the others."""
        random, chosen, seen = np.random.default_rng(self.source.seed), 0, 0
        for text in self.texts(title):
            is_chosen = False
            if text.strip():  # one of each twenty that hold text
                if seen % _HELD_OUT == 0:
                    chosen = int(random.integers(_HELD_OUT))
                is_chosen = seen % _HELD_OUT == chosen
                seen += 1
            if is_chosen == held_out:
                yield text

    def counted(self, title: str) -> Iterator[str]:
        self.documents = self.bytes = 0
        for text in self.texts(title):
            self.documents += bool(text.strip())
            self.bytes += len(text.encode())
            yield text


def _train(source: Source, reading: _Reading, processes: int) -> Tokenizer:
    if source.given is not None:
        for _ in reading.counted("count"):
            pass
        return source.given
    texts, limits = reading.counted("vocabulary"), (source.vocab_size, source.min_frequency)
    if source.tokenizer == "word":
        counts = parallel.count_tokens(texts, TokenCounter(source.rules_version), processes)
        if source.base is not None:
            return source.base.over(counts, *limits)
        tokenizer = Tokenizer.from_counts(counts, *limits, source.rules_version)
    elif source.tokenizer == "spacy":
        from ulmfit_fast.text.spacy_tokenizer import SpacyTokenizer  # an extra

        base = source.base or SpacyTokenizer([])
        counts = parallel.count_tokens(texts, base, processes)
        if source.base is not None:
            return source.base.over(counts, *limits)
        tokenizer = SpacyTokenizer.from_counts(counts, *limits)
    else:
        tokenizer = Tokenizer.train(source.tokenizer, texts, *limits)
    return tokenizer.reading(source.direction)


def _identity(path: Path) -> list[Any]:
    """A file's path, size and time of change; a folder's: of all its files, as one number.

    A pipe's and an address's: of the bytes.
    """
    if not can_be_read_again(path):
        with borrowed_copies() as copies:
            copy = copies.regular(path)
            if not copy.is_dir():
                return [shown_path(path), *_size_and_check(copy)]
            of_each = [(str(file.relative_to(copy)), *_size_and_check(file)) for file in text_files(copy)]
            return [shown_path(path), len(of_each), zlib.crc32(repr(of_each).encode())]
    if path.is_file():
        status = path.stat()
        return [str(path.resolve()), status.st_size, status.st_mtime_ns]
    files = [(str(f.relative_to(path)), *_identity(f)[1:]) for f in text_files(path)]
    return [str(path.resolve()), len(files), zlib.crc32(repr(files).encode())]


def _size_and_check(path: Path) -> tuple[int, int]:
    check = 0
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            check = zlib.crc32(data, check)
        return file.tell(), check
