"""The command that finds labels which are probably wrong."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd

from ulmfit_fast.cli import options
from ulmfit_fast.cli.labelled_tables import LabelledTables
from ulmfit_fast.cli.training import print_epoch
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.check_labels import CheckedLabels, check_labels
from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.table_writer import TableWriter
from ulmfit_fast.training.config import OF_A_NEW_MODEL, ClassifierConfig

_SHOWN = 5  # confusions


@click.command("check-labels")
@click.argument("source", metavar="TABLE", type=Path)
@click.option("--model", "language_model", type=Path, help="folder of a language model; without it, from scratch")
@click.option("--output", required=True, type=Path, help="table of suspects: .csv, .tsv, .jsonl or .parquet")
@click.option("--overwrite", is_flag=True, help="replace the output file")
@click.option(
    "--folds", default=5, type=click.IntRange(min=2), show_default=True,
    help="trainings, each without a part of TABLE that it then predicts",
)  # fmt: skip
@options.reading_options(split=False)
@options.label_columns
@options.max_texts
@options.config_options(ClassifierConfig)
def check_labels_command(
    source: Path, language_model: Path | None, output: Path, overwrite: bool, folds: int, reading: ReadOptions,
    label_columns: tuple[str, ...], max_texts: int | None, config: ClassifierConfig,
) -> None:  # fmt: skip
    """Find labels of TABLE that are probably wrong.

    Each part of TABLE is predicted by a classifier that was trained on the others. Labels that such classifiers find
    much less probable than texts with that label mostly are, are suspects, as are different labels of equal texts. The
    output has a row for each, the most suspicious first. Look at them; many will be right. The other options are those
    of train.
    """
    if language_model is not None:
        options.refuse_given(OF_A_NEW_MODEL, f"the language model {language_model} has settled it; leave it out")
        language_model = members(find_pretrained(language_model))[0]
    options.refuse_unused_rates(config)
    options.refuse_unused_reading(reading, source)
    writer = TableWriter(output)
    if writer.output.exists() and not overwrite:
        raise InputError(f"{output}: exists; choose another file or pass --overwrite")
    documents, _ = LabelledTables(source, reading, label_columns, max_texts).read(config, language_model)
    found = check_labels(
        documents.texts, documents.labels or [], language_model, config, folds=folds, on_epoch=print_epoch,
        on_fold=lambda done, of: say(f"fold {done} of {of} is through", error=True),
    )  # fmt: skip
    table = pd.DataFrame({
        "row": [documents.rows[suspect.place] for suspect in found.suspects],
        reading.text_columns[0] if len(reading.text_columns) == 1 else "text": [
            documents.texts[suspect.place] for suspect in found.suspects
        ],
        label_columns[0]: [suspect.label for suspect in found.suspects],
        "likely": [suspect.likely for suspect in found.suspects],
        "probability": np.array([suspect.probability for suspect in found.suspects], np.float64).round(6),
        "probability_of_likely": np.array(
            [suspect.likely_probability for suspect in found.suspects], np.float64
        ).round(6),
        "reason": [suspect.reason for suspect in found.suspects],
    })  # fmt: skip
    writer.expect(table)
    with writer:
        writer.write(table)
    _summarize(found, len(documents), output)


def _summarize(found: CheckedLabels, texts: int, output: Path) -> None:
    say(f"{len(found.suspects)} of {texts} labels in {output}; about {found.share:.1%} are estimated to be wrong")
    off = found.joint - np.diag(np.diag(found.joint))
    order = np.argsort(-off, axis=None, kind="stable")[:_SHOWN]
    for place in order.tolist():
        given, likely = divmod(place, len(found.labels))
        if off[given, likely] > 0:
            say(f"  labelled {found.labels[given]}, rather {found.labels[likely]}: about {off[given, likely]:.1%}")


COMMANDS = {"check-labels": check_labels_command}
