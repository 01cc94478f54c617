"""The commands that use and show models."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch

from ulmfit_fast.cli import options
from ulmfit_fast.core.console import say
from ulmfit_fast.core.device import DEVICES, PRECISIONS, choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.prediction import evaluate_language_model, predict_documents, predict_probabilities
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import load_classifier, load_language_model, read_config
from ulmfit_fast.tasks.labels import Label, encode_labels
from ulmfit_fast.text.files import Documents, draw, iterate_documents, iterate_texts, take_documents
from ulmfit_fast.text.reading import ReadingNotice, ReadOptions, shown, shown_names
from ulmfit_fast.text.table_writer import TableWriter
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import warn_of_unknown

_device = click.option(
    "--device", default="auto", type=click.Choice(DEVICES), show_default=True, help="auto: a GPU where there is one"
)
_precision = click.option(
    "--precision", default="float32", type=click.Choice((*PRECISIONS, "int8")), show_default=True,
    help="bfloat16: faster where the processor has it, by autocast; int8: the fastest, on the CPU alone",
)  # fmt: skip


def _prediction_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        options.sample_seed, _device, _precision, options.max_tokens, options.batch_size, options.max_texts,
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
@options.reading_options()
@_prediction_options
def predict_command(
    source: Path, folders: tuple[Path, ...], output: Path, output_format: str | None, overwrite: bool,
    all_classes: bool, reading: ReadOptions, max_texts: int | None, batch_size: int, max_tokens: int, precision: str,
    device: str, seed: int,
) -> None:  # fmt: skip
    """Predict the label of each of TEXTS.

    The output is the table with two more columns, prediction and confidence. Columns of these names are replaced, but
    not the one with the texts. About 4,000 rows are held in memory at a time. TEXTS are read through once before, so
    that a faulty row is found at the beginning. The output appears when all is predicted, in UTF-8.
    """
    writer = TableWriter(output, output_format)
    if writer.output.exists() and not overwrite:
        raise InputError(f"{output}: exists; choose another file or pass --overwrite")
    options.refuse_unused_reading(reading, source)
    models, labels = _load_classifiers(folders, device, precision)
    classes = pd.Series(labels)
    per_class = [f"probability:{label}" for label in labels] if all_classes else []
    added = ["prediction", "confidence", *per_class]
    for name in set(added).intersection(reading.text_columns):
        raise InputError(f"--text-column {shown(name)}: predict writes a column of this name; rename it in {source}")
    replaced: set[str] = set()

    def pieces() -> Iterator[Documents]:
        return iterate_documents(source, reading)

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
    writer.expect(pd.DataFrame({"prediction": classes} | dict.fromkeys(added[1:], 0.5)))
    rows = draw(total, max_texts, seed)
    predicted = predict_documents(
        models, take_documents(pieces(), rows), characters * len(rows) // total, batch_size, True,
        max_tokens, _autocast_of(precision),
    )  # fmt: skip
    with writer, contextlib.closing(predicted):
        for piece, probabilities in predicted:
            best = classes.take(probabilities.argmax(1)).to_numpy()
            rounded = probabilities.astype(np.float64).round(6)
            found = {"prediction": best, "confidence": rounded.max(1)} | dict(zip(per_class, rounded.T, strict=False))
            writer.write(pd.concat([columns(piece), pd.DataFrame(found)], axis=1))
    say(f"{len(rows)} predictions in {output}", error=writer.output.is_direct)


@click.command("evaluate")
@click.argument("source", metavar="TABLE", type=Path)
@click.option(
    "--model", "folders", required=True, multiple=True, type=Path,
    help="folder of a language model or a classifier; of several classifiers the mean of their probabilities counts",
)  # fmt: skip
@options.reading_options()
@options.label_column
@_prediction_options
def evaluate_command(
    source: Path, folders: tuple[Path, ...], reading: ReadOptions, label_column: str, max_texts: int | None,
    batch_size: int, max_tokens: int, precision: str, device: str, seed: int,
) -> None:  # fmt: skip
    """Measure a classifier or a language model.

    A classifier: accuracy and F1 on a TABLE of texts and labels. A language model: its perplexity on texts, in float32
    over the whole text in one lane; of the options only --device and those on reading matter to it.
    """
    from sklearn.metrics import classification_report

    folders = tuple(map(find_pretrained, folders))
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
    models, labels = _load_classifiers(folders, device, precision)
    documents = options.read_texts(source, reading, label_column, max_texts, seed)
    names = [str(label) for label in labels]
    targets = encode_labels(documents.labels or [], names, str(source), documents.rows).numpy()
    how: dict[str, Any] = {"max_tokens": max_tokens, "precision": _autocast_of(precision)}
    probabilities = [
        predict_probabilities(model, tokenizer, documents.texts, batch_size, progress=True, **how)
        for model, tokenizer in models
    ]
    predictions = np.mean(probabilities, axis=0).argmax(1)
    say(
        classification_report(
            targets, predictions, labels=range(len(names)), target_names=names, digits=4, zero_division=0.0
        )
    )
    say(f"accuracy {(targets == predictions).mean():.4f} on {len(targets)} texts")


def _load_classifiers(
    folders: Sequence[Path], device: str, precision: str
) -> tuple[list[tuple[TextClassifier, Tokenizer]], list[Label]]:
    """Models with their tokenizers, and the labels that all have."""
    models: list[tuple[TextClassifier, Tokenizer]] = []
    labels: list[Label] = []
    for folder in map(find_pretrained, folders):
        model, tokenizer, task = load_classifier(folder)
        own = task.labels
        labels = labels or own
        if [(type(label), label) for label in own] != [(type(label), label) for label in labels]:
            raise InputError(
                f"{folder}: has other labels than {folders[0]} ({own!r} and {labels!r}); only classifiers of the same "
                "labels go together"
            )
        if precision == "int8":
            model = model.quantize()
        models.append((model.to(_device_of(model, folder, device, precision)), tokenizer))
    return models, labels


def _device_of(model: TextClassifier, folder: Path, device: str, precision: str) -> torch.device:
    if not is_quantized(model):
        return choose_device(device)
    if precision == "bfloat16":
        raise InputError(f"{folder}: holds an int8 model; --precision bfloat16 needs the float32 model it was made of")
    if device == "cuda":
        raise InputError("--device cuda: int8 computes on the CPU alone; leave out --device or --precision")
    return choose_device("cpu")


def _autocast_of(precision: str) -> str:
    """Int8 is the model's, not a mode of computation."""
    return "float32" if precision == "int8" else precision


