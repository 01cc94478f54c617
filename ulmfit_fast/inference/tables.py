"""A file of texts to a table of predictions, in memory that does not grow with it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.files import Documents, draw, iterate_documents, take_documents
from ulmfit_fast.text.reading import ReadingNotice, ReadOptions, shown, shown_names
from ulmfit_fast.text.table_writer import TableWriter

# Documents and how many characters they have together; what is activated of each piece.
Predict = Callable[[Iterable[Documents], int], Generator[tuple[Documents, np.ndarray], None, None]]


@dataclass(frozen=True)
class Wanted:
    """What is read, and what is written of each text.

    Args:
        reading: how files are read.
        every_label: the probability of each label, too.
        abstain: no prediction where the confidence is below.
        max_texts, seed: so many texts drawn at random; None: all.
    """

    reading: ReadOptions = field(default_factory=ReadOptions)
    every_label: bool = False
    abstain: float | None = None
    max_texts: int | None = None
    seed: int = 0

    def check(self, task: Task, model: str, source: str) -> None:
        """Raises InputError where a task has nothing of the kind; the names are for messages."""
        added = task.columns(task.examples(), self.every_label)
        if self.abstain is not None and "confidence" not in added:
            raise InputError(f"--abstain: the task {task.type} of {model} has no confidence; leave it out")
        if self.every_label and not task.labels:
            raise InputError(f"--probabilities: the task {task.type} of {model} has none; leave it out")
        for name in set(added).intersection(self.reading.text_columns):
            raise InputError(
                f"--text-column {shown(name)}: predict writes a column of this name; rename it in {source}"
            )


def predict_table(source: Path, writer: TableWriter, task: Task, wanted: Wanted, predict: Predict) -> int:
    """Write the rows of a file with what is predicted of them. Returns how many.

    The file is read through once before, so that a faulty row, and what the output cannot hold, is found at the
    beginning. The output appears when all is written.

    Raises:
        InputError: the file cannot be read, or the output written.
    """
    examples = task.columns(task.examples(), wanted.every_label)
    added = list(examples)
    replaced: set[str] = set()

    def pieces() -> Iterator[Documents]:
        return iterate_documents(source, wanted.reading)

    def columns(piece: Documents) -> pd.DataFrame:
        table = pd.DataFrame({"text": piece.texts}) if piece.table is None else piece.table
        return table.drop(columns=added, errors="ignore")

    total = characters = 0
    for piece in pieces():
        if piece.table is not None:
            replaced.update(set(added).intersection(piece.table.columns))
        writer.expect(columns(piece))
        total += len(piece)
        characters += sum(map(len, piece.texts))
    if replaced:
        names = shown_names(sorted(replaced))
        warnings.warn(f"{source}: new columns take the place of its {names}", ReadingNotice, stacklevel=1)
    writer.expect(pd.DataFrame(examples))
    rows = draw(total, wanted.max_texts, wanted.seed)
    predicted = predict(take_documents(pieces(), rows), characters * len(rows) // total)
    with writer, contextlib.closing(predicted):
        for piece, activated in predicted:
            found = pd.DataFrame(task.columns(activated, wanted.every_label))
            if wanted.abstain is not None:
                certain = found["confidence"] >= wanted.abstain
                found["prediction"] = found["prediction"].astype(object).where(certain, None)
            writer.write(pd.concat([columns(piece), found], axis=1))
    return len(rows)
