"""The commands that train, use and show models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
from click.core import ParameterSource

from ulmfit_fast import cli_options as options
from ulmfit_fast.checkpoint import check_output_folder, load_classifier, load_language_model, read_config
from ulmfit_fast.cli import tokenize
from ulmfit_fast.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig
from ulmfit_fast.errors import InputError
from ulmfit_fast.pipeline import encode_labels, finetune_classifier, finetune_lm, list_classes, pretrain_lm
from ulmfit_fast.prediction import evaluate_language_model, predict_documents, predict_probabilities
from ulmfit_fast.text.corpus import Corpus, Source
from ulmfit_fast.text.files import (
    Documents,
    draw,
    iterate_documents,
    iterate_texts,
    read_documents,
    take_documents,
)  # fmt: skip
from ulmfit_fast.text.tables import TableWriter
from ulmfit_fast.training import DEVICES, PRECISIONS, Record, choose_device

_device = click.option(
    "--device", default="auto", type=click.Choice(DEVICES), show_default=True, help="auto: a GPU where there is one"
)


_precision = click.option(
    "--precision", default="float32", type=click.Choice(tuple(PRECISIONS)), show_default=True,
    help="bfloat16: faster where the processor has it, by autocast",
)  # fmt: skip


@click.command("pretrain-lm")
@click.argument("source", metavar="TEXTS", type=Path)
@click.option("--valid", type=Path, help="texts for validation; without it one of twenty documents is held out")
@click.option("--eval", "test", type=Path, help="texts to report the perplexity of at the end, read in one lane")
@options.output
@options.overwrite
@options.resume
@options.text_column
@options.split
@options.max_texts
@options.processes
@options.config_options(PretrainConfig)
def pretrain_lm_command(
    source: Path, valid: Path | None, test: Path | None, output: Path, overwrite: bool, resume: bool, text_column: str,
    split: str, max_texts: int | None, processes: int, config: PretrainConfig,
) -> None:  # fmt: skip
    """Stage one: train a language model on general TEXTS, or on a corpus folder that tokenize wrote.

    Texts are tokenized once, into the folder corpus of the output; they may be larger than memory.
    """
    check_output_folder(output, overwrite, resume)
    if test is not None and not test.exists():
        raise InputError(f"{test}: no such file or folder")
    corpus: Corpus | list[str]
    is_corpus = (source / "train.tokens").exists()
    if valid is not None and max_texts is not None:
        raise InputError("--valid does not go with --max-texts")
    if is_corpus:
        settled = _OF_TOKENIZING if test is not None else _OF_TOKENIZING + _OF_READING
        _refuse_given(settled, f"{source} is a corpus folder, tokenized before; give it to ulmfit-fast tokenize")
        corpus = Corpus.load(source)
        # What --eval names is read as the corpus was, unless told otherwise.
        split = split if _is_given("split") else corpus.source.get("split", split)
        text_column = text_column if _is_given("text_column") else corpus.source.get("text_column", text_column)
    elif max_texts is not None:
        corpus = _read(source, text_column, None, max_texts, config.seed).texts
    else:
        corpus = tokenize(
            Source(source, valid, text_column, split, config.tokenizer, config.vocab_size, config.min_frequency,
                   config.seed), output / "corpus", processes, overwrite=not resume,
        )  # fmt: skip
    trained = pretrain_lm(corpus, config, output=output, overwrite=overwrite, resume=resume, on_epoch=_print_epoch)
    _print_written(output)
    if test is not None:
        ids = list(trained.tokenizer.encode(iterate_texts(test, text_column, split)))
        _print_perplexity(evaluate_language_model(trained.model, ids, config.bptt, 1, True), sum(map(len, ids)) - 1)


@click.command("finetune-lm")
@click.argument("source", metavar="TEXTS", type=Path)
@click.option("--model", "language_model", required=True, type=Path, help="folder of a language model")
@options.output
@options.overwrite
@options.resume
@options.text_column
@options.max_texts
@options.config_options(FinetuneLMConfig)
def finetune_lm_command(
    source: Path, language_model: Path, output: Path, overwrite: bool, resume: bool, text_column: str,
    max_texts: int | None, config: FinetuneLMConfig,
) -> None:  # fmt: skip
    """Stage two: go on with the task's TEXTS, labelled or not."""
    check_output_folder(output, overwrite, resume)
    documents = _read(source, text_column, None, max_texts, config.seed)
    finetune_lm(
        documents.texts, language_model, config, output=output, overwrite=overwrite, resume=resume,
        on_epoch=_print_epoch,
    )  # fmt: skip
    _print_written(output)


