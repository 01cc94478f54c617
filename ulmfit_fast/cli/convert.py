"""The command that writes a model in another form: of a model folder, or for programs without this package."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from ulmfit_fast.cli import options
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.compact import FORMATS
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import (
    load_classifier,
    load_language_model,
    read_config,
    read_training_args,
    save_model,
)
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel


def _store(folder: Path, output: Path, overwrite: bool, weights: str) -> str:
    """A model folder; returns the name of the file that has the weights."""
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
    return "model.safetensors"


def _write_onnx(folder: Path, output: Path, overwrite: bool, int8: bool) -> str:
    from ulmfit_fast.interop.deployment_folder import save_onnx

    save_onnx(output, _classifiers(folder), int8=int8, overwrite=overwrite)
    return "model.onnx"


def _write_aot_inductor(folder: Path, output: Path, overwrite: bool) -> str:
    from ulmfit_fast.interop.deployment_folder import save_aot_inductor

    save_aot_inductor(output, _classifiers(folder), overwrite=overwrite)
    return "model.pt2"


def _write_fastai(folder: Path, output: Path, overwrite: bool, encoder_only: bool) -> str:
    from ulmfit_fast.interop import fastai_export

    if len(members(folder)) > 1:
        raise InputError(f"{folder}: holds a model of each direction; convert the folders in it one by one")
    kind = TrainedClassifier if read_config(folder)["kind"] == "classifier" else TrainedLanguageModel
    fastai_export.save_fastai(output, kind.load(folder), encoder_only=encoder_only, overwrite=overwrite)
    return fastai_export.ENCODER if encoder_only else fastai_export.MODEL


def _classifiers(folder: Path) -> list[TrainedClassifier]:
    return [TrainedClassifier.load(member) for member in members(folder)]


# Each writes (folder, output, overwrite) and returns the name of the file with the weights.
FORMS: dict[str, Callable[[Path, Path, bool], str]] = {
    **{weights: partial(_store, weights=weights) for weights in FORMATS},
    "onnx": partial(_write_onnx, int8=False),
    "onnx-int8": partial(_write_onnx, int8=True),
    "aot-inductor": _write_aot_inductor,
    "fastai": partial(_write_fastai, encoder_only=False),
    "fastai-encoder": partial(_write_fastai, encoder_only=True),
}


@click.command("convert")
@click.argument("folder", metavar="MODEL", type=Path)
@click.option(
    "--to", "form", required=True, type=click.Choice(list(FORMS)),
    help="float16: half the size; int8: a quarter, each row of a matrix as whole numbers and one scale; float32: as "
    "training writes it; onnx: for onnxruntime, without torch and this package; onnx-int8: a quarter of its size, and "
    "faster; aot-inductor: compiled by torch, for this kind of machine; fastai: files that fastai 2 loads; "
    "fastai-encoder: of the encoder alone",
)  # fmt: skip
@options.output
@options.overwrite
def convert_command(folder: Path, form: str, output: Path, overwrite: bool) -> None:
    """Write a MODEL folder in another form.

    float32, float16, int8: a model folder like any other, its weights stored so. In memory they are float32 again, so
    predictions take the same time (predict --precision int8 computes in int8, too). They differ as far as the stored
    numbers were rounded.

    onnx, onnx-int8, aot-inductor: of a classifier, of both directions, too. The folder holds the model, tokenizer.json,
    the text rules and classifier.json with the labels. Probabilities are those of predict.

    fastai, fastai-encoder: of an AWD-LSTM. The folder holds model.pth or encoder.pth, vocab.pkl, a classifier's
    labels.pkl, and fastai.json with the sizes.
    """
    folder = find_pretrained(folder)
    try:
        name = FORMS[form](folder, output, overwrite)
    except ImportError as error:  # of an extra; it says which
        raise InputError(f"--to {form}: {error}") from None
    before = sum((member / "model.safetensors").stat().st_size for member in members(folder)) / 1e6
    after = (output / name).stat().st_size / 1e6
    say(f"{output}: {name} of {after:.1f} MB, model.safetensors before {before:.1f} MB")


COMMANDS = {convert_command.name: convert_command}
