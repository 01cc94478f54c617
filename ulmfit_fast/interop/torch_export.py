"""Models for ``torch.export``: any batch, any length. To load a saved program, import ``ulmfit_fast.ops`` first.

A ``TextClassifier`` gives logits; ``DeployedClassifier`` what its task makes of them, probabilities for most tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.interop.deployed import DeployedClassifier
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.encoder import LayerState
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.qrnn_layer import QRNNLayer
from ulmfit_fast.nn.quantized import is_quantized

_TOKENS, _BATCH = 7, 3  # of the example that is traced; not 1, which torch.export would hold on to


class LanguageModelStep(nn.Module):
    """A language model with its softmax: ``(tokens [T, B], state) -> (logits [T, B, V], new state)``.

    The state is the list of each layer's (h, c), zeros at the beginning of a text: ``model.encoder.initial_state(B)``.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, tokens: Tensor, state: list[LayerState]) -> tuple[Tensor, list[LayerState]]:
        output = self.model(tokens, state)
        return self.model.logits(output), output.state


def export_classifier(model: TextClassifier | DeployedClassifier) -> ExportedProgram:
    """``model`` as a program: ``program.module()(tokens, lengths) -> [B, K]``.

    Its inputs are token ids padded at the end with any id, int64 [B, T], and the documents' lengths, int64 [B]. B and T
    are dynamic. Equal to ``model(tokens, lengths)``: of a ``TextClassifier`` logits without any temperature; of a
    ``DeployedClassifier`` calibrated probabilities, or the number of a regression.

    Raises:
        InputError: the model is in training mode.
    """
    return _export("export_classifier", model, *classifier_example(model))


def export_language_model(model: LanguageModel) -> ExportedProgram:
    """``model`` as a program: ``program.module()(tokens, state) -> (logits, state)``, as ``LanguageModelStep``.

    T and B are dynamic.

    Raises:
        InputError: the model is in training mode.
    """
    return _export("export_language_model", LanguageModelStep(model), *language_model_example(model))


def classifier_example(
    model: TextClassifier | DeployedClassifier,
) -> tuple[tuple[Tensor, Tensor], tuple[dict[int, Dim], ...]]:
    """Inputs of a classifier, and which of their dimensions are dynamic."""
    device = next(model.parameters()).device
    tokens = torch.zeros(_BATCH, _TOKENS, dtype=torch.int64, device=device)
    lengths = torch.tensor([_TOKENS, 2, 1], device=device)
    return (tokens, lengths), ({0: Dim("batch"), 1: Dim("tokens")}, {0: Dim("batch")})


def language_model_example(
    model: LanguageModel,
) -> tuple[tuple[Tensor, list[LayerState]], tuple[dict[int, Dim], list[tuple[dict[int, Dim], ...]]]]:
    """Inputs of a ``LanguageModelStep``, and which of their dimensions are dynamic."""
    tokens = torch.zeros(_TOKENS, _BATCH, dtype=torch.int64, device=next(model.parameters()).device)
    state = model.encoder.initial_state(_BATCH)
    batch = {0: Dim("batch")}
    return (tokens, state), ({0: Dim("tokens"), 1: Dim("batch")}, [tuple(batch for _ in layer) for layer in state])


def check_exportable(name: str, model: nn.Module) -> None:
    """InputError for a model in training mode, in int8, or with QRNN layers."""
    if any(isinstance(module, QRNNLayer) for module in model.modules()):
        raise InputError(
            f"{name}: a QRNN cannot be exported, as its scan over time has no form outside of this package; export a "
            "model with encoder awd_lstm"
        )
    if is_quantized(model):
        raise InputError(f"{name}: the model is int8, in a form of this processor's; export the float32 model instead")
    if any(module.training for module in model.modules()):
        raise InputError(f"{name}: the model is in training mode, which would export its dropout; call eval() first")


def _export(name: str, model: nn.Module, example: tuple, dynamic_shapes: tuple) -> ExportedProgram:
    check_exportable(name, model.model if isinstance(model, LanguageModelStep) else model)
    with torch.no_grad():  # nothing is kept for a backward
        return torch.export.export(model, example, dynamic_shapes=dynamic_shapes)