@click.command("train")
@click.argument("source", metavar="TABLE", type=Path)
@click.option("--model", "language_model", type=Path, help="folder of a language model; without it, from scratch")
@click.option("--valid", type=Path, help="table to measure accuracy on after each epoch; the best epoch is kept")
@options.output
@options.overwrite
@options.resume
@options.text_column
@options.label_column
@options.max_texts
@options.config_options(ClassifierConfig)
def train_command(
    source: Path, language_model: Path | None, valid: Path | None, output: Path, overwrite: bool, resume: bool,
    text_column: str, label_column: str, max_texts: int | None, config: ClassifierConfig,
) -> None:  # fmt: skip
    """Stage three: train a classifier on a TABLE of texts and labels.

    Without --valid the last epoch's weights are kept. --embedding-size, --hidden-size, --num-layers, --tokenizer,
    --vocab-size and --min-frequency are for training from scratch, without --model.
    """
    if language_model is not None:
        _refuse_given(_OF_A_NEW_MODEL, f"the language model {language_model} has settled it; leave it out")
    check_output_folder(output, overwrite, resume)
    documents = _read(source, text_column, label_column, max_texts, config.seed)
    held_out = None if valid is None else _read(valid, text_column, label_column, None, config.seed)
    classes = list_classes(documents.texts, documents.labels or [], str(source))
    if held_out is not None:
        encode_labels(held_out.labels or [], classes, str(valid), held_out.rows)
    finetune_classifier(
        documents.texts, documents.labels or [], language_model, config,
        valid_texts=None if held_out is None else held_out.texts,
        valid_labels=None if held_out is None else held_out.labels,
        output=output, overwrite=overwrite, resume=resume, on_epoch=_print_epoch,
    )  # fmt: skip
    _print_written(output)


@click.command("predict")
@click.argument("source", metavar="TEXTS", type=Path)
@options.classifier
@click.option("--output", required=True, type=Path, help="table to write: .csv, .jsonl or .parquet")
@click.option("--overwrite", is_flag=True, help="replace the output file")
@options.text_column
@options.split
@options.max_texts
@options.batch_size
@options.max_tokens
@_precision
@_device
@options.sample_seed
def predict_command(
    source: Path, folder: Path, output: Path, overwrite: bool, text_column: str, split: str, max_texts: int | None,
    batch_size: int, max_tokens: int, precision: str, device: str, seed: int,
) -> None:  # fmt: skip
    """Predict the label of each of TEXTS: the table with two more columns, prediction and confidence.

    Some 4,000 rows are held in memory at a time. TEXTS are read through once before, so that a faulty row is found
    at the beginning. The output appears when all is predicted. Columns of these names are replaced.
    """
    writer = TableWriter(output)
    if output.exists() and not overwrite:
        raise InputError(f"{output}: exists; choose another file or pass --overwrite")
    model, tokenizer, labels = load_classifier(folder)
    model.to(choose_device(device))
    classes = pd.Series(labels)

    def with_predictions(documents: Documents, chosen: np.ndarray, confidence: np.ndarray) -> pd.DataFrame:
        table = pd.DataFrame({"text": documents.texts}) if documents.table is None else documents.table.copy()
        return table.assign(prediction=classes.take(chosen).to_numpy(), confidence=confidence)

    def pieces() -> Iterator[Documents]:
        return iterate_documents(source, text_column, split=split)

    total = characters = 0
    for piece in pieces():
        nothing = np.zeros(len(piece), dtype=np.float32)
        writer.expect(with_predictions(piece, nothing.astype(int), nothing))
        total += len(piece)
        characters += sum(map(len, piece.texts))
    rows = draw(total, max_texts, seed)
    predicted = predict_documents(
        model, tokenizer, take_documents(pieces(), rows), characters * len(rows) // total, batch_size, True,
        max_tokens, precision,
    )  # fmt: skip
    with writer:
        for piece, probabilities in predicted:
            writer.write(with_predictions(piece, probabilities.argmax(1), probabilities.max(1).round(6)))
    click.echo(f"{len(rows)} predictions in {output}")


