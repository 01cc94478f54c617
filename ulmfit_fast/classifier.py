"""The text classifier: documents through BPT3C, concat pooling, and a two-block head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.awd_lstm import AWDLSTM
from ulmfit_fast.bpt3c import BPT3C


def classifier_head(features: int, hidden_size: int, classes: int, dropouts: tuple[float, float]) -> nn.Sequential:
    """BatchNorm, dropout, linear, ReLU, BatchNorm, dropout, linear: [B, features] to [B, classes].

    The linear layers have no bias, as in fastai: a BatchNorm precedes each.
    """
    return nn.Sequential(
        nn.BatchNorm1d(features),
        nn.Dropout(dropouts[0]),
        nn.Linear(features, hidden_size, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(hidden_size),
        nn.Dropout(dropouts[1]),
        nn.Linear(hidden_size, classes, bias=False),
    )


class TextClassifier(nn.Module):
    """Classifies documents of any length.

    Args:
        encoder: the AWD-LSTM; its ``output_p`` is the dropout on the pooled vector.
        classes: number of labels K, at least 2.
        hidden_size: width of the head's hidden layer.
        hidden_dropout: dropout before the last linear layer.
        bptt, backprop, mask_scope, variable_length: as in ``BPT3C``.

    Raises:
        ValueError: fewer than two classes, and as ``BPT3C``.
    """

    def __init__(
        self,
        encoder: AWDLSTM,
        classes: int,
        hidden_size: int = 50,
        hidden_dropout: float = 0.1,
        bptt: int = 70,
        backprop: str = "detached",
        mask_scope: str = "document",
        variable_length: bool = False,
    ) -> None:
        super().__init__()
        self.classes = classes
        if classes < 2:
            raise ValueError(f"TextClassifier: classes must be at least 2, got {classes}")
        self.bpt3c = BPT3C(encoder, bptt, backprop, mask_scope, variable_length)
        dropouts = (encoder.config.output_p, hidden_dropout)
        self.head = classifier_head(self.bpt3c.output_size, hidden_size, classes, dropouts)

    def layer_groups(self) -> list[nn.Module]:
        """[embedding], [first LSTM], ..., [last LSTM], [head]."""
        encoder = self.bpt3c.encoder
        return [encoder.encoder, *encoder.rnns, self.head]

    def forward(self, documents: PackedSequence) -> Tensor:
        """Logits [B, K] in the documents' original order; ``documents`` as ``text.batching.pack_documents`` makes them.

        In eval mode a document's logits do not depend, to the bit, on the other documents.
        """
        pooled = self.bpt3c(documents).to(self.head[2].weight.dtype)
        if self.training:
            return self.head(pooled)
        # Row by row: a BLAS product's rounding depends on the number of its rows.
        return torch.cat([self.head(row) for row in pooled.split(1)])