@click.command("info")
@click.argument("folder", type=Path)
def info_command(folder: Path) -> None:
    """Show what a model FOLDER holds."""
    folder = find_pretrained(folder)
    config, tokenizer = read_config(folder), Tokenizer.load(folder / "tokenizer.json")
    say(f"{folder}: {config['kind'].replace('_', ' ')}")
    for section in ("encoder", "head"):
        for name, value in config.get(section, {}).items():
            say(f"  {section}.{name}: {value}")
    say(f"  reads texts: {tokenizer.direction}")
    if "precision" in config:
        say(f"  precision: {config['precision']}")
    if config["kind"] == "classifier":
        model, _, task = load_classifier(folder)
        say(f"  labels: {', '.join(map(str, task.labels))}")
        int8 = [buffer for buffer in model.buffers() if buffer.dtype == torch.int8]
        say(f"  parameters: {sum(x.numel() for x in (*model.parameters(), *int8)):,}")


@click.command("demo")
@click.option("--output", default=Path("demo-output"), type=Path, show_default=True, help="folder for models and table")
@click.option(
    "--seeds",
    default=3,
    type=click.IntRange(min=1),
    show_default=True,
    help="repetitions of the small-label experiment",
)
@_device
def demo_command(output: Path, seeds: int, device: str) -> None:
    """Run all three stages on text that is here already.

    The texts are docstrings, which every installation carries. Prints a table at the end. Takes less than ten minutes
    on two cores.
    """
    from ulmfit_fast.demo.demo import run_demo

    run_demo(output, seeds, device)


_OF_A_CLASSIFIER = ("label_column", "max_texts", "batch_size", "max_tokens", "precision", "seed")


def report_perplexity(
    model: LanguageModel, tokenizer: Tokenizer, source: Path, reading: ReadOptions, bptt: int = 70
) -> None:
    """Print a language model's perplexity on the texts of a file, read in one lane."""
    ids = list(tokenizer.encode(iterate_texts(source, reading)))
    warn_of_unknown(str(source), tokenizer, ids)
    loss = evaluate_language_model(model, ids, bptt, batch_size=1, progress=True)
    say(f"perplexity {math.exp(min(loss, 50)):.2f} (loss {loss:.4f}) on {sum(map(len, ids)) - 1:,} tokens")


COMMANDS = {command.name: command for command in (predict_command, evaluate_command, info_command, demo_command)}
