"""The command that writes a model in another form."""

from __future__ import annotations

from pathlib import Path

import click

from ulmfit_fast.cli import options
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.storage.compact import FORMATS
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import (
    check_output_folder,
    load_classifier,
    load_language_model,
    read_config,
    read_training_args,
    save_model,
)


@click.command("convert")
@click.argument("folder", metavar="MODEL", type=Path)
@click.option(
    "--to", "weights", required=True, type=click.Choice(FORMATS),
    help="float16: half the size; int8: a quarter, each row of a matrix as whole numbers and one scale; float32: as "
    "training writes it",
)  # fmt: skip
@options.output
@options.overwrite
def convert_command(folder: Path, weights: str, output: Path, overwrite: bool) -> None:
    """Store a MODEL folder's weights in fewer bits.

    The result is a model folder like any other. In memory the weights are float32 again, so predictions take the same
    time (predict --precision int8 computes in int8, too). They differ as far as the stored numbers were rounded.
    """
    folder = find_pretrained(folder)
    kind = read_config(folder)["kind"]
    check_output_folder(output, overwrite)
    arguments = read_training_args(folder)
    if kind == "classifier":
        classifier, tokenizer, task = load_classifier(folder)
        if is_quantized(classifier) and weights != "int8":
            raise InputError(f"{folder}: holds an int8 model; convert the float32 model that it was made of")
        save_model(output, classifier, tokenizer, task, arguments, weights)
    else:
        language_model, tokenizer = load_language_model(folder)
        save_model(output, language_model, tokenizer, training_args=arguments, weights=weights)
    before, after = ((each / "model.safetensors").stat().st_size / 1e6 for each in (folder, output))
    say(f"{output}: weights of {after:.1f} MB, before {before:.1f} MB")


COMMANDS = {convert_command.name: convert_command}
