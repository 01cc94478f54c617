"""The command that says which texts to label next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from ulmfit_fast.cli import options
from ulmfit_fast.cli.device import device_option
from ulmfit_fast.core.console import say
from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.active_learning import (
    BOTH,
    K_MEANS,
    MARGIN,
    RANDOM,
    SPREAD,
    STRATEGIES,
    Suggestions,
    first_of_each,
    suggest,
)
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.pooled_vectors import language_model_vectors, vectors_and_predictions
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import load_language_model, read_config
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.files import Documents, draw, iterate_documents
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.table_writer import TableWriter
from ulmfit_fast.text.tokenizer import Tokenizer


@click.command("suggest")
@click.argument("source", metavar="TEXTS", type=Path)
@click.option(
    "--model", "folders", required=True, multiple=True, type=Path,
    help="folder of a classifier, or of several, whose mean counts; or of a language model while there is no label yet",
)  # fmt: skip
@click.option(
    "--output", required=True, type=Path, help="table to write and to fill in: .csv, .tsv, .jsonl or .parquet"
)
@click.option("--overwrite", is_flag=True, help="replace the output file")
@click.option("--count", default=50, type=click.IntRange(min=1), show_default=True, help="texts to suggest")
@click.option(
    "--strategy", type=click.Choice(STRATEGIES),
    help="entropy, margin: what the classifier is least sure of; disagreement: of several classifiers; core-set, "
    "k-means++: texts unlike each other and unlike labelled ones; margin-spread: unsure and unlike each other  "
    "[default: margin with a classifier, k-means++ with a language model or where numbers are predicted]",
)  # fmt: skip
@click.option(
    "--labeled", multiple=True, type=Path,
    help="table with texts that have labels already: they are not suggested, nor what is like them",
)  # fmt: skip
@click.option(
    "--label-column",
    default="label",
    show_default=True,
    help="column to fill in; where TEXTS has it, rows with a label count as labelled",
)
@options.reading_options()
@options.max_texts
@options.batch_size
@device_option
@options.sample_seed
def suggest_command(
    source: Path, folders: tuple[Path, ...], output: Path, overwrite: bool, count: int, strategy: str | None,
    labeled: tuple[Path, ...], label_column: str, reading: ReadOptions, max_texts: int | None, batch_size: int,
    device: str, seed: int,
) -> None:  # fmt: skip
    """Choose the texts to label next.

    The output has a row for each, the most useful first, with an empty column for the label. Fill it in, add it to the
    labelled texts, train again, and ask again. Equal texts are suggested once.

    All of TEXTS is read; --max-texts draws some of them where that takes too long.
    """
    options.refuse_unused_reading(reading, source, *labeled)
    writer = TableWriter(output)
    if writer.output.exists() and not overwrite:
        raise InputError(f"{output}: exists; choose another file or pass --overwrite")
    reader = _Reader.load(folders, device, batch_size)
    task = reader.task
    tells = task is not None and not task.predicts_numbers  # of numbers nobody knows how unsure they are
    strategy = strategy or (MARGIN if tells else K_MEANS)
    if task is not None and not tells and strategy not in (*SPREAD, RANDOM):
        raise InputError(f"--strategy {strategy}: the task {task.type} tells no uncertainty; use {SPREAD[0]}")
    pool, rows, known = _split(source, reading, label_column)
    for path in labeled:
        known += [text for piece in iterate_documents(path, reading) for text in piece.texts]
    fresh = first_of_each(pool, known)
    if not len(fresh):
        raise InputError(f"{source}: every text has a label already, or is blank; there is nothing to suggest")
    fresh = fresh[draw(len(fresh), max_texts, seed)]
    texts = [pool[i] for i in fresh.tolist()]
    vectors, activated = reader.read(texts)
    apart = strategy in (*SPREAD, *BOTH)
    labelled = reader.read(known)[0] if known and apart else None
    several = task is not None and task.label_delimiter is not None
    found = suggest(
        strategy, count, activated=activated, vectors=vectors, labelled=labelled, several=several, seed=seed
    )
    table = _table(found, texts, [rows[i] for i in fresh.tolist()], activated, task, reading, label_column)
    writer.expect(table)
    with writer:
        writer.write(table)
    say(f"{len(found.rows)} of {len(texts)} texts by {strategy} in {output}; fill in {label_column}")


@dataclass(frozen=True)
class _Reader:
    """What reads the texts: classifiers, or a language model."""

    classifiers: Classifiers | None
    language_model: tuple[LanguageModel, Tokenizer] | None
    batch_size: int

    @classmethod
    def load(cls, folders: tuple[Path, ...], device: str, batch_size: int) -> _Reader:
        found = [member for folder in folders for member in members(find_pretrained(folder))]
        kinds = {read_config(folder)["kind"] for folder in found}
        if kinds == {"language_model"}:
            model, tokenizer = load_language_model(found[0])
            if len(folders) > 1:
                raise InputError(f"{folders[0]}: is a language model; give one alone (several --model are classifiers)")
            return cls(None, (model.to(choose_device(device)), tokenizer), batch_size)
        return cls(Classifiers.load(folders, device), None, batch_size)

    @property
    def task(self) -> Task | None:
        return None if self.classifiers is None else self.classifiers.task

    def read(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
        """Vectors, and what is activated by each classifier; None where there is none."""
        if self.language_model is not None:
            return language_model_vectors(*self.language_model, texts, self.batch_size, True), None
        assert self.classifiers is not None
        return vectors_and_predictions(self.classifiers, texts, self.batch_size, True)


def _split(source: Path, reading: ReadOptions, label_column: str) -> tuple[list[str], list[int], list[str]]:
    """Texts without a label, their rows in the file, and texts that have one."""
    texts, rows, known = [], [], []

    def has_label(piece: Documents, place: int) -> bool:
        if piece.table is None or label_column not in piece.table.columns:
            return False
        cell = piece.table[label_column].iloc[place]
        return not (cell is None or (not isinstance(cell, list | tuple | np.ndarray) and (cell != cell or cell == "")))

    for piece in iterate_documents(source, reading):
        for place, text in enumerate(piece.texts):
            if has_label(piece, place):
                known.append(text)
            else:
                texts.append(text)
                rows.append(piece.rows[place])
    return texts, rows, known


def _table(
    found: Suggestions, texts: list[str], rows: list[int], activated: np.ndarray | None, task: Task | None,
    reading: ReadOptions, label_column: str,
) -> pd.DataFrame:  # fmt: skip
    """The suggestions as they are written; the text has the name of the column that it came from."""
    chosen = found.rows.tolist()
    columns: dict[str, Any] = {
        "row": [rows[i] for i in chosen],
        reading.text_columns[0] if len(reading.text_columns) == 1 else "text": [texts[i] for i in chosen],
        label_column: [""] * len(chosen),
    }
    if task is not None and activated is not None:
        columns |= task.columns(activated.mean(0)[found.rows])
    return pd.DataFrame(columns | {"score": found.scores.round(6)})


COMMANDS = {"suggest": suggest_command}
