"""QRNN layers and MultiFiT's encoder in plain torch: a loop over time, each sequence alone. For comparison.

Modules and parameters are named as in fastai 1, whose checkpoints MultiFiT's are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, Tensor]  # c and the last input


def qrnn(x: Tensor, weight: Tensor, bias: Tensor, window: int, state: State | None = None) -> tuple[Tensor, State]:
    """Outputs [T, H] of inputs [T, F]."""
    hidden = len(bias) // 3
    c, last = state or (x.new_zeros(hidden), x.new_zeros(x.shape[1]))
    outputs = []
    for step in x:
        z, f, o = F.linear(torch.cat([step, last]) if window == 2 else step, weight, bias).split(hidden)
        c = f.sigmoid() * z.tanh() + (1 - f.sigmoid()) * c
        last = step
        outputs.append(o.sigmoid() * c)
    return torch.stack(outputs), (c, last)


class _DroppedLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_raw = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.module = nn.Module()
        self.module.bias = nn.Parameter(torch.randn(outputs) / 4)


class _Layer(nn.Module):
    def __init__(self, inputs: int, hidden: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.linear = _DroppedLinear(inputs * window, 3 * hidden)


class _OneLayer(nn.Module):
    def __init__(self, inputs: int, hidden: int, window: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(inputs, hidden, window)])


class MultiFiTEncoder(nn.Module):
    """The encoder in eval mode."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, embedding)
        self.encoder_dp = nn.Module()
        self.encoder_dp.emb = self.encoder
        sizes = [embedding, *[hidden] * (layers - 1), embedding]
        self.rnns = nn.ModuleList(_OneLayer(sizes[i], sizes[i + 1], 2 if i == 0 else 1) for i in range(layers))

    def forward(self, document: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Outputs [T, E] of token ids [T]."""
        x, after = self.encoder(document), []
        for i, rnn in enumerate(self.rnns):
            linear = rnn.layers[0].linear
            x, state = qrnn(x, linear.weight_raw, linear.module.bias, rnn.layers[0].window, states and states[i])
            after.append(state)
        return x, after


class _Decoder(nn.Module):
    def __init__(self, encoder: nn.Embedding) -> None:
        super().__init__()
        self.decoder = nn.Linear(encoder.embedding_dim, encoder.num_embeddings)
        self.decoder.weight = encoder.weight


class MultiFiT(nn.Sequential):
    """The language model; logits [T, V] of one document."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, layers: int) -> None:
        encoder = MultiFiTEncoder(vocabulary, embedding, hidden, layers)
        super().__init__(encoder, _Decoder(encoder.encoder))

    def forward(self, document: Tensor) -> Tensor:
        return self[1].decoder(self[0](document)[0])
