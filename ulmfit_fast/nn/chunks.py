"""What each chunk of a document gives to its pooled vector, exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.bpt3c import BPT3C
from ulmfit_fast.ops import PooledState


class Chunks(NamedTuple):
    """A document's pooled vector ``[h_last, max, mean]``, chunk by chunk. Float64.

    Attributes:
        starts: int64 [K + 1], the token that each chunk begins with, and the number of tokens behind them.
        parts: [K, 3E], what each chunk gives to each feature: the chunk with the last state gives it, the chunk with
            the maximum gives that, and to the mean each gives its sum over the number of steps. The sum over the chunks
            is the pooled vector.
        owned: [K, 3E], how much of each feature is a chunk's: 0 or 1, of the mean its share of the steps.
    """

    starts: Tensor
    parts: Tensor
    owned: Tensor

    def share_of_maximum(self) -> Tensor:
        """Of how many features the maximum lies in each chunk, as a share; [K]."""
        return self.owned.chunk(3, dim=1)[1].mean(1)

    def share_of_mean(self) -> Tensor:
        """Each chunk's share of the mean's squared length, [K]; one that points another way has a negative share."""
        mine = self.parts.chunk(3, dim=1)[2]
        whole = mine.sum(0)
        return mine @ whole / whole.square().sum().clamp(min=torch.finfo(whole.dtype).tiny)


@torch.no_grad()
def chunks_of(bpt3c: BPT3C, tokens: Tensor, size: int) -> Chunks:
    """Read one document in chunks of ``size`` tokens, in eval mode. Memory grows with the chunks' number alone.

    Args:
        tokens: int64 [T], on the encoder's device.

    Raises:
        InputError: an encoder with hooks, which would not run.
    """
    encoder, config = bpt3c.encoder, bpt3c.config
    if encoder.calls_modules():
        raise InputError("chunks_of: the embedding or a layer has hooks, which would not run; remove them")
    tokens = tokens[: config.read_at_most]
    count = len(tokens)
    first = 0 if config.window_at_the_end is None else max(0, count - config.window_at_the_end)
    state = encoder.initial_state(1)
    pooled = PooledState.empty(1, encoder.output_size, state[-1][0].dtype, tokens.device)
    pooled = pooled._replace(pool_from=torch.full_like(pooled.count, first))
    totals = [pooled.total]
    for piece in tokens.split(size):
        sizes = torch.ones(len(piece), dtype=torch.int64, device="cpu")
        pooled, state, _ = encoder.pool(piece, sizes, state, None, pooled)
        totals.append(pooled.total)
    sums = torch.cat(totals).diff(dim=0).cpu()  # [K, E]
    number = len(sums)
    starts = torch.tensor([*range(0, count, size), count], device="cpu")
    steps = (starts.clamp(min=first)).diff().double().unsqueeze(1)  # that are pooled
    here = pooled.argmax[0].cpu() // size == torch.arange(number, device="cpu").unsqueeze(1)
    last = torch.zeros_like(sums)
    last[-1] = 1
    owned = torch.cat([last, here.double(), (steps / (count - first)).expand_as(sums)], dim=1)
    values = torch.cat([pooled.last, pooled.maximum], dim=1)[0].double().cpu()
    parts = torch.cat([owned[:, : len(values)] * values, sums / (count - first)], dim=1)
    return Chunks(starts, parts, owned)
