"""The command that learns from its own labels of unlabelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli import options
from ulmfit_fast.cli.label_words import label_words, parse_label_words
from ulmfit_fast.cli.labelled_tables import LabelledTables
from ulmfit_fast.cli.training import print_epoch
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.self_train import metric_of, self_train
from ulmfit_fast.storage.both_directions import has_both, members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.tasks.labels import shown
from ulmfit_fast.text.files import iterate_documents
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.training.config import OF_A_NEW_MODEL, ClassifierConfig
from ulmfit_fast.training.self_training import Round, SelfTrainingConfig


@click.command("self-train")
@click.argument("source", metavar="TABLE", type=Path)
@click.option(
    "--unlabeled", required=True, multiple=True, type=Path,
    help="texts without labels, like those to classify; may be given more than once",
)  # fmt: skip
@click.option(
    "--model", "bases", multiple=True, type=Path,
    help="folder of a language model, or of a classifier to go on with; given more than once, or of both directions, "
    "there are several models, which label together; without it, from scratch",
)  # fmt: skip
@click.option(
    "--weak-column", "weak_columns", multiple=True, metavar="NAME[=RIGHT]",
    help="column of --unlabeled with labels of another source, or nothing where it has none; =0.8: it is right 8 times "
    "of 10; without it that is found by how three sources or more agree",
)  # fmt: skip
@label_words(
    required=False, use="; a probe then learns from how much the language model expects them, and labels first"
)
@click.option("--valid", type=Path, help="table to measure on; the best epoch and the best round are kept")
@options.valid_fraction
@options.output
@options.overwrite
@options.reading_options()
@options.label_columns
@options.max_texts
@options.config_options(SelfTrainingConfig, "how")
@options.config_options(ClassifierConfig)
def self_train_command(
    source: Path, unlabeled: tuple[Path, ...], bases: tuple[Path, ...], weak_columns: tuple[str, ...],
    labels: tuple[str, ...], templates: tuple[str, ...], valid: Path | None, valid_fraction: float | None,
    output: Path, overwrite: bool, reading: ReadOptions, label_columns: tuple[str, ...], max_texts: int | None,
    how: SelfTrainingConfig, config: ClassifierConfig,
) -> None:  # fmt: skip
    """Train a classifier on labels, and on its own.

    A probe of the language model and a classifier learn from a labelled TABLE (see --first). Then, --rounds times, they
    label the texts of --unlabeled, and a new classifier is trained on TABLE and the labels that they are sure of. It
    takes the last one's place. The other options are those of train.

    Fine-tune the language model on all texts first (finetune-lm): it gives most of what unlabelled texts can give.
    """
    if bases:
        options.refuse_given(OF_A_NEW_MODEL, f"the model {bases[0]} has settled it; leave it out")
    options.refuse_unused_rates(config)
    words = parse_label_words(labels) or None
    if words is None:
        options.refuse_given(("templates",), "no --label has words to put into it")
    check_output_folder(output, overwrite)
    options.refuse_unused_reading(reading, source, *unlabeled, valid)
    tables = LabelledTables(source, reading, label_columns, max_texts, valid, valid_fraction)
    documents, held_out = tables.read(config, members(find_pretrained(bases[0]))[0] if bases else None)
    texts, weak, right = _read_unlabeled(unlabeled, reading, weak_columns)
    trained = self_train(
        documents.texts, documents.labels or [], texts, bases or None, how, config,
        label_words=words, templates=templates if words else None, weak_labels=weak or None, accuracies=right,
        valid_texts=None if held_out is None else held_out.texts,
        valid_labels=None if held_out is None else held_out.labels,
        output=output, overwrite=overwrite, on_epoch=print_epoch,
        on_round=lambda done: _print_round(done, metric_of(config)),
    )  # fmt: skip
    models = " and ".join(map(str, trained.folders))
    apart = len(trained.folders) > 1 and not has_both(output)
    together = "; predict with a --model for each" if apart else ""
    say(f"model, history and curves in {models}{together}")


def _read_unlabeled(
    paths: Sequence[Path], reading: ReadOptions, weak_columns: Sequence[str]
) -> tuple[list[str], dict[str, list[str | None]], dict[str, float]]:
    """The texts, what each source says of each, and how often sources are right that are given with it."""
    right: dict[str, float] = {}
    names = []
    for given in weak_columns:
        name, equals, value = given.rpartition("=")
        try:
            right |= {name: float(value)} if equals else {}
        except ValueError:
            raise InputError(
                f"--weak-column {shown(given)}: after = stands how often it is right, such as 0.8"
            ) from None
        names.append(name if equals else given)
    texts: list[str] = []
    weak: dict[str, list[str | None]] = {name: [] for name in names}
    for path in paths:
        for piece in iterate_documents(path, reading):
            texts += piece.texts
            for name, said in weak.items():
                if piece.table is None or name not in piece.table.columns:
                    raise InputError(f"--weak-column: {path} has no column {shown(name)}")
                said += [_label(cell) for cell in piece.table[name]]
    return texts, weak, right


def _label(cell: Any) -> str | None:
    """A weak label; None for an empty cell."""
    return None if cell is None or cell != cell or str(cell) == "" else str(cell)


def _print_round(done: Round, metric: str) -> None:
    parts = [f"round {done.number}"]
    for place, taken in enumerate(done.taken, 1):
        which = f" of model {place}" if len(done.taken) > 1 else ""
        parts.append(f"labels taken{which}: " + (", ".join(f"{k} {v:,}" for k, v in taken.items()) or "none"))
    if done.score is not None:
        parts.append(f"{metric.replace('_', ' ')} on the validation texts {abs(done.score):.4f}")
    say("; ".join(parts), error=True)


COMMANDS = {"self-train": self_train_command}
