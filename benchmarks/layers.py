"""What is measured: one LSTM layer on one batch, by any of the implementations compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from ulmfit_fast import WeightDropLSTM
from ulmfit_fast.ops import reference

OURS, DROPPED, TORCH, REFERENCE = "ours", "ours, weight_dropout=0.5", "nn.LSTM", "reference"


@dataclass(frozen=True)
class Case:
    """One row of the results: sizes, sequence lengths (longest first), element type, inference or training."""

    input_size: int
    hidden_size: int
    lengths: tuple[int, ...]
    dtype: str = "float32"
    training: bool = False

    @property
    def packed(self) -> bool:
        return len(set(self.lengths)) > 1

    @property
    def gflop(self) -> float:
        """Matrix products alone: x W_ih^T and h W_hh^T forward, twice that backward (with respect to x, too)."""
        forward = 2 * 4 * self.hidden_size * (self.input_size + self.hidden_size) * sum(self.lengths)
        return forward * (3 if self.training else 1) / 1e9


class ReferenceLayer(nn.LSTM):
    """nn.LSTM's parameters, ops.lstm's readable definition in plain PyTorch."""

    def forward(self, x: Tensor | PackedSequence, _: None = None) -> tuple[Tensor, None]:  # type: ignore[override]
        if isinstance(x, PackedSequence):
            data, batch_sizes = x.data, x.batch_sizes
        else:
            data, batch_sizes = x.flatten(0, 1), torch.full((x.shape[0],), x.shape[1])
        zeros = data.new_zeros(int(batch_sizes[0]), self.hidden_size)
        weights = [getattr(self, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
        return reference.lstm(data, batch_sizes, zeros, zeros, *weights)[0], None


def make_layer(name: str, case: Case) -> nn.Module:
    """The same weights for every name."""
    torch.manual_seed(0)
    kinds = {TORCH: nn.LSTM, REFERENCE: ReferenceLayer}
    dtype = getattr(torch, case.dtype)
    if name in kinds:
        return kinds[name](case.input_size, case.hidden_size, dtype=dtype).train(case.training)
    dropout = 0.5 if name == DROPPED else 0.0
    layer = WeightDropLSTM(case.input_size, case.hidden_size, weight_dropout=dropout, dtype=dtype)
    return layer.train(case.training or name == DROPPED)


class Workload:
    """One forward, or forward and backward, of a case; `run(layer)` is what is timed."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(1)
        self.case = case
        dtype = getattr(torch, case.dtype)
        shape = (case.lengths[0], len(case.lengths), case.input_size)
        self.x = torch.randn(shape, dtype=dtype, requires_grad=case.training)
        rows = (sum(case.lengths),) if case.packed else shape[:2]
        self.grad = torch.randn(*rows, case.hidden_size, dtype=dtype)
        self.input: Tensor | PackedSequence = self.x
        if case.packed:
            packed = pack_padded_sequence(self.x.detach(), torch.tensor(case.lengths))
            self.x = packed.data.requires_grad_(case.training)
            self.input = PackedSequence(self.x, packed.batch_sizes)

    def run(self, layer: nn.Module) -> None:
        if not self.case.training:
            with torch.no_grad():
                layer(self.input)
            return
        self.x.grad = None
        layer.zero_grad()
        output = layer(self.input)[0]
        data = output.data if isinstance(output, PackedSequence) else output
        data.backward(self.grad.view(data.shape))