@click.command("evaluate")
@click.argument("source", metavar="TABLE", type=Path)
@click.option("--model", "folder", required=True, type=Path, help="folder of a classifier or a language model")
@options.text_column
@options.label_column
@options.split
@options.max_texts
@options.batch_size
@options.max_tokens
@_precision
@_device
@options.sample_seed
def evaluate_command(
    source: Path, folder: Path, text_column: str, label_column: str, split: str, max_texts: int | None,
    batch_size: int, max_tokens: int, precision: str, device: str, seed: int,
) -> None:  # fmt: skip
    """Accuracy and F1 of a classifier on a TABLE of texts and labels; a language model's perplexity on texts.

    Perplexity is in float32 over the whole text, in one lane; only --text-column, --split and --device matter to it.
    """
    from sklearn.metrics import classification_report

    if read_config(folder)["kind"] == "language_model":
        _refuse_given(_OF_A_CLASSIFIER, f"{folder} is a language model, which reads the whole text in one lane")
        language_model, tokenizer = load_language_model(folder)
        language_model.to(choose_device(device))
        ids = list(tokenizer.encode(iterate_texts(source, text_column, split)))
        _print_perplexity(
            evaluate_language_model(language_model, ids, batch_size=1, progress=True), sum(map(len, ids)) - 1
        )
        return
    _refuse_given(("split",), f"{folder} is a classifier, whose texts are rows of a table")
    model, tokenizer, labels = load_classifier(folder)
    model.to(choose_device(device))
    documents = _read(source, text_column, label_column, max_texts, seed)
    names = [str(label) for label in labels]
    targets = encode_labels(documents.labels or [], names, str(source), documents.rows).numpy()
    predictions = predict_probabilities(
        model, tokenizer, documents.texts, batch_size, progress=True, max_tokens=max_tokens, precision=precision
    ).argmax(1)
    click.echo(
        classification_report(
            targets, predictions, labels=range(len(names)), target_names=names, digits=4, zero_division=0.0
        )
    )
    click.echo(f"accuracy {(targets == predictions).mean():.4f} on {len(targets)} texts")


@click.command("info")
@click.argument("folder", type=Path)
def info_command(folder: Path) -> None:
    """What a model FOLDER holds."""
    config = read_config(folder)
    click.echo(f"{folder}: {config['kind'].replace('_', ' ')}")
    for section in ("encoder", "head"):
        for name, value in config.get(section, {}).items():
            click.echo(f"  {section}.{name}: {value}")
    if config["kind"] == "classifier":
        model, _, labels = load_classifier(folder)
        click.echo(f"  labels: {', '.join(map(str, labels))}")
        click.echo(f"  parameters: {sum(p.numel() for p in model.parameters()):,}")


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
    """The three stages on text that every installation carries; prints a table. Under ten minutes on two cores."""
    from ulmfit_fast.demo import run_demo

    run_demo(output, seeds, device)


# What a corpus folder has settled; the second are also how --eval is read.
_OF_TOKENIZING = ("valid", "max_texts", "processes", "tokenizer", "vocab_size", "min_frequency")
_OF_READING = ("text_column", "split")
_OF_A_NEW_MODEL = ("embedding_size", "hidden_size", "num_layers", "tokenizer", "vocab_size", "min_frequency")
_OF_A_CLASSIFIER = ("label_column", "max_texts", "batch_size", "max_tokens", "precision", "seed")


def _refuse_given(names: Sequence[str], reason: str) -> None:
    """An error if one of these options is on the command line, where it would do nothing."""
    for name in names:
        if _is_given(name):
            raise InputError(f"--{name.replace('_', '-')} does nothing here: {reason}")


def _is_given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) == ParameterSource.COMMANDLINE


def _read(source: Path, text_column: str, label_column: str | None, max_texts: int | None, seed: int) -> Documents:
    return read_documents(source, text_column, label_column).sample(max_texts, seed)


def _print_perplexity(loss: float, tokens: int) -> None:
    click.echo(f"perplexity {math.exp(min(loss, 50)):.2f} (loss {loss:.4f}) on {tokens:,} tokens")


def _print_epoch(record: Record) -> None:
    parts = [f"{record['stage']}, epoch {record['epoch']}: loss {record['loss']:.4f}"]
    if "valid_loss" in record:
        parts.append(f"validation loss {record['valid_loss']:.4f}")
    if "perplexity" in record:
        parts.append(f"perplexity {record['perplexity']:.1f}")
    if "accuracy" in record:
        parts.append(f"accuracy {record['accuracy']:.4f}")
    parts.append(f"{record['tokens_per_s']:,.0f} tokens/s, {record['seconds']:.0f} s")
    click.echo(", ".join(parts), err=True)


def _print_written(output: Path) -> None:
    click.echo(f"model, history and curves in {output}")


COMMANDS = {
    command.name: command
    for command in (
        pretrain_lm_command, finetune_lm_command, train_command, predict_command, evaluate_command, info_command,
        demo_command,
    )
}  # fmt: skip
