"""Models made without a draw from torch's own generator, in float32 on the CPU whatever the defaults are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ulmfit_fast.nn.attention_pooling import AttentionPooling
from ulmfit_fast.nn.bpt3c import BPT3C
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.qrnn_layer import QRNNLayer
from ulmfit_fast.nn.stacked import StackedEncoder

Module = TypeVar("Module", bound=nn.Module)


def new_module(make: Callable[[], Module], generator: torch.Generator) -> Module:
    """What ``make`` makes, its parameters drawn from ``generator``, a CPU's, by the laws of their kinds.

    Raises:
        TypeError: a module with parameters of its own whose law is not known here.
    """
    module = empty_module(make).to_empty(device="cpu")
    with torch.no_grad():
        for part in module.modules():
            _draw(part, generator)
    return module


def empty_module(make: Callable[[], Module]) -> Module:
    """What ``make`` makes, its tensors without memory: for ``load_state_dict(..., assign=True)``."""
    with torch.device("meta"):  # where drawing takes nothing from a generator
        return make().float()


def load_copies(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives an empty module copies of a state dict's tensors. Raises RuntimeError as ``load_state_dict``."""
    module.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()}, assign=True)


def _draw(part: nn.Module, generator: torch.Generator) -> None:
    if isinstance(part, nn.Embedding):  # the encoders'
        part.weight.uniform_(-0.1, 0.1, generator=generator)
    elif isinstance(part, nn.RNNBase):
        bound = 1 / math.sqrt(part.hidden_size)
        for parameter in part.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    elif isinstance(part, QRNNLayer | AttentionPooling):
        part.reset_parameters(generator)
    elif isinstance(part, nn.Linear) and part.bias is None:
        bound = 1 / math.sqrt(part.in_features)
        part.weight.uniform_(-bound, bound, generator=generator)
    elif isinstance(part, nn.BatchNorm1d):
        part.reset_parameters()
    elif isinstance(part, LanguageModel):
        part.decoder_bias.zero_()
    elif not isinstance(part, StackedEncoder | BPT3C | TextClassifier) and list(part.parameters(recurse=False)):
        raise TypeError(f"new_module: how to draw the parameters of a {type(part).__name__} is not known")
