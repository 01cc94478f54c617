"""The command line's options: those that several commands share, and one for every field of a configuration.

And what follows from options alike: reading texts, refusing an option that would do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ulmfit_fast.cli.processes import was_restarted
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.processes import available_processes
from ulmfit_fast.text.files import Documents, read_documents, used_options
from ulmfit_fast.text.inputs import read_once
from ulmfit_fast.text.label_columns import LabelColumns
from ulmfit_fast.text.reading import SPLITS, ReadOptions

if TYPE_CHECKING:
    from ulmfit_fast.training.config import TrainingConfig


def config_options(
    config: type, parameter: str = "config", prefix: str = "", only: Sequence[str] = ()
) -> Callable[[Any], Any]:
    """An option for every field of a stage's configuration; the command receives the configuration built from them.

    Args:
        config: the configuration's class.
        parameter: of the command, that receives it.
        prefix: before each option's name, where a command has two configurations.
        only: fields that have an option; empty: all. The others keep their defaults.
    """
    chosen = [f for f in fields(config) if not only or f.name in only]

    def decorate(function: Any) -> Any:
        def run(**values: Any) -> None:
            given = {f.name: values.pop(_parameter(prefix, f.name)) for f in chosen}
            function(**{parameter: config(**given)}, **values)

        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        run.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        for f in reversed(chosen):
            run = field_option(f, prefix, f.default)(run)
        return run

    return decorate


def field_option(field: Field[Any], prefix: str = "", default: Any = None) -> Callable[[Any], Any]:
    """The option of a configuration's field, ``prefix`` as in ``config_options``; a default is shown unless None."""
    name, choices = prefix + field.name.replace("_", "-"), field.metadata["choices"]
    return click.option(
        f"--{name}/--no-{name}" if isinstance(field.default, bool) else f"--{name}", _parameter(prefix, field.name),
        default=default, type=type(field.default), show_default=default is not None, help=field.metadata["help"],
        metavar=f"[{'|'.join(choices)}]" if choices else None,
    )  # fmt: skip


def _parameter(prefix: str, field: str) -> str:
    return prefix.replace("-", "_") + field


