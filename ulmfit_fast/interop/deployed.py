"""Classifiers as they are deployed: from token ids to what the task makes of them, in one module."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.training.trained import TrainedClassifier


class DeployedClassifier(nn.Module):
    """A trained classifier, or one of each direction, as a function of token ids: what every exported form computes.

    ``(tokens, lengths) -> activated``: token ids in the order of the text, ``xxbos`` first, int64 [B, T], padded at
    the end with any id, and their numbers, int64 [B], in [1, T]. The result, float32 [B, K], equals
    ``predict_probabilities`` within rounding: probabilities with the calibrated temperature, of regression the number
    [B, 1]. A backward model turns its rows round itself; of several models it is the mean.

    The models' parameters are shared, not copied, if they are on the CPU and in eval mode.

    Args:
        classifiers: one, or several of one task and one vocabulary.
        name: of the function that asks, for messages.

    Raises:
        InputError: none; an int8 model; tasks, labels or vocabularies that differ.
    """

    def __init__(self, classifiers: TrainedClassifier | Sequence[TrainedClassifier], name: str = "export") -> None:
        super().__init__()
        trained = [classifiers] if isinstance(classifiers, TrainedClassifier) else list(classifiers)
        if not trained:
            raise InputError(f"{name}: no classifier was given")
        first = trained[0]
        for each in trained:
            if is_quantized(each.model):
                raise InputError(
                    f"{name}: the model is int8, in a form of this processor's; export the float32 model instead "
                    "(ONNX has an int8 form of its own)"
                )
            if each.task.type != first.task.type or each.labels != first.labels:
                raise InputError(f"{name}: the classifiers have different tasks or labels; train them on one table")
            if each.tokenizer.reading("forward").to_json() != first.tokenizer.reading("forward").to_json():
                raise InputError(
                    f"{name}: the classifiers have different vocabularies, which one graph cannot have; export each "
                    "alone and take the mean of their results"
                )
        self.tokenizer = first.tokenizer.reading("forward")
        self.tasks = [each.task for each in trained]  # each has a temperature of its own
        self.backward = [each.tokenizer.direction == "backward" for each in trained]
        self.models = nn.ModuleList(_ready(each.model) for each in trained)
        self.eval()

    @property
    def output_name(self) -> str:
        """What is computed: "probabilities", or "number"."""
        return "probabilities" if self.tasks[0].labels else "number"

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        found = []
        for model, task, backward in zip(self.models, self.tasks, self.backward, strict=True):
            logits = model(_turned_round(tokens, lengths) if backward else tokens, lengths)
            found.append(task.activate(logits))
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)


def _turned_round(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Each row's first ``lengths`` ids from the last to the first."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens.gather(1, (lengths.unsqueeze(1) - 1 - places).clamp(min=0))


def _ready(model: TextClassifier) -> TextClassifier:
    """In eval mode on the CPU; a copy where the model itself is not."""
    if any(module.training for module in model.modules()) or not all(x.is_cpu for x in model.parameters()):
        return copy.deepcopy(model).cpu().eval()
    return model
