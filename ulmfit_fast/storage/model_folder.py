"""Model folders: ``config.json``, ``model.safetensors``, ``tokenizer.json``, ``labels.json``, ``training_args.json``.

All files are written under temporary names and then renamed, ``config.json`` last and its predecessor removed first:
a folder without it is not a model. No pickle is written or read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ulmfit_fast.core.atomic_write import write_all_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.interrupt import uninterrupted
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.encoder import Encoder
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.storage.run_file import CHECKPOINT
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.text.tokenizer import Tokenizer

_FORMAT = "ulmfit_fast"
_VERSION = 1
_LANGUAGE_MODEL, _CLASSIFIER = "language_model", "classifier"


def check_output_folder(folder: str | Path, overwrite: bool = False, resume: bool = False) -> Path:
    """Raise InputError where a model cannot be written to ``folder``, before any work is done.

    A folder with a model needs ``overwrite``; one with a run that can go on needs ``resume`` or ``overwrite``.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder for the model")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: the folder {folder.absolute().parent} does not exist")
    if not os.access(folder if folder.exists() else folder.absolute().parent, os.W_OK):
        raise InputError(f"{folder}: no permission to write there")
    if (folder / "train.tokens").exists():
        raise InputError(f"{folder}: holds a corpus; choose another folder for the model")
    can_go_on = (folder / CHECKPOINT).exists()
    if (folder / "config.json").exists() and not overwrite and not (resume and can_go_on):
        raise InputError(f"{folder}: already holds a model; choose another folder or pass --overwrite")
    if can_go_on and not overwrite and not resume:
        raise InputError(f"{folder}: holds a run that can go on; pass --resume, or --overwrite to start again")
    return folder


def save_model(
    folder: str | Path,
    model: LanguageModel | TextClassifier,
    tokenizer: Tokenizer,
    labels: Sequence[Label] | None = None,
    training_args: dict[str, Any] | None = None,
) -> None:
    """Write a model folder; a classifier needs its labels, in the order of its outputs."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
    if isinstance(model, TextClassifier):
        if labels is None:
            raise ValueError("save_model: a classifier is saved with its labels")
        bpt3c = model.bpt3c
        config |= {
            "kind": _CLASSIFIER,
            "encoder": bpt3c.encoder.config.to_dict(),
            "head": {
                "classes": len(labels),
                "hidden_size": model.head[2].out_features,
                "hidden_dropout": model.head[5].p,
                "bptt": bpt3c.bptt,
                "backprop": bpt3c.backprop,
                "mask_scope": bpt3c.mask_scope,
                "variable_length": bpt3c.variable_length,
                "pool_window": bpt3c.pool_window,
                "keep": bpt3c.keep,
            },
        }
    else:
        config |= {"kind": _LANGUAGE_MODEL, "encoder": model.encoder.config.to_dict()}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    contents: dict[str, str | bytes] = {
        "model.safetensors": safetensors.torch.save(tensors),
        "tokenizer.json": tokenizer.to_json(),
        "training_args.json": _to_json(training_args or {}),
    }
    if labels is not None:
        contents["labels.json"] = _to_json(list(labels))
    # Complete under other names before the old model goes.
    staged = {f"{name}.new": content for name, content in contents.items()} | {"config.json.new": _to_json(config)}
    with uninterrupted():
        write_all_atomically(folder, staged)
        for name in ("config.json", "labels.json"):
            (folder / name).unlink(missing_ok=True)
        for name in (*contents, "config.json"):
            os.replace(folder / f"{name}.new", folder / name)


def remove_run(folder: str | Path) -> None:
    """Remove what an earlier training left beside its model; a later ``resume`` would take it for the new model's."""
    for name in (CHECKPOINT, "history.jsonl", "curves.png"):
        (Path(folder) / name).unlink(missing_ok=True)


def read_config(folder: str | Path) -> dict[str, Any]:
    """A model folder's ``config.json``. Raises InputError if the folder is not one of ours."""
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: no such model folder")
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise InputError(f"{folder}: config.json is not one of ulmfit_fast: a foreign model folder")
    if config.get("kind") not in (_LANGUAGE_MODEL, _CLASSIFIER) or not isinstance(config.get("encoder"), dict):
        raise InputError(f"{folder}: config.json names no kind of model or no encoder; the model folder is damaged")
    if config.get("version") != _VERSION:
        raise InputError(
            f"{folder}: written by another version (format {config.get('version')}, this is {_VERSION}); update"
        )
    return config


