"""Our models as files that fastai 2 loads: ``.pth`` and a vocabulary, by its names and in its order."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import torch
from torch import Tensor

from ulmfit_fast.core.atomic_write import write_all_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.interop.fastai_tensors import fastai_encoder_state, fastai_vocabulary
from ulmfit_fast.nn.awd_lstm import AWDLSTM
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.encoder import Encoder
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.nn.stacked import StackedEncoder
from ulmfit_fast.storage.model_folder import check_output_folder
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

WEIGHTS, ENCODER, VOCABULARY, LABELS = "model.pth", "encoder.pth", "vocab.pkl", "labels.json"
# Where the head's layers are in fastai: block and place of 0 BatchNorm, 2 linear, 4 BatchNorm, 6 linear.
HEAD_PLACES = {"0": "0.0", "2": "0.2", "4": "1.0", "6": "1.2"}


def fastai_state(model: LanguageModel | TextClassifier, *, encoder_only: bool = False) -> dict[str, Tensor]:
    """The state dict that fastai 2 has of the same model; the tensors are the model's own.

    Args:
        model: over an ``AWDLSTM``.
        encoder_only: of its encoder, as ``learn.save_encoder`` writes it.

    Raises:
        InputError: a QRNN, an int8 model, a head whose biases fastai 2 cannot express.
    """
    encoder = encoder_of("fastai_state", model)
    state = fastai_encoder_state(encoder)
    if encoder_only:
        return state
    if isinstance(model, LanguageModel):
        state = {f"0.{name}": tensor for name, tensor in state.items()}
        return state | {
            "1.decoder.weight": model.decoder_weight.detach(),
            "1.decoder.bias": model.decoder_bias.detach(),
        }
    state = {f"0.module.{name}": tensor for name, tensor in state.items()}
    for name, tensor in _head_without_biases(model).items():
        place, _, tensor_name = name.partition(".")
        state[f"1.layers.{HEAD_PLACES[place]}.{tensor_name}"] = tensor
    return state


def save_fastai(
    folder: str | Path,
    trained: TrainedLanguageModel | TrainedClassifier,
    *,
    encoder_only: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a folder that fastai 2 loads: ``model.pth`` (or ``encoder.pth``), ``vocab.pkl``, ``labels.json``.

    The vocabulary is a pickled list of texts, as fastai reads it. It has no optimizer: fastai begins with a new one.

    Args:
        folder: made where it does not exist.
        trained: a language model or a classifier over an ``AWDLSTM``.
        encoder_only: write the encoder alone, for ``learn.load_encoder``.
        overwrite: replace what an earlier call wrote.

    Returns:
        The file with the weights.

    Raises:
        InputError: as ``fastai_state``; the folder holds such files already, or a model folder of this package.
    """
    folder, name = check_output_folder(folder, overwrite=True), ENCODER if encoder_only else WEIGHTS
    _check_folder(folder, overwrite)
    state = {
        key: tensor.detach().cpu() for key, tensor in fastai_state(trained.model, encoder_only=encoder_only).items()
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    contents: dict[str, str | bytes] = {
        name: buffer.getvalue(),
        VOCABULARY: pickle.dumps(fastai_vocabulary(trained.tokenizer)),
    }
    if isinstance(trained, TrainedClassifier) and not encoder_only:
        contents[LABELS] = json.dumps(list(trained.labels), ensure_ascii=False) + "\n"
    folder.mkdir(exist_ok=True)
    with locked_folder(folder):
        _check_folder(folder, overwrite)
        for stale in {WEIGHTS, ENCODER, LABELS} - set(contents):
            (folder / stale).unlink(missing_ok=True)
        write_all_atomically(folder, contents)
    return folder / name


def _check_folder(folder: Path, overwrite: bool) -> None:
    if (folder / "config.json").exists():
        raise InputError(f"{folder}: holds a model of ulmfit_fast; choose another folder")
    found = [name for name in (WEIGHTS, ENCODER) if (folder / name).exists()]
    if found and not overwrite:
        raise InputError(f"{folder}: already holds {found[0]}; choose another folder or pass --overwrite")


def encoder_of(function: str, model: LanguageModel | TextClassifier) -> AWDLSTM:
    """The model's encoder. Raises InputError where fastai has no such kind."""
    if not isinstance(model, LanguageModel | TextClassifier):
        raise TypeError(f"{function}: model must be a LanguageModel or a TextClassifier, got {type(model).__name__}")
    encoder: Encoder | StackedEncoder = model.encoder if isinstance(model, LanguageModel) else model.bpt3c.encoder
    if is_quantized(model):
        raise InputError(f"{function}: fastai has no int8 models; give the float32 model that it was made of")
    if not isinstance(encoder, AWDLSTM):
        raise InputError(f"{function}: fastai 2 has no {type(encoder).__name__}, only the AWD-LSTM")
    return encoder


def _head_without_biases(model: TextClassifier) -> dict[str, Tensor]:
    """The head's tensors; linear biases, which fastai 2 has not, moved into the BatchNorm before, as in eval mode."""
    state = dict(model.head.state_dict())
    for norm, linear in (("0", "2"), ("4", "6")):
        bias = state.pop(f"{linear}.bias", None)
        if bias is None:
            continue
        weight = state[f"{linear}.weight"].double()
        shift = torch.linalg.lstsq(weight, bias.double().unsqueeze(1), driver="gelsd").solution.squeeze(1)
        if not torch.allclose(weight @ shift, bias.double(), atol=1e-9):
            raise InputError(
                "fastai_state: the head's biases cannot be expressed by fastai 2, whose linear layers have none; train "
                "a new head"
            )
        state[f"{norm}.bias"] = (state[f"{norm}.bias"].double() + shift).to(bias.dtype)
    return state
