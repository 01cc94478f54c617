"""``ulmfit-fast compare``: two classifiers on one table."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ulmfit_fast.cli import options
from ulmfit_fast.cli.device import device_option, precision_option
from ulmfit_fast.cli.reports import ReportFiles, write_json
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.compare import compare, comparison_lines
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.text.reading import ReadOptions


@click.command("compare")
@click.argument("source", metavar="TABLE", type=Path)
@click.option(
    "--model", "folders", required=True, multiple=True, type=Path,
    help="folder of a classifier, or of one for each direction; give two",
)  # fmt: skip
@click.option("--json", "json_file", type=Path, help="write what is found, too; - is standard output")
@click.option("--overwrite", is_flag=True, help="replace the output file")
@options.reading_options()
@options.label_columns
@options.max_texts
@options.batch_size
@options.max_tokens
@precision_option
@device_option
@options.sample_seed
def compare_command(
    source: Path, folders: tuple[Path, ...], json_file: Path | None, overwrite: bool, reading: ReadOptions,
    label_columns: tuple[str, ...], max_texts: int | None, batch_size: int, max_tokens: int, precision: str,
    device: str, seed: int,
) -> None:  # fmt: skip
    """Compare two classifiers on a TABLE.

    The scores of both, their differences with intervals, and McNemar's exact test: whether one has more texts right
    than chance would give it. Of numbers: whether one is nearer more often.
    """
    if len(folders) != 2:
        raise InputError(f"compare: give --model twice, got {len(folders)}")
    options.refuse_unused_reading(reading, source)
    files = ReportFiles(None, json_file, overwrite)
    both = [Classifiers.load([folder], device, precision) for folder in folders]
    task, other = (each.task for each in both)
    if (task.type, [*map(str, task.labels)]) != (other.type, [*map(str, other.labels)]):
        raise InputError(f"{folders[1]}: has another task, or other labels, than {folders[0]}; there is no comparison")
    documents = options.read_labelled(source, reading, label_columns, task.label_delimiter, max_texts, seed)
    targets = task.encode_cells(documents.labels or [], str(source), documents.rows)
    first, second = (
        np.mean(
            [
                predict_probabilities(*member, documents.texts, batch_size, True, max_tokens, each.precision)
                for member in each.members
            ],
            axis=0,
        )
        for each in both
    )
    found = compare(task, first, second, targets)
    if not files.to_standard_output:
        say(f"first: {folders[0]}\nsecond: {folders[1]}\n" + "\n".join(comparison_lines(found, task.predicts_numbers)))
    if json_file is not None:
        write_json(json_file, {"models": [*map(str, folders)], "table": str(source), **found.to_dict()})


COMMANDS = {compare_command.name: compare_command}
