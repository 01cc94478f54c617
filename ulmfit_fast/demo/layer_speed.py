"""One training step of an LSTM layer on packed sequences, ours beside torch.nn.LSTM."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from ulmfit_fast.nn.lstm import WeightDropLSTM


def measure_layers(
    size: int = 512,
    batch: int = 32,
    repeats: int = 3,
    weight_dropout: float = 0.5,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Median seconds of a training step (forward and backward) on one packed batch: ours with weight drop, nn.LSTM.

    Lengths 50 to 200, ``size`` features in and out, float32, in turn.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(50, 201, (batch,), generator=generator).sort(descending=True)[0]
    padded = torch.randn(int(lengths[0]), batch, size, generator=generator).to(device)
    packed = pack_padded_sequence(padded, lengths)
    layers = [WeightDropLSTM(size, size, weight_dropout=weight_dropout).to(device), nn.LSTM(size, size).to(device)]
    seconds: list[list[float]] = [[], []]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # its own float32 has ten bits
        for repeat in range(repeats + 1):
            for layer, times in zip(layers, seconds, strict=True):
                begin = time.perf_counter()
                _train_step(layer, packed)
                if repeat > 0:  # the first warms up
                    times.append(time.perf_counter() - begin)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _train_step(layer: nn.Module, packed: PackedSequence) -> None:
    layer.zero_grad()
    output, _ = layer(packed)
    output.data.sum().backward()
    if output.data.is_cuda:
        torch.cuda.synchronize()
