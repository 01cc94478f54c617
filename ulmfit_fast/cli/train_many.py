"""The command that trains classifiers of several tables at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli import options
from ulmfit_fast.cli.labelled_tables import LabelledTables
from ulmfit_fast.cli.training import OF_THE_LANGUAGE_MODEL
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.multitask import LabelledTexts, finetune_multitask
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.output_folder import output_folder
from ulmfit_fast.tasks.metrics import METRICS
from ulmfit_fast.text.files import iterate_texts
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.training.callbacks import SayDuration
from ulmfit_fast.training.config import OF_A_NEW_MODEL, ClassifierConfig, FinetuneLMConfig
from ulmfit_fast.training.history import Record
from ulmfit_fast.training.multi_task import SAMPLING, record_of

# What a table may have otherwise than the others: NAME=VALUE.
_OF_A_TABLE = ("task", "metric", "class_weight", "label_delimiter")
_SHARED = tuple(field.name for field in fields(ClassifierConfig) if field.name not in _OF_A_TABLE)


def _of_tables(command: Any) -> Any:
    """The options of ``_OF_A_TABLE``."""
    for field in reversed(fields(ClassifierConfig)):
        if field.name in _OF_A_TABLE:
            choices = f"[{'|'.join(field.metadata['choices'])}]" if field.metadata["choices"] else "CHARACTER"
            command = click.option(
                f"--{field.name.replace('_', '-')}", multiple=True, metavar=f"[NAME=]{choices}",
                help=f"{field.metadata['help']}; NAME=... for one table alone  [default: {field.default}]",
            )(command)  # fmt: skip
    return command


@click.command("train-many")
@click.option(
    "--table", "tables", multiple=True, required=True, metavar="NAME=FILE",
    help="a labelled table, and the name of its classifier's folder; give two or more",
)  # fmt: skip
@click.option(
    "--sampling", default="proportional", type=click.Choice(list(SAMPLING)), show_default=True,
    help="which table a step trains on: each as often as it has batches, by the square root of that, or all alike",
)  # fmt: skip
@click.option(
    "--model", "language_model", type=Path,
    help="folder of a language model, or of a classifier to go on with; without it, from scratch",
)  # fmt: skip
@click.option(
    "--pretrained",
    help="folder of a language model, or the name of an installed one, to fine-tune on all the texts first",
)
@click.option(
    "--unlabeled", type=Path, multiple=True,
    help="with --pretrained: more texts like those to classify, for the language model; may be given more than once",
)  # fmt: skip
@click.option(
    "--valid", "valid", multiple=True, metavar="NAME=FILE",
    help="table to measure on after each epoch; of the table NAME its best epoch is kept",
)  # fmt: skip
@click.option(
    "--valid-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="hold this part out of each table that has no --valid, drawn by the seed",
)  # fmt: skip
@options.output
@options.overwrite
@options.resume
@options.reading_options(split=False)
@click.option(
    "--label-column", "label_columns", multiple=True, metavar="[NAME=]COLUMN",
    help="column with the labels, NAME=COLUMN of one table alone; given more than once where a text has several  "
    "[default: label]",
)  # fmt: skip
@options.max_texts
@_of_tables
@options.config_options(ClassifierConfig, only=_SHARED)
@options.config_options(FinetuneLMConfig, "lm_config", "lm-", OF_THE_LANGUAGE_MODEL)
def train_many_command(
    tables: tuple[str, ...], sampling: str, language_model: Path | None, pretrained: str | None,
    unlabeled: tuple[Path, ...], valid: tuple[str, ...], valid_fraction: float | None, output: Path,
    overwrite: bool, resume: bool, reading: ReadOptions, label_columns: tuple[str, ...], max_texts: int | None,
    config: ClassifierConfig, lm_config: FinetuneLMConfig, **of_tables: tuple[str, ...],
) -> None:  # fmt: skip
    """Train classifiers of several labelled tables at once.

    They share an encoder while they train, and each has a head of its own (multi-task learning). The output gets a
    folder for each table, with its name: a classifier like any other, to which a table's best epoch is kept.

    \b
    ulmfit-fast train-many --table topic=topics.csv --table stars=reviews.csv --task stars=regression \\
        --valid-fraction 0.1 --pretrained en --output models/
    ulmfit-fast predict new.csv --model models/topic/ --output predictions.csv

    What is said of labels may be of one table alone: --task, --metric, --class-weight, --label-column,
    --label-delimiter and --text-column take NAME=VALUE for the table NAME. The other options are of all tables.
    --max-texts is of each.
    """
    if language_model is not None and pretrained is not None:
        raise InputError("--model does not go with --pretrained")
    base = language_model if pretrained is None else pretrained
    if base is not None:
        options.refuse_given(OF_A_NEW_MODEL, f"the language model {base} has settled it; leave it out")
        find_pretrained(base)  # before the texts are read
    if pretrained is None:
        of_stage_two = ("unlabeled", *(f"lm_{name}" for name in OF_THE_LANGUAGE_MODEL))
        options.refuse_given(of_stage_two, "no language model is fine-tuned without --pretrained")
    options.refuse_unused_rates(config)
    options.refuse_unused_rates(lm_config, "lm-")
    click.get_current_context().with_resource(output_folder(output, overwrite, resume))
    sources = _files("--table", tables)
    held_out = _files("--valid", valid)
    for name in held_out.keys() - sources.keys():
        raise InputError(f"--valid {name}=...: there is no --table {name}=...")
    options.refuse_unused_reading(reading, *sources.values(), *held_out.values())
    read = {
        name: _read(
            name, list(sources), source, held_out.get(name), valid_fraction, reading, label_columns, max_texts, config,
            of_tables, base,
        )
        for name, source in sources.items()
    }  # fmt: skip
    of_all = replace(reading, text_columns=_text_columns("", list(sources), reading))
    more = [text for path in unlabeled for text in iterate_texts(path, of_all)]
    finetune_multitask(
        read, base, config, sampling=sampling, finetune_config=None if pretrained is None else lm_config,
        unlabeled=more, output=output, overwrite=overwrite, resume=resume, on_epoch=_print_epoch,
        callbacks=[SayDuration()],
    )  # fmt: skip
    say(f"a classifier each in {', '.join(str(output / name) for name in read)}")


def _files(option: str, values: Sequence[str]) -> dict[str, Path]:
    """Files by the name of their table. Raises InputError where there is no name, or it comes twice."""
    files: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise InputError(f"{option} {value}: give a name and a file, such as {option} topic=topics.csv")
        if name in files:
            raise InputError(f"{option} {value}: {name} was given before; choose another name")
        files[name] = Path(path)
    return files


def _of(name: str, names: Sequence[str], values: Sequence[str]) -> list[str]:
    """Which of an option's values hold for a table: its own, or where it has none those of all tables."""
    split = [(value.partition("=")[0], value.partition("=")[2]) for value in values]
    own = [value for key, value in split if key == name]
    return own or [value for value, (key, _) in zip(values, split, strict=True) if key not in names]


