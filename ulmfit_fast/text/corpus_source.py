"""What a corpus is made of: files of text, how they are read, and the vocabulary that comes of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from ulmfit_fast.core.atomic_write import write_all_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text import parallel
from ulmfit_fast.text.files import iterate_texts
from ulmfit_fast.text.inputs import borrowed_copies, can_be_read_again, text_files
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.remote import shown_path
from ulmfit_fast.text.rules import RULES_VERSION
from ulmfit_fast.text.token_counts import TokenCounter
from ulmfit_fast.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ulmfit_fast.text.corpus import Corpus

HELD_OUT = 20  # one document of so many is for validation
VOCABULARY = "vocabulary.json"  # of a corpus folder that is being made: what texts its tokenizer was made of


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


class Reading:
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
                if seen % HELD_OUT == 0:
                    chosen = int(random.integers(HELD_OUT))
                is_chosen = seen % HELD_OUT == chosen
                seen += 1
            if is_chosen == held_out:
                yield text

    def counted(self, title: str) -> Iterator[str]:
        self.documents = self.bytes = 0
        for text in self.texts(title):
            self.documents += bool(text.strip())
            self.bytes += len(text.encode())
            yield text


@dataclass(frozen=True)
class Begun:
    """A corpus whose vocabulary is settled.

    Args:
        tokenizer: that of the corpus.
        facts: what its token files are made from, for them to be recognised by.
        texts: gives the texts to train on.
    """

    tokenizer: Tokenizer
    facts: dict[str, Any]
    texts: Callable[[], Iterator[str]]


def begin_corpus(source: Source, folder: Path, reading: Reading, processes: int, make: bool = True) -> Begun:
    """Settle the vocabulary of a corpus in its folder; of one that was begun before and not finished, take it over.

    Until its token files are written again the folder is no corpus. ``make`` False: only take over.

    Raises:
        InputError: no text; nothing to take over where nothing is to be made.
    """
    tokenizer = _settled_before(source, folder, reading)
    if tokenizer is None:
        if not make:
            raise InputError(
                f"{folder}: has no vocabulary of these texts and options; make it first: the same command with --part "
                "vocabulary"
            )
        tokenizer = make_tokenizer(source, reading, processes)
        if reading.documents == 0:
            raise InputError(f"{shown_path(source.path)}: holds no text")
        counted = {"source": source.description(), "documents": reading.documents, "bytes": reading.bytes}
        text = tokenizer.to_json()
        (folder / "train.tokens").unlink(missing_ok=True)
        described = counted | {"tokenizer": zlib.crc32(text.encode())}
        write_all_atomically(folder, {"tokenizer.json": text, VOCABULARY: json.dumps(described)})
    holds_out = source.valid_path is None and reading.documents >= HELD_OUT
    facts = {
        "tokenizer": zlib.crc32((folder / "tokenizer.json").read_bytes()), "source": source.description(),
        "valid": holds_out or source.valid_path is not None,
    }  # fmt: skip
    texts = (lambda: reading.part("tokenize", False)) if holds_out else (lambda: reading.texts("tokenize"))
    return Begun(tokenizer, facts, texts)


def _settled_before(source: Source, folder: Path, reading: Reading) -> Tokenizer | None:
    """The tokenizer that an unfinished run over just these texts has made, if all of it is there."""
    try:
        known = json.loads((folder / VOCABULARY).read_bytes())
        wanted = json.loads(json.dumps(source.description()))
        check = zlib.crc32((folder / "tokenizer.json").read_bytes())
        if known["source"] != wanted or known["tokenizer"] != check:
            return None
        reading.documents, reading.bytes = int(known["documents"]), int(known["bytes"])
        return Tokenizer.load(folder / "tokenizer.json")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError):
        return None


def make_tokenizer(source: Source, reading: Reading, processes: int) -> Tokenizer:
    """The tokenizer of a source, for which all its texts are read once, and counted."""
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