def _delimiter(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    return "\t" if value in ("tab", "\\t") else value


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return () if value is None else tuple(value.split(","))


_READING = {
    "text_columns": click.option(
        "--text-column", "text_columns", multiple=True, default=("text",), show_default=True,
        help="column with the texts; given more than once, they are joined: xxfld 1 FIRST xxfld 2 SECOND",
    ),
    "columns": click.option(
        "--columns", callback=_names, metavar="NAME,...",
        help="names of the columns of a .csv or .tsv whose first line is a row, such as label,title,text",
    ),
    "delimiter": click.option(
        "--delimiter", callback=_delimiter, metavar="CHARACTER",
        help="between the fields of a .csv or .tsv, such as ';' or tab  [default: a comma, in a .tsv a tab; another if "
        "the first line has the columns with it alone]",
    ),
    "quotes": click.option(
        "--quotes/--no-quotes", default=True,
        help="--no-quotes: quotation marks in a .csv or .tsv are characters like others",
    ),
    "encoding": click.option(
        "--encoding", default="utf-8", show_default=True, help="of text files, such as windows-1252 or utf-16"
    ),
    "format": click.option(
        "--format", help="kind of a file whose name does not tell it, such as - (standard input): csv, txt, csv.gz"
    ),
    "split": click.option(
        "--split", default="auto", type=click.Choice(SPLITS), show_default=True,
        help="documents of a .txt: between blank lines, lines, the whole file, or auto: blank lines if there are any",
    ),
}  # fmt: skip
# By the names of ReadOptions' fields, which are those of the command's parameters, too.
OF_READING = tuple(_READING)


def reading_options(split: bool = True) -> Callable[[Any], Any]:
    """The options on how files are read; the command receives a ``ReadOptions`` as ``reading``.

    While it runs, standard input and pipes are copied at first use and read from the copy. ``split`` False: only tables
    are read.
    """

    def decorate(function: Any) -> Any:
        chosen = [name for name in OF_READING if split or name != "split"]

        def run(**values: Any) -> None:
            reading = ReadOptions(**{name: values.pop(name) for name in chosen})
            with read_once():
                function(reading=reading, **values)

        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        run.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        for name in reversed(chosen):
            run = _READING[name](run)
        return run

    return decorate


label_columns = click.option(
    "--label-column", "label_columns", multiple=True, default=("label",), show_default=True,
    help="column with the labels; given more than once where a text has several: columns of 0 and 1, or of a label",
)  # fmt: skip
max_texts = click.option("--max-texts", type=click.IntRange(min=1), help="use only so many texts, drawn by --seed")
valid_fraction = click.option(
    "--valid-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="hold this part of TABLE out instead, drawn by the seed, where texts have one label from every label alike",
)  # fmt: skip
output = click.option("--output", required=True, type=Path, help="model folder to write")
overwrite = click.option("--overwrite", is_flag=True, help="replace what the output folder holds: model, run, corpus")
resume = click.option(
    "--resume", is_flag=True, callback=lambda _, __, value: value or was_restarted(),
    help="go on from the checkpoint in the output folder, if there is one; same options",
)  # fmt: skip
processes = click.option(
    "--processes",
    default=available_processes(),
    type=click.IntRange(min=1),
    help="processes that tokenize  [default: cores]",
)
batch_size = click.option(
    "--batch-size",
    default=64,
    type=click.IntRange(min=1),
    show_default=True,
    help="texts at a time; does not change the result",
)
max_tokens = click.option(
    "--max-tokens",
    default=1_000_000,
    type=click.IntRange(min=1),
    show_default=True,
    help="tokens at a time; does not change the result",
)
sample_seed = click.option(
    "--seed", default=0, type=click.IntRange(min=0), show_default=True, help="seed that draws the texts of --max-texts"
)
classifiers = click.option(
    "--model", "folders", required=True, multiple=True, type=Path,
    help="folder of a classifier; give several to predict by the mean of their probabilities",
)  # fmt: skip


_AS_TYPED = {
    "text_columns": "text-column",
    "label_columns": "label-column",
    "quotes": "no-quotes",
    "language_model": "model",
    "page": "report",
    "json_file": "json",
    "templates": "template",
}


def refuse_given(names: Sequence[str], reason: str) -> None:
    """An error if one of these options is on the command line, where it would do nothing."""
    for name in names:
        if is_given(name):
            typed = _AS_TYPED.get(name, name.replace("_", "-"))
            raise InputError(f"--{typed} does nothing here: {reason}")


def refuse_unused_rates(config: TrainingConfig, prefix: str = "") -> None:
    """An error if an option on learning rates is on the command line that the others make meaningless.

    ``prefix`` as in ``config_options``.
    """
    from ulmfit_fast.training.config import FinetuningConfig  # with torch, which what reads text alone starts without
    from ulmfit_fast.training.schedules import NUMBERS, USES

    unused = [name for name in NUMBERS if name not in USES[config.schedule]]
    refuse_given([_parameter(prefix, name) for name in unused], f"the schedule {config.schedule} does not use it")
    if isinstance(config, FinetuningConfig):
        if config.dis_blocks == 0:
            names = ("discriminative_factor", "lr_lowest", "weight_decay_factor")
            refuse_given([_parameter(prefix, name) for name in names], f"--{prefix}dis-blocks is 0: one rate for all")
        if config.lr_lowest:
            refuse_given([_parameter(prefix, "discriminative_factor")], f"--{prefix}lr-lowest is given in its place")


def refuse_unused_reading(reading: ReadOptions, *paths: Path | None) -> None:
    """An error if an option on reading is on the command line that means nothing for any of these files or folders."""
    given = [path for path in paths if path is not None]
    used = set().union(*(used_options(path, reading.format) for path in given))
    sources = " and ".join(map(str, given))
    for name in OF_READING:
        if name not in used:
            refuse_given((name,), f"{sources} {_WHERE_IT_WOULD[name].format('is' if len(given) == 1 else 'are')}")


_WHERE_IT_WOULD = {
    "text_columns": "{} no table",
    "columns": "{} no .csv or .tsv file",
    "delimiter": "{} no .csv or .tsv file",
    "quotes": "{} no .csv or .tsv file",
    "encoding": "{} a .parquet file, which has its own",
    "format": "{} of the kind that the name tells",
    "split": "{} not a .txt file",
}


def reading_as_before(reading: ReadOptions, before: dict[str, Any]) -> ReadOptions:
    """As a corpus's texts were read (``Corpus.source``), but for what is on the command line."""
    if not before:
        return reading
    given = {name: getattr(reading, name) for name in OF_READING if is_given(name)}
    return replace(ReadOptions.from_description(before), **given)


def is_given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) == ParameterSource.COMMANDLINE


def read_labelled(
    source: Path,
    reading: ReadOptions,
    columns: tuple[str, ...],
    delimiter: str | None,
    max_texts: int | None,
    seed: int,
) -> Documents:
    """A table's texts and labels.

    Args:
        columns: of the labels.
        delimiter: between the labels of a text; None: each text has one, which is in one column.
    """
    if delimiter is None and len(columns) > 1:
        raise InputError("--label-column: several columns are for --task multi_label; give one")
    of_labels = columns[0] if delimiter is None else LabelColumns(columns, delimiter)
    return read_documents(source, reading, of_labels).sample(max_texts, seed)
