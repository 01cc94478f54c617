"""Models of fastai and awd-lstm-lm, whose wrappers drop an LSTM's weights."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

V, E, H = 40, 6, 10
SIZES = {"emb_sz": E, "n_hid": H, "n_layers": 3}


class WeightDrop(nn.Module):
    """What awd-lstm-lm's does: each recurrent weight becomes ``<name>_raw`` of the LSTM, and is set anew at every call.

    ``as_parameter``: the copy is a Parameter, as in its later versions (which thereby cut the raw weight's gradient).
    """

    def __init__(
        self, module: nn.Module, weights: Sequence[str], dropout: float = 0, variational: bool = False,
        as_parameter: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.module, self.weights, self.dropout, self.variational = module, weights, dropout, variational
        self.as_parameter = as_parameter
        module.flatten_parameters = self.nothing  # type: ignore[assignment]
        for name in weights:
            raw = module._parameters.pop(name)
            module.register_parameter(f"{name}_raw", nn.Parameter(raw.data))

    def nothing(self) -> None: ...

    def forward(self, *arguments: Any) -> Any:
        for name in self.weights:
            raw = getattr(self.module, f"{name}_raw")
            dropped = F.dropout(raw, self.dropout, self.training)
            setattr(self.module, name, nn.Parameter(dropped) if self.as_parameter else dropped)
        return self.module.forward(*arguments)


class AwdLanguageModel(nn.Module):
    """awd-lstm-lm's names."""

    def __init__(self, dropout: float = 0.3, as_parameter: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Embedding(V, E)
        sizes = [E, H, E]
        self.rnns = nn.ModuleList(
            WeightDrop(nn.LSTM(into, out), ["weight_hh_l0"], dropout, as_parameter=as_parameter)
            for into, out in itertools.pairwise(sizes)
        )
        self.decoder = nn.Linear(E, V)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.encoder(tokens)
        for rnn in self.rnns:
            x, _ = rnn(x)
        return self.decoder(x)


def fastai_language_model(**config: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = pytest.importorskip("fastai.text.models.core", reason="fastai is not installed")
        from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
    return core.get_language_model(AWD_LSTM, V, config=awd_lstm_lm_config | SIZES | config)


def fastai_classifier(drop_mult: float = 0.5) -> Any:
    fastai_language_model()
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
    from fastai.text.models.core import get_text_classifier

    config = awd_lstm_clas_config | SIZES
    return get_text_classifier(AWD_LSTM, V, 3, seq_len=8, config=config, drop_mult=drop_mult, ps=[0.1 * drop_mult])
