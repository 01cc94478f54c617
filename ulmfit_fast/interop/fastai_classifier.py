"""Classifiers that fastai trained: of its versions 2, 1 and 0.7."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.interop.fastai import EncoderTensors, encoder_of, read_plain, read_weights
from ulmfit_fast.nn.bpt3c import BPT3CConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.storage.model_folder import not_finite
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.multi_label import MultiLabel
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import task_of
from ulmfit_fast.training.history import History
from ulmfit_fast.training.trained import TrainedClassifier

TASKS = (SingleLabel.type, MultiLabel.type)
_HEAD = re.compile(r"1\.layers\.(.+)\.(weight|bias|running_mean|running_var|num_batches_tracked)")
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def import_classifier(
    weights: str | Path, vocabulary: str | Path | Sequence[str], labels: str | Path | Sequence[Label], *,
    task: str = "single_label", tokenizer: str = "word", direction: str = "forward", max_len: int | None = 1440,
) -> TrainedClassifier:  # fmt: skip
    """A classifier of fastai, with the same logits for the same tokens.

    Args:
        weights: the file of ``learn.save``, with or without the optimizer, or of ``torch.save`` with a ``state_dict``;
            of fastai 2, 1 or 0.7, with one hidden layer in the head, which is the default.
        vocabulary, tokenizer, direction: as ``import_language_model``; of fastai 2, ``dls.vocab[0]``.
        labels: in the order of the outputs (``dls.vocab[1]``), or a file of them: a ``.pkl`` or ``.json`` list, or a
            text file, a label a line.
        task: "single_label", or "multi_label".
        max_len: how many of a document's last tokens are pooled, fastai's ``max_len``; None: all. fastai rounds to its
            chunks of the padded batch, so longer documents differ a little.

    Linear layers of versions 1 and 0.7 have biases, which ours have not: each goes into the BatchNorm before it, where
    the same function results. That needs a layer without linearly dependent outputs.

    Raises:
        InputError: as ``import_language_model``; another head, labels that are not as many as outputs, another task.
    """
    if task not in TASKS:
        raise InputError(f"import_classifier: task must be one of {', '.join(TASKS)}, got {task!r}")
    source, state = str(weights), read_weights(Path(weights))
    head = _head(source, {name: tensor for name, tensor in state.items() if name.startswith("1.layers.")})
    body = {
        "0." + name.removeprefix("0.").removeprefix("module."): tensor
        for name, tensor in state.items()
        if not name.startswith("1.layers.")
    }
    classes, hidden = head["6.weight"].shape
    names = _read_labels(labels)
    if len(names) != classes:
        raise InputError(f"{source}: has {classes} outputs, but there are {len(names)} labels; give one for each")
    encoder, backend, _ = encoder_of(source, EncoderTensors.find(source, body), vocabulary, tokenizer)
    options = BPT3CConfig(bptt=72, pool_window=max_len, keep="last" if max_len is not None else "all")
    model = TextClassifier(encoder, classes, hidden, 0.1, options)
    try:
        model.head.load_state_dict(head, strict=False)  # before torch 0.4 a BatchNorm did not count its batches
    except RuntimeError as error:
        raise InputError(f"{source}: its head does not go with its encoder ({shortened(error, 300)})") from None
    return TrainedClassifier(model.eval(), backend.reading(direction), task_of(task, names), History())


def _read_labels(labels: str | Path | Sequence[Label]) -> list[Label]:
    source = str(labels) if isinstance(labels, str | Path) else "labels"
    value = read_plain(Path(labels)) if isinstance(labels, str | Path) else labels
    if isinstance(value, str) or not isinstance(value, Sequence) or any(type(x) not in (str, int) for x in value):
        raise InputError(f"{source}: is not a list of labels, which are texts or whole numbers")
    if len(set(value)) != len(value):
        raise InputError(f"{source}: a label occurs twice")
    return list(value)


def _head(source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ``classifier_head``, whose layers 0 and 4 are BatchNorms, 2 and 6 linear."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if (match := _HEAD.fullmatch(name)) is None:
            raise InputError(f"{source}: a classifier of fastai has no tensor {name}")
        layers.setdefault(match[1], {})[match[2]] = tensor
    if not layers:
        raise InputError(f"{source}: holds no classifier (1.layers); a language model is imported by import-lm")
    ordered = [layers[name] for name in sorted(layers, key=lambda name: [int(x) for x in re.findall(r"\d+", name)])]
    norms = [layer for layer in ordered if "running_mean" in layer]
    linears = [layer for layer in ordered if "running_mean" not in layer]
    if len(norms) != 2 or len(linears) != 2 or any("weight" not in x or x["weight"].dim() != 2 for x in linears):
        raise InputError(
            f"{source}: its head has {len(linears)} linear layers and {len(norms)} BatchNorms; only heads with one "
            "hidden layer, two of each, can be imported"
        )
    if (diverged := not_finite(state)) is not None:
        raise InputError(f"{source}: {diverged} holds NaN or infinite numbers: its training has diverged")
    found: dict[str, Tensor] = {}
    for place, norm, linear in zip((0, 4), norms, linears, strict=True):
        if missing := [name for name in _BATCH_NORM if name not in norm]:
            raise InputError(f"{source}: a BatchNorm of its head lacks {', '.join(missing)}")
        if norm["bias"].shape != linear["weight"].shape[1:]:
            raise InputError(f"{source}: a BatchNorm of its head does not go with the linear layer after it")
        moved = {"bias": _with_bias(source, norm["bias"], linear)} if "bias" in linear else {}
        found |= {f"{place}.{name}": tensor for name, tensor in (norm | moved).items()}
        found[f"{place + 2}.weight"] = linear["weight"]
    return found


def _with_bias(source: str, shift: Tensor, linear: Mapping[str, Tensor]) -> Tensor:
    """A BatchNorm's ``shift`` that gives the linear layer after it its bias, too: the smallest change that does."""
    weight, bias = linear["weight"].double(), linear["bias"].double()
    if bias.shape != weight.shape[:1]:
        raise InputError(f"{source}: a bias of its head does not go with its weight")
    change = torch.linalg.pinv(weight) @ bias
    if (weight @ change - bias).abs().max() > 1e-6 * max(1.0, float(bias.abs().max())):
        raise InputError(
            f"{source}: a bias of its head cannot move into the BatchNorm before it, as the layer's outputs are "
            "linearly dependent; train a classifier on the imported language model instead"
        )
    return (shift.double() + change).float()
