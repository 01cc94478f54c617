"""The command that fits a linear classifier on what a language model has read."""

from __future__ import annotations

from pathlib import Path

import click

from ulmfit_fast.cli import options
from ulmfit_fast.cli.label_words import label_words, parse_label_words
from ulmfit_fast.cli.labelled_tables import LabelledTables
from ulmfit_fast.cli.training import measured
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.train_linear import LinearConfig, train_linear
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.text.files import iterate_texts
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.training.config import ClassifierConfig


@click.command("train-linear")
@click.argument("source", metavar="TABLE", type=Path)
@click.option(
    "--model", "language_model", required=True, type=Path,
    help="folder of a language model, or the name of an installed one, such as en",
)  # fmt: skip
@click.option(
    "--unlabeled", multiple=True, type=Path,
    help="texts without labels, like those to classify; may be given more than once",
)  # fmt: skip
@label_words(required=False, use="; they teach with the texts of --unlabeled, a thousand or more")
@click.option("--valid", type=Path, help="table to measure on, and to make probabilities honest by")
@options.valid_fraction
@options.output
@options.overwrite
@options.reading_options()
@options.label_columns
@options.max_texts
@options.config_options(LinearConfig)
def train_linear_command(
    source: Path, language_model: Path, unlabeled: tuple[Path, ...], labels: tuple[str, ...],
    templates: tuple[str, ...], valid: Path | None, valid_fraction: float | None, output: Path, overwrite: bool,
    reading: ReadOptions, label_columns: tuple[str, ...], max_texts: int | None, config: LinearConfig,
) -> None:  # fmt: skip
    """Train a linear classifier on a labelled TABLE.

    The language model stays as it is; what it has read of a text, its last, largest and mean state, is what the
    classifier learns from. Once the texts are read that takes seconds. With tens or hundreds of labels and long texts
    it is often better than train. Fine-tune the language model on all texts first (finetune-lm).

    With --label, words stand for the labels. A classifier that knows how much the language model expects them after a
    text labels the texts of --unlabeled, and the linear one learns from these labels, too.

    Every command takes what comes of it: predict, explain, serve, train --model, ...
    """
    words = parse_label_words(labels) or None
    if words is None:
        options.refuse_given(("templates",), "no --label has words to put into it")
    if not unlabeled:
        options.refuse_given(("pool",), "no --unlabeled has texts to read")
        if words is not None:
            raise InputError("--label teaches with texts that have no label; name some with --unlabeled")
    check_output_folder(output, overwrite)
    options.refuse_unused_reading(reading, source, *unlabeled, valid)
    tables = LabelledTables(source, reading, label_columns, max_texts, valid, valid_fraction)
    documents, held_out = tables.read(ClassifierConfig(**config.shared()), None)
    trained = train_linear(
        documents.texts, documents.labels or [], language_model, config,
        unlabeled=[text for path in unlabeled for text in iterate_texts(path, reading)],
        label_words=words, templates=templates if words else None,
        valid_texts=None if held_out is None else held_out.texts,
        valid_labels=None if held_out is None else held_out.labels,
        output=output, overwrite=overwrite,
    )  # fmt: skip
    say(f"linear classifier: {measured(trained.history.records[0])}", error=True)
    say(f"model and history in {output}")


COMMANDS = {"train-linear": train_linear_command}
