"""What each chunk of a document gives to its pooled vector, exactly; with attention pooling, each token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.attention_pooling import AttentionPooling
from ulmfit_fast.nn.bpt3c import BPT3C
from ulmfit_fast.nn.pooling import PoolingResult

_AT_A_TIME = 4096  # tokens whose weights are computed at a time


class Chunks(NamedTuple):
    """A document's pooled vector, chunk by chunk: the last state, the maximum, and means (of concat pooling one).

    Attributes:
        starts: int64 [K + 1], the token that each chunk begins with, and the number of tokens behind them.
        parts: float64 [K, output size], what each chunk gives to each feature: the chunk with the last state gives it,
            the chunk with the maximum gives that, and to a mean each gives its weighted sum. The sum over the chunks is
            the pooled vector.
        owned: float64 [K, output size], how much of each feature is a chunk's: 0 or 1, of a mean its share of the
            weights.
        features: of a state, E.
    """

    starts: Tensor
    parts: Tensor
    owned: Tensor
    features: int

    def share_of_maximum(self) -> Tensor:
        """Of how many features the maximum lies in each chunk, as a share; [K]."""
        return self.owned[:, self.features : 2 * self.features].mean(1)

    def share_of_mean(self) -> Tensor:
        """Each chunk's share of the means' squared length, [K]; one that points another way has a negative share."""
        mine = self.parts[:, 2 * self.features :]
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
    states = [read.state for read in _readings(bpt3c, tokens, size)]
    pooled, count = states[-1], int(states[-1].count)
    weights, means = (x.cpu() for x in bpt3c.pooling.shares(states))  # [K, M], [K, M, E]
    starts = torch.tensor([*range(0, count, size), count], device="cpu")
    here = pooled.argmax[0].cpu() // size == torch.arange(len(states), device="cpu").unsqueeze(1)
    last = torch.zeros_like(means[:, 0])
    last[-1] = 1
    owned = torch.cat([last, here.double()], dim=1)
    values = torch.cat([pooled.last, pooled.maximum], dim=1)[0].double().cpu()
    parts = torch.cat([owned * values, means.flatten(1)], dim=1)
    owned = torch.cat([owned, weights.unsqueeze(2).expand_as(means).flatten(1)], dim=1)
    return Chunks(starts, parts, owned, bpt3c.pooling.features)


@torch.no_grad()
def attention_of(bpt3c: BPT3C, tokens: Tensor) -> Tensor:
    """The weights by which attention pooling takes the means of one document, float64 [T, heads], in eval mode.

    Each head's sum to one. Tokens that are not read, or not pooled, have none.

    Args:
        tokens: int64 [T], on the encoder's device.

    Raises:
        InputError: another pooling; an encoder with hooks, which would not run.
    """
    if not isinstance(bpt3c.pooling, AttentionPooling):
        raise InputError(
            "explain: method 'attention' is for classifiers with attention pooling, which this one has not; train one "
            "with --pooling attention, or take method 'integrated_gradients'"
        )
    scores: list[Tensor] = []
    for read in _readings(bpt3c, tokens, _AT_A_TIME):
        scores.append(read.outputs[1])
        first = int(read.state.pool_from)
    of_read = torch.cat(scores).double()
    of_read[:first] = -torch.inf
    return torch.cat([of_read.softmax(0), of_read.new_zeros(len(tokens) - len(of_read), of_read.shape[1])])


def _readings(bpt3c: BPT3C, tokens: Tensor, size: int) -> Iterator[PoolingResult]:
    """What the pooling makes of a document, ``size`` tokens after the other, without a graph."""
    encoder, config = bpt3c.encoder, bpt3c.config
    if bpt3c.calls_modules():
        raise InputError("chunks_of: the embedding, a layer or the pooling has hooks, which would not run; remove them")
    tokens = tokens[: config.read_at_most]
    first = 0 if config.window_at_the_end is None else max(0, len(tokens) - config.window_at_the_end)
    state = encoder.initial_state(1)
    pooled = bpt3c.pooling.empty(1, state[-1][0].dtype, tokens.device)
    pooled = pooled._replace(pool_from=torch.full_like(pooled.count, first))
    for piece in tokens.split(size):
        sizes = torch.ones(len(piece), dtype=torch.int64, device="cpu")
        read = bpt3c.pooling.run(encoder, piece, sizes, state, None, pooled)
        pooled, state = read.state, read.end
        yield read