def _text_columns(name: str, names: Sequence[str], reading: ReadOptions) -> tuple[str, ...]:
    return tuple(_of(name, names, reading.text_columns)) or ReadOptions().text_columns


def _read(
    name: str,
    names: Sequence[str],
    source: Path,
    valid: Path | None,
    valid_fraction: float | None,
    reading: ReadOptions,
    label_columns: Sequence[str],
    max_texts: int | None,
    config: ClassifierConfig,
    of_tables: dict[str, tuple[str, ...]],
    base: Path | str | None,
) -> LabelledTexts:
    """One table's texts and labels, and what is its own."""
    own: dict[str, str] = {}
    for option, values in of_tables.items():
        found = _of(name, names, values)
        if len(found) > 1:
            raise InputError(f"--{option.replace('_', '-')}: table {name} has {' and '.join(found)}; give one")
        if found:
            own[option] = "\t" if found[0] in ("tab", "\\t") else found[0]
    documents, held_out = LabelledTables(
        source,
        replace(reading, text_columns=_text_columns(name, names, reading)),
        tuple(_of(name, names, label_columns)) or ("label",),
        max_texts,
        valid,
        None if valid is not None else valid_fraction,
        "label_delimiter" in own,
    ).read(replace(config, **own), base)  # type: ignore[arg-type]
    return LabelledTexts(
        documents.texts, documents.labels or [],
        valid_texts=None if held_out is None else held_out.texts,
        valid_labels=None if held_out is None else held_out.labels,
        task=own.get("task"), metric=own.get("metric"), class_weight=own.get("class_weight"),
    )  # fmt: skip


def _print_epoch(record: Record) -> None:
    rate = f"{record['tokens_per_s']:,.0f} tokens/s, {record['seconds']:.0f} s"
    perplexity = f", perplexity {record['perplexity']:.1f}" if "perplexity" in record else ""
    say(f"{record['stage']}, epoch {record['epoch']}: loss {record['loss']:.4f}{perplexity}, {rate}", error=True)
    for name in record.get("tables", {}):
        of_table = record_of(record, name)
        shown = {"validation loss": of_table.get("valid_loss")} | {
            metric.replace("_", " "): of_table.get(metric) for metric in METRICS
        }
        parts = [f"loss {of_table['loss']:.4f}", *(f"{k} {v:.4f}" for k, v in shown.items() if v is not None)]
        say(f"  {name}: {', '.join(parts)}", error=True)


COMMANDS = {train_many_command.name: train_many_command}
