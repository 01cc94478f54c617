"""The kinds of encoder by the name that ``config.json``, configurations and the command line have for them."""

from __future__ import annotations

from typing import Any, NamedTuple

from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.encoder import Encoder
from ulmfit_fast.nn.qrnn import QRNN, QRNNConfig
from ulmfit_fast.nn.stacked import StackConfig, StackedEncoder


class EncoderType(NamedTuple):
    config: type[StackConfig]
    encoder: type[StackedEncoder]


ENCODERS = {"awd_lstm": EncoderType(AWDLSTMConfig, AWDLSTM), "qrnn": EncoderType(QRNNConfig, QRNN)}
DEFAULT_ENCODER = "awd_lstm"


def make_encoder(config: StackConfig) -> StackedEncoder:
    """A new encoder of the kind that the configuration is of."""
    make: Any = next(kind.encoder for kind in ENCODERS.values() if type(config) is kind.config)
    return make(config)


def encoder_type(encoder: Encoder | StackedEncoder) -> str:
    """The name of an encoder's kind. Raises TypeError for one that has none."""
    for name, kind in ENCODERS.items():
        if isinstance(encoder, kind.encoder):
            return name
    raise TypeError(f"an encoder must be one of {', '.join(ENCODERS)}, got {type(encoder).__name__}")
