"""What the two passes are compared with: a document by the reference LSTM, everything in one autograd graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast.nn.awd_lstm import AWDLSTM
from ulmfit_fast.nn.stacked import DropoutMasks
from ulmfit_fast.ops import reference


def states_of_one_graph(
    encoder: AWDLSTM, document: Tensor, chunk: int, detach: bool, masks: list[DropoutMasks] | None, row: int
) -> Tensor:
    """The top layer's states of one document by the reference LSTM, in one autograd graph."""
    found = []
    carried = [(torch.zeros(1, r.hidden_size).double(), torch.zeros(1, r.hidden_size).double()) for r in encoder.rnns]
    for number, tokens in enumerate(document.split(chunk)):
        mask = None if masks is None else masks[min(number, len(masks) - 1)]
        x = encoder.encoder.weight[tokens]
        if mask is not None:
            x = x * mask.embedding[tokens].unsqueeze(1)
        for layer, rnn in enumerate(encoder.rnns):
            h, c = (part.detach() if detach else part for part in carried[layer])
            if mask is not None:
                x = x * mask.locked[layer][row]
            x, h, c = reference.lstm(
                x, torch.ones(len(tokens), dtype=torch.int64), h, c, rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0,
                rnn.bias_hh_l0, weight_dropout=0.0 if mask is None else rnn.weight_dropout,
                seed=None if mask is None else mask.seeds[layer],
            )  # fmt: skip
            carried[layer] = (h, c)
        found.append(x)
    return torch.cat(found)
