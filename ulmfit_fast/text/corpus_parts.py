"""A corpus tokenized by hand on several machines: the vocabulary first, then each its part of the shards.

Each part reads all of the texts and tokenizes every n-th shard, so no one need tell another anything but the number of
its part. The folder is one that all of them reach. ``tokenize_corpus`` finds the shards there and joins them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.text import parallel
from ulmfit_fast.text.corpus import check_source, find_corpus
from ulmfit_fast.text.corpus_source import Reading, Source, begin_corpus
from ulmfit_fast.text.inputs import read_once
from ulmfit_fast.text.shards import in_shards, write_shard

_OF_SHARDS = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Part:
    """What one run does of a corpus: its vocabulary, or the shards number ``index`` - 1, ``index`` - 1 + ``count``, ...

    Args:
        index: from 1; 0: the vocabulary.
        count: of parts.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Of "vocabulary", or "3/10". Raises InputError."""
        if text == "vocabulary":
            return cls(0, 0)
        found = _OF_SHARDS.fullmatch(text)
        part = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= part.index <= part.count:
            raise InputError(f"--part must be vocabulary, or a number of how many, such as 3/10, got {text!r}")
        return part


def tokenize_part(
    source: Source,
    folder: str | Path,
    part: Part,
    shard_bytes: int,
    processes: int = 1,
    on_progress: Callable[[str, int], None] | None = None,
    overwrite: bool = False,
) -> int:
    """One run of several that tokenize a corpus together; the last is ``tokenize_corpus`` with the same arguments.

    Shards that are there already are left as they are, so a part that was interrupted is started again.

    Args:
        source, folder, shard_bytes, processes, on_progress, overwrite: as ``tokenize_corpus``; the same in all runs.
        part: which.

    Returns:
        How many shards the part has, those included that were there; 0 for the vocabulary, or if the corpus is there.

    Raises:
        InputError: as ``tokenize_corpus``; no vocabulary of these texts; another run writes the same shard.
    """
    folder = Path(folder)
    if shard_bytes <= 0:
        raise InputError("--part goes with --shard-mb: the shards are what the parts divide")
    check_source(source)
    with read_once():
        if find_corpus(folder, source, overwrite) is not None:
            return 0
        reading = Reading(source, on_progress)
        if part.count == 0:
            with locked_folder(folder):
                begin_corpus(source, folder, reading, processes)
            return 0
        begun = begin_corpus(source, folder, reading, processes, make=False)
        shards = 0
        for number, (check, group) in enumerate(in_shards(begun.texts(), shard_bytes)):
            if number % part.count == part.index - 1:
                ids = parallel.encode(begun.tokenizer, group, processes)
                write_shard(folder / "train.tokens", number, check, ids, len(begun.tokenizer), begun.facts)
                shards += 1
        return shards
