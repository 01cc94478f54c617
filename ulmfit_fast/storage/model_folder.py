"""Model folders: ``config.json``, ``model.safetensors``, ``tokenizer.json``, ``labels.json``, ``training_args.json``.

All files are written under temporary names and then renamed, ``config.json`` last and its predecessor removed first:
a folder without it is not a model. No pickle is written or read.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ulmfit_fast.core.atomic_write import write_all_atomically
from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.core.interrupt import uninterrupted
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.nn.awd_lstm import AWDLSTMConfig
from ulmfit_fast.nn.build import empty_module, load_copies
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.encoder import Encoder
from ulmfit_fast.nn.encoders import DEFAULT_ENCODER, ENCODERS, encoder_type, make_encoder
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.poolings import CONCAT
from ulmfit_fast.nn.quantized import QuantizedAWDLSTM, is_quantized
from ulmfit_fast.nn.stacked import StackConfig
from ulmfit_fast.storage.compact import compacted, quantized_of_stored, restored, stored_of_quantized
from ulmfit_fast.storage.opening import opened_by_name
from ulmfit_fast.storage.run_file import CHECKPOINT
from ulmfit_fast.storage.tensor_file import read_tensors
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import Task, task_of
from ulmfit_fast.text.tokenizer import Tokenizer

_FORMAT = "ulmfit_fast"
_VERSION = 1
MODEL_FORMAT: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
_LANGUAGE_MODEL, _CLASSIFIER = "language_model", "classifier"
BOTH_DIRECTIONS, SEVERAL_TABLES = "both_directions", "several_tables"  # folders of models, in folders below
_INT8 = "int8"  # the precision of a quantized model; other folders name none
_READINGS = 20  # of a folder that is being replaced meanwhile
_PAUSE_S = 0.1  # between them

P = ParamSpec("P")
R = TypeVar("R")


def save_model(
    folder: str | Path,
    model: LanguageModel | TextClassifier,
    tokenizer: Tokenizer,
    task: Task | None = None,
    training_args: dict[str, Any] | None = None,
    weights: str = "float32",
) -> None:
    """Write a model folder.

    Args:
        folder: made where it does not exist.
        model, tokenizer: to write.
        task: of a classifier; its labels are in the order of the outputs.
        training_args: what it was trained with, as JSON can hold it.
        weights: how they are stored, one of ``compact.FORMATS``; a quantized model's stay int8.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = model.bpt3c.encoder if isinstance(model, TextClassifier) else model.encoder
    config = MODEL_FORMAT | {"encoder_type": encoder_type(encoder)}
    if isinstance(model, TextClassifier):
        if task is None:
            raise ValueError("save_model: a classifier is saved with its task")
        bpt3c = model.bpt3c
        pooling = {name: getattr(bpt3c.config, name) for name in ("pooling", "attention_heads")}
        config |= {
            "kind": _CLASSIFIER,
            "task_type": task.type,
            **({"task": task.settings()} if task.settings() else {}),
            "encoder": encoder.config.to_dict(),
            "head": {
                "classes": task.outputs,
                "hidden_size": model.head[2].out_features,
                "hidden_dropout": model.head[5].p,
                "bptt": bpt3c.bptt,
                "backprop": bpt3c.backprop,
                "mask_scope": bpt3c.mask_scope,
                "variable_length": bpt3c.variable_length,
                "pool_window": bpt3c.pool_window,
                "keep": bpt3c.keep,
                **(pooling if bpt3c.config.pooling != CONCAT else {}),
            },
        }
    else:
        config |= {"kind": _LANGUAGE_MODEL, "encoder": encoder.config.to_dict()}
    if is_quantized(model):
        config["precision"] = _INT8
        tensors = stored_of_quantized(model.state_dict())
    else:
        tensors = compacted(model.state_dict(), weights)
    contents: dict[str, str | bytes] = {
        "model.safetensors": safetensors.torch.save(tensors),
        "tokenizer.json": tokenizer.to_json(),
        "training_args.json": _to_json(training_args or {}),
    }
    if task is not None:
        contents["labels.json"] = _to_json(list(task.labels))
    # Complete under other names before the old model goes.
    staged = {f"{name}.new": content for name, content in contents.items()} | {"config.json.new": _to_json(config)}
    with locked_folder(folder), uninterrupted():
        write_all_atomically(folder, staged)
        for name in ("config.json", "labels.json"):
            (folder / name).unlink(missing_ok=True)
        for name in (*contents, "config.json"):
            os.replace(folder / f"{name}.new", folder / name)


def remove_run(folder: str | Path) -> None:
    """Remove what an earlier training left beside its model; a later ``resume`` would take it for the new model's."""
    for name in (CHECKPOINT, "history.jsonl", "curves.png"):
        (Path(folder) / name).unlink(missing_ok=True)


