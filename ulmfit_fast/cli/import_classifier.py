"""The command that takes over a classifier of fastai."""

from __future__ import annotations

from pathlib import Path

import click

from ulmfit_fast.cli import options
from ulmfit_fast.core.console import say
from ulmfit_fast.interop.fastai_classifier import TASKS, import_classifier
from ulmfit_fast.storage.model_folder import remove_run, save_model
from ulmfit_fast.storage.output_folder import output_folder
from ulmfit_fast.text.tokenizer import DIRECTIONS


@click.command("import-classifier")
@click.argument("weights", metavar="WEIGHTS", type=Path)
@click.option(
    "--vocabulary", required=True, type=Path, help="its tokens in order: fastai's .pkl, a .json, or a token a line"
)
@click.option(
    "--labels", required=True, type=Path, help="in the order of its outputs: a .pkl or .json list, or a label a line"
)
@options.output
@options.overwrite
@click.option(
    "--tokenizer", default="word", type=click.Choice(["word", "whitespace", "spacy"]), show_default=True,
    help="word; whitespace for a vocabulary of text that is tokenized already; spacy for fastai's tokens (extra spacy)",
)  # fmt: skip
@click.option("--task", default=TASKS[0], type=click.Choice(TASKS), show_default=True, help="what it was trained for")
@click.option(
    "--direction", default="forward", type=click.Choice(DIRECTIONS), show_default=True,
    help="direction in which the model was trained to read; its files do not say",
)  # fmt: skip
def import_classifier_command(
    weights: Path, vocabulary: Path, labels: Path, output: Path, overwrite: bool, tokenizer: str, task: str,
    direction: str,
) -> None:  # fmt: skip
    """Read a classifier's WEIGHTS that fastai trained.

    WEIGHTS are a .pth file of fastai 2 or 1, or an .h5 of 0.7. The result is a model folder for predict, evaluate and
    train, as if train had made it. Nothing that could run code is unpickled.
    """
    click.get_current_context().with_resource(output_folder(output, overwrite))
    trained = import_classifier(weights, vocabulary, labels, task=task, tokenizer=tokenizer, direction=direction)
    source = {"weights": weights.name, "vocabulary": vocabulary.name, "labels": labels.name}
    save_model(output, trained.model, trained.tokenizer, trained.task, {"stage": "import classifier", **source})
    remove_run(output)
    say(f"classifier in {output}: {len(trained.labels)} labels, {len(trained.tokenizer):,} tokens")


COMMANDS = {"import-classifier": import_classifier_command}
