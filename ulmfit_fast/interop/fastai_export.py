"""Our models as files that fastai 2 loads: weights under its names, and plain lists of tokens and labels.

=================== ============================================================================================
``model.pth``       the state dict of ``get_language_model`` or ``get_text_classifier``, for ``learn.load``
``encoder.pth``     instead, of the encoder alone, for ``learn.load_encoder``
``vocab.pkl``       the list of tokens
``labels.pkl``      of a classifier: the list of labels, in the order of the outputs
``fastai.json``     the sizes, as ``config`` and ``lin_ftrs`` take them; written last
=================== ============================================================================================
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.core.atomic_write import write_all_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.interrupt import uninterrupted
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.interop.fastai import fastai_vocabulary
from ulmfit_fast.nn.awd_lstm import AWDLSTM
from ulmfit_fast.nn.poolings import CONCAT
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.tasks.binary import Binary
from ulmfit_fast.tasks.multi_label import MultiLabel
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

DESCRIPTION = "fastai.json"
MODEL, ENCODER = "model.pth", "encoder.pth"
_FILES = (DESCRIPTION, MODEL, ENCODER, "vocab.pkl", "labels.pkl")


def save_fastai(
    folder: str | Path, trained: TrainedLanguageModel | TrainedClassifier, *, encoder_only: bool = False,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Write a folder from which fastai 2 loads the model, with equal logits.

    A classifier's calibrated temperature goes into its last layer. A binary classifier gets two outputs, the first of
    them always zero, so that fastai's softmax gives its probabilities.

    Args:
        folder: made where it does not exist.
        trained: an AWD-LSTM language model or classifier.
        encoder_only: write ``encoder.pth`` in place of ``model.pth``.
        overwrite: replace what an earlier call wrote there.

    Raises:
        InputError: a QRNN, an int8 model, attention pooling, a task that fastai's head has not (regression, ordinal),
            or a folder that holds something else.
    """
    folder = Path(folder)
    _check_folder(folder, overwrite)
    classifier = isinstance(trained, TrainedClassifier)
    encoder = trained.model.bpt3c.encoder if isinstance(trained, TrainedClassifier) else trained.model.encoder
    if is_quantized(trained.model):
        raise InputError("save_fastai: the model is int8; convert the float32 model that it was made of")
    if not isinstance(encoder, AWDLSTM):
        raise InputError("save_fastai: fastai 2 has no QRNN; only models with encoder awd_lstm can be written for it")
    state = _encoder_state(encoder)
    config = encoder.config
    about: dict[str, Any] = {
        "config": {"emb_sz": config.embedding_size, "n_hid": config.hidden_size, "n_layers": config.num_layers},
        "direction": trained.tokenizer.direction,
    }
    contents: dict[str, str | bytes] = {"vocab.pkl": pickle.dumps(fastai_vocabulary(trained.tokenizer))}
    if isinstance(trained, TrainedClassifier) and not encoder_only:
        head = _head_state(trained)
        about |= {"lin_ftrs": [len(head["1.layers.0.2.weight"])], "task": trained.task.type}
        contents["labels.pkl"] = pickle.dumps(list(trained.labels))
    elif isinstance(trained, TrainedLanguageModel):
        head = {"1.decoder.weight": state["encoder.weight"], "1.decoder.bias": trained.model.decoder_bias.detach()}
    if not encoder_only:
        state = {f"0.module.{name}" if classifier else f"0.{name}": tensor for name, tensor in state.items()} | head
    weights = io.BytesIO()
    torch.save({name: tensor.cpu() for name, tensor in state.items()}, weights)
    contents[ENCODER if encoder_only else MODEL] = weights.getvalue()
    contents[DESCRIPTION] = json.dumps(about, indent=2) + "\n"
    with locked_folder(folder), uninterrupted():
        _check_folder(folder, overwrite)
        for name in _FILES:
            if name not in contents:
                (folder / name).unlink(missing_ok=True)
        write_all_atomically(folder, contents)


def _check_folder(folder: Path, overwrite: bool) -> None:
    check_output_folder(folder, overwrite=True)
    if (folder / "config.json").exists():
        raise InputError(f"{folder}: holds a model of this package; choose another folder")
    if (folder / DESCRIPTION).exists() and not overwrite:
        raise InputError(f"{folder}: already holds a model for fastai; choose another folder or pass --overwrite")


def _encoder_state(encoder: AWDLSTM) -> dict[str, Tensor]:
    """By fastai's names; the embedding is there twice, as it is in its state dicts."""
    embedding = encoder.encoder.weight.detach()
    state = {"encoder.weight": embedding, "encoder_dp.emb.weight": embedding}
    layers: Any = encoder.rnns
    for i, layer in enumerate(layers):
        state[f"rnns.{i}.weight_hh_l0_raw"] = layer.weight_hh_l0.detach()
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            state[f"rnns.{i}.module.{name}"] = getattr(layer, name).detach()
    return state


def _head_state(trained: TrainedClassifier) -> dict[str, Tensor]:
    task = trained.task
    if not isinstance(task, SingleLabel | MultiLabel | Binary):
        raise InputError(
            f"save_fastai: fastai's classifiers have no task {task.type} like ours; write the encoder alone"
        )
    if trained.model.bpt3c.config.pooling != CONCAT:
        raise InputError("save_fastai: fastai 2 has no attention pooling; write the encoder alone")
    state = {}
    for ours, theirs in ((0, "0.0"), (2, "0.2"), (4, "1.0"), (6, "1.2")):
        for name, tensor in trained.model.head[ours].state_dict().items():
            state[f"1.layers.{theirs}.{name}"] = tensor.detach()
    last = state["1.layers.1.2.weight"] / task.temperature
    state["1.layers.1.2.weight"] = torch.cat([torch.zeros_like(last), last]) if isinstance(task, Binary) else last
    return state
