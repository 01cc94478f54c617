"""Many texts on several cores: processes that each hold the models, and the rows in their order.

Threads within a layer share each step of a sequence, and wait for each other at its end. Of many short texts more can
be had by lanes, which wait for nobody: each process tokenizes and computes its own part of the rows. A text's result
depends neither on its batch nor on the number of threads, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ulmfit_fast.core.processes import available_processes, begin_worker, ordered_map
from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.prediction import MAX_TOKENS
from ulmfit_fast.text.files import Documents
from ulmfit_fast.text.unknown_tokens import UnknownTokens

WORTH_PROCESSES = 2_000_000  # characters: fewer are through before further processes have started
MOST_PROCESSES = 8  # unless more are asked for: each holds the models
_CHARACTERS = 200_000  # of the texts that a process takes at a time
_TEXTS = 2048


@dataclass(frozen=True)
class BulkOptions:
    """What each process loads, and how it computes.

    Args:
        folders, device, precision: as ``Classifiers.load``.
        batch_size, max_tokens: as ``predict_probabilities``.
        threads: of each process.
    """

    folders: tuple[Path, ...]
    device: str = "cpu"
    precision: str = "float32"
    batch_size: int = 64
    max_tokens: int = MAX_TOKENS
    threads: int = 1


class _Part(NamedTuple):
    """Consecutive texts of a piece; ``last``: the piece ends with them."""

    texts: list[str]
    last: bool


class _Found(NamedTuple):
    activated: np.ndarray
    tokens: int  # of all models
    known: list[tuple[int, float]]  # of each model: tokens, and those unknown


def processes_for(characters: int, device: str) -> int:
    """How many processes so much text is worth. On a GPU one."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return 1 if on_gpu or characters < WORTH_PROCESSES else min(available_processes(), MOST_PROCESSES)


def predict_in_processes(
    classifiers: Classifiers, options: BulkOptions, pieces: Iterable[Documents], characters: int, processes: int,
    progress: bool = False,
) -> Generator[tuple[Documents, np.ndarray], None, None]:  # fmt: skip
    """``predict_documents`` by several processes: the same pieces, in order, with the same bits. Memory is bounded.

    Args:
        classifiers: as loaded here, for messages; each process loads its own.
        options: of the processes.
        pieces: of a file.
        characters: of all pieces, to tell the time left.
        processes: at least one.
        progress: show a bar.

    Raises:
        InputError: as ``Classifiers.load`` and ``predict_documents``; or a process has ended.
    """
    unknown = [UnknownTokens(tokenizer) for _, tokenizer, _ in classifiers.members]
    waiting: list[Documents] = []

    def parts() -> Iterator[_Part]:
        for piece in pieces:
            waiting.append(piece)
            yield from _parts(piece.texts)

    read = tokens = 0
    with progress_bar("predict", 0, "tok", progress) as bar:
        found = ordered_map(_predict, parts(), processes, _start, (options,), "predicts")
        done: list[np.ndarray] = []
        for last, result in found:
            tokens += result.tokens
            for counts, (seen, strange) in zip(unknown, result.known, strict=True):
                counts.tokens += seen
                counts.unknown += strange
            done.append(result.activated)
            if last:
                piece = waiting.pop(0)
                read += sum(map(len, piece.texts))
                bar.total = round(tokens * max(characters / max(read, 1), 1))  # the rest is taken to be as what was
            bar.update(result.tokens)
            if last:
                yield piece, np.concatenate(done)
                done = []
    for each in unknown:
        each.warn("the texts")


def _parts(texts: list[str]) -> Iterator[_Part]:
    """A piece's texts in parts of a size that keeps all processes busy; of no text there is none."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and (len(part) == _TEXTS or size + len(text) > _CHARACTERS):
            yield _Part(part, False)
            part, size = [], 0
        part.append(text)
        size += len(text)
    yield _Part(part, True)


_options = BulkOptions(())
_classifiers: Classifiers | None = None  # a process's


def _start(options: BulkOptions) -> None:
    global _options
    begin_worker()
    torch.set_num_threads(options.threads)
    _options = options


def _predict(part: _Part) -> tuple[bool, _Found]:
    global _classifiers
    if _classifiers is None:  # here and not at the start, where an error would only end the process
        _classifiers = Classifiers.load(_options.folders, _options.device, _options.precision)
    counts = [UnknownTokens(tokenizer) for _, tokenizer, _ in _classifiers.members]
    activated = _classifiers.activated(part.texts, _options.batch_size, _options.max_tokens, counts)
    known = [(each.tokens, each.unknown) for each in counts]
    tokens = sum(each.tokens for each in counts) + len(part.texts) * len(counts)
    return part.last, _Found(activated, tokens, known)