def remove_model(folder: str | Path) -> None:
    """Remove the model that a folder holds itself, ``config.json`` first."""
    for name in ("config.json", "labels.json", "model.safetensors", "tokenizer.json", "training_args.json"):
        (Path(folder) / name).unlink(missing_ok=True)


def read_config(folder: str | Path) -> dict[str, Any]:
    """A model folder's ``config.json``. Raises InputError if the folder is not one of ours."""
    return _while_it_stays(folder, lambda: _read_config(Path(folder)))


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise InputError(f"{folder}: no such model folder")
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise InputError(f"{folder}: config.json is not one of ulmfit_fast: a foreign model folder")
    is_one = config.get("kind") in (_LANGUAGE_MODEL, _CLASSIFIER) and isinstance(config.get("encoder"), dict)
    if not is_one and config.get("kind") not in (BOTH_DIRECTIONS, SEVERAL_TABLES):
        raise InputError(f"{folder}: config.json names no kind of model or no encoder; the model folder is damaged")
    if str(config.get("encoder_type", DEFAULT_ENCODER)) not in ENCODERS:  # folders of 0.1.0 name none
        raise InputError(f"{folder}: has an encoder {config['encoder_type']!r}, which this version lacks; update")
    if config.get("precision", _INT8) != _INT8:
        raise InputError(f"{folder}: has precision {config['precision']!r}, which this version lacks; update")
    if config.get("version") != _VERSION:
        raise InputError(
            f"{folder}: written by another version (format {shortened(config.get('version'), 40)}, this is "
            f"{_VERSION}); update"
        )
    return config


def read_training_args(folder: str | Path) -> dict[str, Any]:
    """What a model was trained with, as far as its folder says; empty where it says nothing."""
    path = Path(folder) / "training_args.json"
    arguments = _read_json(path) if path.exists() else {}
    return arguments if isinstance(arguments, dict) else {}


def load_language_model(folder: str | Path) -> tuple[LanguageModel, Tokenizer]:
    """Read a language model's folder.

    Raises:
        InputError: missing, truncated or foreign folder, or one of a classifier.
    """
    return _while_it_stays(folder, lambda: _load_language_model(folder))


def _load_language_model(folder: str | Path) -> tuple[LanguageModel, Tokenizer]:
    maker = "a language model (made by pretrain-lm, finetune-lm or import-lm)"
    config = _config_of_kind(folder, _LANGUAGE_MODEL, maker)
    with _wrong_part(folder, "encoder"):
        sizes = _encoder_config(config)
        model = empty_module(lambda: LanguageModel(make_encoder(sizes)))
    return model, _load_weights(folder, model, model.encoder)


def load_classifier(folder: str | Path) -> tuple[TextClassifier, Tokenizer, Task]:
    """Read a classifier's folder: model, tokenizer, and the task with its labels in the order of the outputs.

    Raises:
        InputError: missing, truncated or foreign folder, or one of a language model.
    """
    return _while_it_stays(folder, lambda: _load_classifier(folder))


def _load_classifier(folder: str | Path) -> tuple[TextClassifier, Tokenizer, Task]:
    config = _config_of_kind(folder, _CLASSIFIER, "a classifier (made by train)")
    with _wrong_part(folder, "encoder"):
        sizes = _encoder_config(config)
        if config.get("precision") == _INT8 and not isinstance(sizes, AWDLSTMConfig):
            raise InputError(f"{folder}: config.json names precision int8, which a {config['encoder_type']} has not")
        quantized = config.get("precision") == _INT8
        encoder = empty_module(lambda: QuantizedAWDLSTM(sizes) if quantized else make_encoder(sizes))  # type: ignore[arg-type]
    with _wrong_part(folder, "head"):
        model = empty_module(lambda: TextClassifier(encoder, **config["head"]))
    labels = _read_json(Path(folder) / "labels.json")
    if not isinstance(labels, list):
        raise InputError(f"{folder}: labels.json holds no list of labels")
    if not all(isinstance(label, str | int | float) and label == label for label in labels):
        raise InputError(f"{folder}: labels.json holds a label that is neither a text nor a number")
    if len(set(labels)) != len(labels):
        raise InputError(f"{folder}: labels.json holds a label twice")
    with _wrong_part(folder, "task"):
        task = task_of(config.get("task_type", SingleLabel.type), labels, config.get("task"))
    if task.outputs != config["head"]["classes"]:
        raise InputError(
            f"{folder}: labels.json holds {len(labels)} labels, which do not go with the {config['head']['classes']} "
            "outputs of the model"
        )
    if not task.predicts_numbers and task.activate(torch.zeros(1, task.outputs)).shape[1] != len(labels):
        raise InputError(f"{folder}: labels.json holds {len(labels)} labels, which do not go with the task {task.type}")
    return model, _load_weights(folder, model, model.bpt3c.encoder), task


