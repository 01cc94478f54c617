"""The commands that use and show models."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from ulmfit_fast.cli import options
from ulmfit_fast.cli.device import device_option, precision_option
from ulmfit_fast.cli.reports import ReportFiles
from ulmfit_fast.core.console import say
from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.processes import available_processes
from ulmfit_fast.inference.bulk import BulkOptions, predict_in_processes, processes_for
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.prediction import evaluate_language_model, predict_documents, predict_probabilities
from ulmfit_fast.inference.tables import Wanted, predict_table
from ulmfit_fast.nn.encoders import DEFAULT_ENCODER
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import load_classifier, load_language_model, read_config
from ulmfit_fast.storage.several_tables import tables_of
from ulmfit_fast.text.files import Documents, iterate_texts
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.table_writer import TableWriter
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import warn_of_unknown

LOCAL, RAY = "local", "ray"  # engines


def _prediction_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        options.sample_seed, device_option, precision_option, options.max_tokens, options.batch_size, options.max_texts,
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("predict")
@click.argument("source", metavar="TEXTS", type=Path)
@options.classifiers
@click.option(
    "--output", required=True, type=Path,
    help="table to write: .csv, .tsv, .jsonl or .parquet, compressed with .gz, .xz, .bz2 or .zst; - is standard output",
)  # fmt: skip
@click.option("--output-format", help="kind of a table whose name does not tell it, such as jsonl  [default: csv]")
@click.option("--overwrite", is_flag=True, help="replace the output file")
@click.option(
    "--probabilities", "all_classes", is_flag=True,
    help="a column for each class, too: probability:LABEL, in the order of the labels that info shows",
)  # fmt: skip
@click.option(
    "--abstain", type=click.FloatRange(0, 1), metavar="CONFIDENCE",
    help="write no label where the confidence is below; evaluate shows what each confidence costs",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(min=1),
    help="that predict, each with the models  [default: for much text a core each, at most 8; else 1]",
)  # fmt: skip
@click.option(
    "--engine", default=LOCAL, type=click.Choice((LOCAL, RAY)), show_default=True,
    help="ray: TEXTS is a folder of tables, --output a folder; a file each, on all machines of a Ray cluster",
)  # fmt: skip
@options.reading_options()
@_prediction_options
def predict_command(
    source: Path, folders: tuple[Path, ...], output: Path, output_format: str | None, overwrite: bool,
    all_classes: bool, abstain: float | None, processes: int | None, engine: str, reading: ReadOptions,
    max_texts: int | None, batch_size: int, max_tokens: int, precision: str, device: str, seed: int,
) -> None:  # fmt: skip
    """Predict the label of each of TEXTS.

    The output is the table with two more columns, prediction and confidence. Where texts have several labels or a
    number, there is the prediction alone: the labels with the model's delimiter between them, or the number. With
    --abstain the prediction of an uncertain text is empty. Columns of these names are replaced, but not the one with
    the texts.

    About 4,000 rows are held in memory at a time. TEXTS are read through once before, so that a faulty row is found at
    the beginning. The output appears when all is predicted, in UTF-8.

    With --engine ray each table of the folder TEXTS gets an output of its name in the folder --output. Files whose
    output is there are left out, so the same command goes on with a run that was interrupted.
    """
    wanted = Wanted(reading, all_classes, abstain, max_texts, seed)
    each = BulkOptions(folders, device, precision, batch_size, max_tokens)
    if engine == RAY:
        options.refuse_given(("output_format", "max_texts", "format", "split"), "--engine ray writes a file for each")
        _predict_folder(source, output, wanted, each, processes, overwrite)
        return
    options.refuse_unused_reading(reading, source)
    writer = TableWriter(output, output_format)
    if writer.output.exists() and not overwrite:
        raise InputError(f"{output}: exists; choose another file or pass --overwrite")
    classifiers = Classifiers.load(folders, device, precision)
    wanted.check(classifiers.task, str(folders[0]), str(source))

    def predict(pieces: Iterable[Documents], characters: int) -> Generator[tuple[Documents, np.ndarray], None, None]:
        count = processes or processes_for(characters, device)
        if count == 1:
            return predict_documents(
                classifiers.members, pieces, characters, batch_size, True, max_tokens, classifiers.precision
            )
        divided = replace(each, threads=max(1, available_processes() // count))
        return predict_in_processes(classifiers, divided, pieces, characters, count, True)

    rows = predict_table(source, writer, classifiers.task, wanted, predict)
    say(f"{rows} predictions in {output}", error=writer.output.is_direct)


def _predict_folder(
    source: Path, output: Path, wanted: Wanted, each: BulkOptions, processes: int | None, overwrite: bool
) -> None:
    from ulmfit_fast.inference.ray_engine import predict_folder

    done = predict_folder(source, output, wanted, each, processes, overwrite, progress=True)
    there = f"; {done.skipped} were there" if done.skipped else ""
    say(f"{done.rows} predictions in {done.files} file{'s' if done.files != 1 else ''} in {output}{there}")
    if done.faults:
        count = "a file was" if len(done.faults) == 1 else f"{len(done.faults)} files were"
        raise InputError(f"{count} not predicted; the same command goes on once that is mended: {done.faults[0]}")


@click.command("evaluate")
@click.argument("source", metavar="TABLE", type=Path)
@click.option(
    "--model", "folders", required=True, multiple=True, type=Path,
    help="folder of a language model or a classifier; of several classifiers the mean of their probabilities counts",
)  # fmt: skip
@click.option(
    "--report", "page", type=Path,
    help="write an HTML page, too: scores with intervals, confusion, calibration, the worst errors explained, times",
)  # fmt: skip
@click.option("--json", "json_file", type=Path, help="write what is found as JSON, too; - is standard output")
@click.option("--overwrite", is_flag=True, help="replace these files")
@options.reading_options()
@options.label_columns
@_prediction_options
def evaluate_command(
    source: Path, folders: tuple[Path, ...], page: Path | None, json_file: Path | None, overwrite: bool,
    reading: ReadOptions, label_columns: tuple[str, ...], max_texts: int | None, batch_size: int, max_tokens: int,
    precision: str, device: str, seed: int,
) -> None:  # fmt: skip
    """Measure a classifier or a language model.

    A classifier: the scores of its task on a TABLE of texts and labels. A language model: its perplexity on texts, in
    float32 over the whole text in one lane; of the options only --device and those on reading matter to it.
    """
    files = ReportFiles(page, json_file, overwrite)
    folders = tuple(member for folder in folders for member in members(find_pretrained(folder)))
    folder = folders[0]
    is_language_model = [read_config(each)["kind"] == "language_model" for each in folders]
    if any(is_language_model) and len(folders) > 1:
        raise InputError(
            f"{folders[is_language_model.index(True)]}: is a language model; give one alone (several --model are for "
            "classifiers)"
        )
    if is_language_model[0]:
        options.refuse_given(_OF_A_CLASSIFIER, f"{folder} is a language model, which reads the whole text in one lane")
        language_model, tokenizer = load_language_model(folder)
        language_model.to(choose_device(device))
        options.refuse_unused_reading(reading, source)
        report_perplexity(language_model, tokenizer, source, reading)
        return
    options.refuse_given(("split",), f"{folder} is a classifier, whose texts are rows of a table")
    options.refuse_unused_reading(reading, source)
    classifiers = Classifiers.load(folders, device, precision)
    task = classifiers.task
    documents = options.read_labelled(source, reading, label_columns, task.label_delimiter, max_texts, seed)
    targets = task.encode_cells(documents.labels or [], str(source), documents.rows)
    activated = [
        predict_probabilities(*classifier, documents.texts, batch_size, True, max_tokens, classifiers.precision)
        for classifier in classifiers.members
    ]
    if not files.to_standard_output:
        say(task.report(np.mean(activated, axis=0), targets))
    if files.wanted:
        files.write(classifiers, folders, documents, np.mean(activated, axis=0), targets)


@click.command("info")
@click.argument("folder", type=Path)
def info_command(folder: Path) -> None:
    """Show what a model FOLDER holds."""
    folder = find_pretrained(folder)
    for each in [folder / name for name in tables_of(folder)] or [folder]:
        for member in members(each):
            _show(member)


def _show(folder: Path) -> None:
    config, tokenizer = read_config(folder), Tokenizer.load(folder / "tokenizer.json")
    say(f"{folder}: {config['kind'].replace('_', ' ')}")
    say(f"  encoder: {config.get('encoder_type', DEFAULT_ENCODER)}")
    for section in ("encoder", "head"):
        for name, value in config.get(section, {}).items():
            say(f"  {section}.{name}: {value}")
    say(f"  reads texts: {tokenizer.direction}")
    if "precision" in config:
        say(f"  precision: {config['precision']}")
    if config["kind"] == "classifier":
        model, _, task = load_classifier(folder)
        say(f"  task: {task.type}")
        for name, value in task.settings().items():
            say(f"  task.{name}: {value}")
        say(f"  labels: {', '.join(map(str, task.labels))}")
        int8 = [buffer for buffer in model.buffers() if buffer.dtype == torch.int8]
        say(f"  parameters: {sum(x.numel() for x in (*model.parameters(), *int8)):,}")


_OF_A_CLASSIFIER = (
    "page",
    "json_file",
    "overwrite",
    "label_columns",
    "max_texts",
    "batch_size",
    "max_tokens",
    "precision",
    "seed",
)


def report_perplexity(
    model: LanguageModel, tokenizer: Tokenizer, source: Path, reading: ReadOptions, bptt: int = 70
) -> None:
    """Print a language model's perplexity on the texts of a file, read in one lane."""
    ids = list(tokenizer.encode(iterate_texts(source, reading)))
    warn_of_unknown(str(source), tokenizer, ids)
    loss = evaluate_language_model(model, ids, bptt, batch_size=1, progress=True)
    say(f"perplexity {math.exp(min(loss, 50)):.2f} (loss {loss:.4f}) on {sum(map(len, ids)) - 1:,} tokens")


COMMANDS = {command.name: command for command in (predict_command, evaluate_command, info_command)}
