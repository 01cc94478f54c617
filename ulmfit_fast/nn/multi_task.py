"""One encoder under several classifiers: what multi-task training trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, cast

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.nn.classifier import TextClassifier, joined
from ulmfit_fast.nn.stacked import StackedEncoder


class MultiTaskClassifier(nn.Module):
    """Several classifiers that share an encoder; each has its head.

    The state dict has the encoder once: ``encoder``, ``heads.0``, ``heads.1`` and so on, and what poolings learn:
    ``poolings.0`` and so on.

    Args:
        classifiers: by name, in the order of the heads.

    Raises:
        ValueError: none; or they have not the same encoder.
    """

    def __init__(self, classifiers: Mapping[str, TextClassifier]) -> None:
        super().__init__()
        encoders = {id(model.bpt3c.encoder): model.bpt3c.encoder for model in classifiers.values()}
        if len(encoders) != 1:
            raise ValueError(
                f"MultiTaskClassifier: classifiers must share one encoder, got {len(classifiers)} with {len(encoders)}"
            )
        self.encoder = cast(StackedEncoder, next(iter(encoders.values())))
        self.heads = nn.ModuleList(model.head for model in classifiers.values())
        self.poolings = nn.ModuleList(model.bpt3c.pooling for model in classifiers.values())
        self.classifiers = dict(classifiers)  # a plain dict: their parameters are registered above

    def layer_groups(self) -> list[nn.Module]:
        """[embedding], [first LSTM], ..., [last LSTM], [all heads, with what their poolings learn]."""
        return [*self.encoder.layer_groups(), joined(self.poolings, self.heads)]

    def train(self, mode: bool = True) -> Self:
        """Training or eval mode, of the classifiers around encoder and heads, too."""
        for model in self.classifiers.values():
            model.train(mode)
        return super().train(mode)

    def forward(self, documents: PackedSequence | Tensor, name: str, lengths: Tensor | None = None) -> Tensor:
        """Logits [B, K] of one of the classifiers; see ``TextClassifier``."""
        logits: Tensor = self.classifiers[name](documents, lengths)
        return logits