def load_language_model(folder: str | Path) -> tuple[LanguageModel, Tokenizer]:
    """Read a language model's folder.

    Raises:
        InputError: missing, truncated or foreign folder, or one of a classifier.
    """
    maker = "a language model (made by pretrain-lm, finetune-lm or import-lm)"
    config = _config_of_kind(folder, _LANGUAGE_MODEL, maker)
    model = LanguageModel(AWDLSTM(_encoder_config(folder, config)))
    return model, _load_weights(folder, model, model.encoder)


def load_classifier(folder: str | Path) -> tuple[TextClassifier, Tokenizer, list[Label]]:
    """Read a classifier's folder: model, tokenizer, labels in the order of the outputs.

    Raises:
        InputError: missing, truncated or foreign folder, or one of a language model.
    """
    config = _config_of_kind(folder, _CLASSIFIER, "a classifier (made by train)")
    try:
        model = TextClassifier(AWDLSTM(_encoder_config(folder, config)), **config["head"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: config.json has a wrong head ({error})") from None
    labels = _read_json(Path(folder) / "labels.json")
    if not isinstance(labels, list) or len(labels) != config["head"]["classes"]:
        raise InputError(f"{folder}: labels.json does not hold the {config['head']['classes']} labels of the model")
    return model, _load_weights(folder, model, model.bpt3c.encoder), labels


def remap_vocabulary(model: LanguageModel, old: Tokenizer, new: Tokenizer) -> LanguageModel:
    """The same language model over another vocabulary.

    A token that both know keeps its embedding and bias; a new one starts with the mean of all old ones.

    Args:
        model: over the vocabulary of ``old``; not changed.
        old, new: tokenizers.
    """
    row_of = {token: row for row, token in enumerate(old.vocabulary)}
    state = dict(model.state_dict())
    for name in ("encoder.encoder.weight", "decoder_bias"):
        state[name] = rows_of_tokens(state[name], row_of, new.vocabulary)
    sizes = model.encoder.config.to_dict() | {"vocab_size": len(new), "pad_id": new.pad_id}
    remapped = LanguageModel(AWDLSTM(AWDLSTMConfig(**sizes)))  # type: ignore[arg-type]
    remapped.load_state_dict(state)
    return remapped


def rows_of_tokens(rows: Tensor, row_of: Mapping[str, int], tokens: Sequence[str]) -> Tensor:
    """``rows[row_of[token]]`` for each token, [len(tokens), ...]; the mean of all rows for those without one."""
    source = torch.tensor([row_of.get(token, -1) for token in tokens])
    taken = rows[source.clamp(min=0)]
    taken[source < 0] = rows.mean(0)
    return taken


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent}: not a model folder, or a truncated one: {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); the model folder is damaged") from None


def _config_of_kind(folder: str | Path, kind: str, wanted: str) -> dict[str, Any]:
    config = read_config(folder)
    if config.get("kind") != kind:
        raise InputError(f"{folder}: holds a {str(config.get('kind')).replace('_', ' ')}; expected {wanted}")
    return config


def _encoder_config(folder: str | Path, config: dict[str, Any]) -> AWDLSTMConfig:
    try:
        return AWDLSTMConfig(**config["encoder"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: config.json has a wrong encoder ({error})") from None


def _load_weights(folder: str | Path, model: torch.nn.Module, encoder: Encoder) -> Tokenizer:
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        raise InputError(f"{folder}: not a model folder, or a truncated one: {path.name} is missing")
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged, or not this model's weights ({reason})") from None
    tokenizer = Tokenizer.load(Path(folder) / "tokenizer.json")
    if len(tokenizer) != encoder.vocab_size:
        raise InputError(
            f"{folder}: tokenizer.json has {len(tokenizer)} tokens, the model {encoder.vocab_size}; the folder "
            "mixes two models"
        )
    return tokenizer