def _encoder_config(config: dict[str, Any]) -> StackConfig:
    return ENCODERS[config.get("encoder_type", DEFAULT_ENCODER)].config(**config["encoder"])


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
    sizes = replace(model.encoder.config, vocab_size=len(new), pad_id=new.pad_id)
    remapped = empty_module(lambda: LanguageModel(make_encoder(sizes)))
    load_copies(remapped, state)
    return remapped


def rows_of_tokens(rows: Tensor, row_of: Mapping[str, int], tokens: Sequence[str]) -> Tensor:
    """``rows[row_of[token]]`` for each token, [len(tokens), ...]; the mean of all rows for those without one."""
    source = torch.tensor([row_of.get(token, -1) for token in tokens], device="cpu")
    taken = rows[source.clamp(min=0)]
    taken[source < 0] = rows.mean(0)
    return taken


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first name of a tensor that holds NaN or an infinite number."""
    return next((name for name, x in tensors.items() if x.is_floating_point() and not x.isfinite().all()), None)


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent}: not a model folder, or a truncated one: {path.name} is missing") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({shortened(error)}); the model folder is damaged") from None


def _config_of_kind(folder: str | Path, kind: str, wanted: str) -> dict[str, Any]:
    config = _read_config(Path(folder))
    if config.get("kind") == BOTH_DIRECTIONS:
        raise InputError(f"{folder}: holds models of both directions; give its folder forward, or backward")
    if config.get("kind") == SEVERAL_TABLES:
        names = ", ".join(map(str, config.get("tables", [])))
        raise InputError(f"{folder}: holds classifiers of several tables; give one of its folders: {names}")
    if config.get("kind") != kind:
        raise InputError(f"{folder}: holds a {str(config.get('kind')).replace('_', ' ')}; expected {wanted}")
    return config


@contextlib.contextmanager
def _wrong_part(folder: str | Path, part: str) -> Iterator[None]:
    """Within the block a part of the model is made of what config.json says of it."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError, RuntimeError) as error:
        raise InputError(f"{folder}: config.json has a wrong {part} ({shortened(error)})") from None


def _while_it_stays(folder: str | Path, read: Callable[[], R]) -> R:
    """What ``read`` makes of a model folder, read again where another process replaced the model meanwhile."""
    config = Path(folder) / "config.json"
    coming = config.with_name("config.json.new")

    def state() -> tuple[int, int] | None:
        with contextlib.suppress(OSError):  # the first file that goes, and the last that comes
            status = config.stat()
            return status.st_ino, status.st_mtime_ns
        return None

    for _ in range(_READINGS):
        being_replaced, before = coming.exists(), state()
        error = None
        try:
            result = read()
        except InputError as failure:
            error = failure
        # Without config.json it is no model only if none was coming at either end: a quick replacement fits in between.
        if state() == before and (before is not None or not (being_replaced or coming.exists())):
            if error is not None:
                raise error
            return result
        time.sleep(_PAUSE_S)
    raise error or InputError(f"{folder}: another process keeps replacing the model; load it when that has ended")


def _load_weights(folder: str | Path, model: torch.nn.Module, encoder: Encoder) -> Tokenizer:
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        raise InputError(f"{folder}: not a model folder, or a truncated one: {path.name} is missing")
    try:
        stored, _ = read_tensors(path)
        stored = quantized_of_stored(stored) if is_quantized(model) else restored(stored)
        # In memory of their own: sums over numbers at odd addresses round differently.
        kinds = {name: torch.float32 if x.is_floating_point() else x.dtype for name, x in stored.items()}
        tensors = {name: stored.pop(name).to(kind, copy=True) for name, kind in kinds.items()}
        for name, expected in model.state_dict().items():  # which an assignment does not compare
            if name in tensors and tensors[name].dtype != expected.dtype:
                raise InputError(f"{path}: damaged: {name} must be {expected.dtype}, got {tensors[name].dtype}")
        model.load_state_dict(tensors, assign=True)
    except InputError:
        raise
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{path}: damaged, or not this model's weights ({shortened(error)})") from None
    if (diverged := not_finite(tensors)) is not None:
        warnings.warn(
            f"{path}: {shortened(diverged)} holds NaN or infinite numbers; train the model again", stacklevel=6
        )
    with opened_by_name(Path(folder) / "tokenizer.json"):  # or an error that does not speak of damage
        tokenizer = Tokenizer.load(Path(folder) / "tokenizer.json")
    if len(tokenizer) != encoder.vocab_size:
        raise InputError(
            f"{folder}: tokenizer.json has {len(tokenizer)} tokens, the model {encoder.vocab_size}; the folder "
            "mixes two models"
        )
    return tokenizer
