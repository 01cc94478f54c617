"""Stretches of documents, side by side as packed rows: what the two passes of BPT3C run at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ulmfit_fast.nn.encoder import EncoderMasks, LayerState


@dataclass
class Segments:
    """Stretches of documents, run side by side as packed rows: whole blocks, or their chunks."""

    tokens: Tensor  # int64 [N], packed
    batch_sizes: Tensor  # int64 [T]
    document: Tensor  # int64 [S] whose stretch it is
    first_step: Tensor  # int64 [S] where in the document it begins
    length: Tensor  # int64 [S]
    state: list[LayerState]  # at its start, each layer's tensors [S, size]
    masks: EncoderMasks | None  # of the S stretches


def rows_and_steps(batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Of each packed row its sequence and its step, int64 [N], on the CPU."""
    steps = torch.arange(len(batch_sizes), device="cpu").repeat_interleave(batch_sizes)
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    return torch.arange(len(steps), device="cpu") - offsets[steps], steps
