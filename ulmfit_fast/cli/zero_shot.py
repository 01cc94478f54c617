"""The command that classifies texts by words for the labels, without labelled texts or with few."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

import click
import numpy as np

from ulmfit_fast.cli import options
from ulmfit_fast.cli.device import device_option
from ulmfit_fast.cli.label_words import label_words, parse_label_words
from ulmfit_fast.core.console import say
from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.zero_shot import CALIBRATIONS, ZeroShotClassifier
from ulmfit_fast.inference.tables import Wanted, predict_table
from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.text.files import Documents, sample_texts
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.table_writer import TableWriter
from ulmfit_fast.training.trained import TrainedLanguageModel

_TO_CALIBRATE = 500  # texts


@click.command("zero-shot")
@click.argument("source", metavar="TEXTS", type=Path)
@click.option("--model", "folder", required=True, type=Path, help="folder of a language model, or the name of one")
@label_words(required=True, use="")
@click.option(
    "--calibration", default=CALIBRATIONS[0], type=click.Choice(CALIBRATIONS), show_default=True,
    help="take off what labels get with texts that say nothing, or on the mean over TEXTS",
)  # fmt: skip
@click.option(
    "--words", default=0, type=click.IntRange(min=0), help="read only so many words of a text, the last  [default: all]"
)
@click.option(
    "--train", "few", type=Path, help="table with a few labelled texts, to fine-tune the language model on first"
)
@click.option("--output", type=Path, help="table to write: .csv, .tsv, .jsonl or .parquet; - is standard output")
@click.option("--evaluate", is_flag=True, help="print scores: TEXTS is a table with labels")
@click.option("--overwrite", is_flag=True, help="replace the output file")
@options.reading_options()
@click.option("--label-column", default="label", show_default=True, help="of --train and --evaluate")
@options.max_texts
@options.batch_size
@device_option
@options.sample_seed
def zero_shot_command(
    source: Path, folder: Path, labels: tuple[str, ...], templates: tuple[str, ...], calibration: str, words: int,
    few: Path | None, output: Path | None, evaluate: bool, overwrite: bool, reading: ReadOptions, label_column: str,
    max_texts: int | None, batch_size: int, device: str, seed: int,
) -> None:  # fmt: skip
    """Classify texts by words for the labels.

    No labelled text is needed: each text is put into a template with a word for each label, and the language model says
    which sentence it expects most. With --evaluate, scores of that are printed; with --output, the table with what is
    predicted. With --train the model learns from a few such sentences first.

    Fine-tune the language model on such texts first (finetune-lm). Evaluate on a hundred labelled texts before you rely
    on it.
    """
    if output is None and not evaluate:
        raise InputError("zero-shot: give --output for predictions, or --evaluate for scores")
    options.refuse_unused_reading(reading, source, few)
    writer = None if output is None else TableWriter(output)
    if writer is not None and writer.output.exists() and not overwrite:
        raise InputError(f"{output}: exists; choose another file or pass --overwrite")
    trained = TrainedLanguageModel.load(members(find_pretrained(folder))[0])
    trained.model.to(choose_device(device))
    classifier = ZeroShotClassifier(
        trained, parse_label_words(labels), templates, calibration, words=words, batch_size=batch_size, progress=True
    )
    if few is not None:
        table = options.read_labelled(few, reading, (label_column,), None, None, seed)
        classifier.task_.encode_cells(table.labels or [], str(few), table.rows)
        classifier.fit(table.texts, table.labels or [])
        classifier.language_model.model.to(choose_device(device))
    if calibration == "texts":
        classifier.calibrate(sample_texts(source, _TO_CALIBRATE, seed, reading))
    if evaluate:
        documents = options.read_labelled(source, reading, (label_column,), None, max_texts, seed)
        targets = classifier.task_.encode_cells(documents.labels or [], str(source), documents.rows)
        say(classifier.task_.report(classifier.predict_proba(documents.texts), targets))
    if writer is None:
        return
    wanted = Wanted(reading, max_texts=max_texts, seed=seed)
    wanted.check(classifier.task_, str(folder), str(source))

    def predict(pieces: Iterable[Documents], characters: int) -> Generator[tuple[Documents, np.ndarray], None, None]:
        for piece in pieces:
            yield piece, classifier.predict_proba(piece.texts)

    rows = predict_table(source, writer, classifier.task_, wanted, predict)
    say(f"{rows} predictions in {output}", error=writer.output.is_direct)


COMMANDS = {"zero-shot": zero_shot_command}
