"""Attention pooling: learned weights over a document's states in the place of their plain mean.

Exponentials are summed with a running maximum (online softmax), so a document of any length is pooled in one pass. What
runs is the maximum's power of two: to scale by that is exact, and steps are added one by one in float64. The result
therefore depends, to the bit, neither on where calls begin and end nor, on the CPU, on the batch's other documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulmfit_fast import ops
from ulmfit_fast.core.device import on_device
from ulmfit_fast.nn.encoder import Encoder, EncoderMasks, LayerState
from ulmfit_fast.nn.pooling import Pooling, PoolingResult, ReadingWeights, added_by_each
from ulmfit_fast.nn.segments import Segments, rows_and_steps
from ulmfit_fast.ops import sequence_lengths
from ulmfit_fast.ops.shared import state_dtype

_LOWEST = -(1 << 40)  # a power of two below all others
_AT_A_TIME = 1 << 19  # weighted features that are summed at a time, 4 MB, unless one step has more


class AttentionState(NamedTuple):
    """Attention pooling over time of D documents with E features, carried from call to call.

    Attributes:
        maximum, argmax, last, count, pool_from: as in ``ops.PooledState``.
        power: int64 [D, heads], the running maximum of the scores as a power of two, rounded down.
        mass: float64 [D, heads], the sum of exp(score) / 2^power.
        total: float64 [D, heads, E], the sum of exp(score) / 2^power times the state.
    """

    maximum: Tensor
    argmax: Tensor
    last: Tensor
    count: Tensor  # type: ignore[assignment]
    pool_from: Tensor
    power: Tensor
    mass: Tensor
    total: Tensor

    def means(self) -> Tensor:
        """[D, heads, E], the weighted mean of each head."""
        return (self.total / self.mass.unsqueeze(2)).to(self.last.dtype)

    def pooled(self) -> Tensor:
        """``[h_last, max, mean of each head]``, [D, (2 + heads) E]."""
        return torch.cat([self.last, self.maximum, self.means().flatten(1)], dim=1)


class AttentionPooling(Pooling):
    """``[h_last, max, sum_t a_t h_t of each head]`` over a document's states h_t.

    ``a = softmax_t(context . tanh(projection h_t + bias))`` over all steps of the document that are pooled. A new
    ``context`` is zero: training begins with even weights, which is concat pooling, the mean once for each head.

    Args:
        features: of a state, E.
        heads: weighted means, each with a context vector of its own.
        size: features A of the projection, by which states are compared with the context vectors.

    Raises:
        ValueError: heads or size < 1.

    Source: Yang et al., Hierarchical Attention Networks for Document Classification (NAACL 2016), equations 5 to 7; for
    several heads Lin et al., arXiv 1703.03130, equation 6.
    """

    def __init__(self, features: int, heads: int = 1, size: int = 100) -> None:
        super().__init__(features)
        if heads < 1 or size < 1:
            raise ValueError(f"AttentionPooling: heads and size must be at least 1, got {heads} and {size}")
        self.heads = heads
        self.parts = ("last", "maximum", *(f"attention{k}_" for k in range(heads)))
        self.projection = nn.Parameter(torch.empty(size, features))
        self.bias = nn.Parameter(torch.empty(size))
        self.context = nn.Parameter(torch.empty(heads, size))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the projection as ``torch.nn.Linear`` does; the context is zero."""
        bound = 1 / math.sqrt(self.features)
        with torch.no_grad():
            self.projection.uniform_(-bound, bound, generator=generator)
            self.bias.zero_()
            self.context.zero_()

    def extra_repr(self) -> str:
        return f"{self.features}, heads={self.heads}, size={len(self.bias)}"

    def weights(self) -> tuple[Tensor, ...]:
        return self.projection, self.bias, self.context

    def empty(self, documents: int, dtype: torch.dtype, device: torch.device | str) -> AttentionState:
        concat = ops.PooledState.empty(documents, self.features, dtype, device)
        mass = torch.zeros(documents, self.heads, dtype=torch.float64, device=device)
        return AttentionState(
            concat.maximum, concat.argmax, concat.last, concat.count, concat.pool_from,
            torch.full_like(mass, _LOWEST, dtype=torch.int64), mass,
            mass.new_zeros(documents, self.heads, self.features),
        )  # fmt: skip

    def run(
        self, encoder: Encoder, tokens: Tensor, batch_sizes: Tensor, start: list[LayerState],
        masks: EncoderMasks | None, state: Any, *, weights: ReadingWeights | None = None, bptt: int = 0,
        boundary_rows: Tensor | None = None,
    ) -> PoolingResult:  # fmt: skip
        output, end, boundaries = encoder.states(
            tokens, batch_sizes, start, masks, weights=None if weights is None else weights.encoder, bptt=bptt,
            boundary_rows=boundary_rows,
        )  # fmt: skip
        states = output.to(state_dtype(output.dtype))
        scores = self._scores(states, self.weights() if weights is None else weights.pooling)
        new_state, first = state, 0
        for sizes in batch_sizes.split(max(1, _AT_A_TIME // (int(batch_sizes[0]) * self.heads * self.features))):
            rows = slice(first, first + int(sizes.sum()))
            new_state, first = _added(new_state, states[rows].detach(), scores[rows].detach(), sizes), rows.stop
        return PoolingResult(new_state, end, boundaries, (states, scores))

    def _scores(self, states: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """[N, heads] of states [N, E]; on the CPU a row's bits depend on no other row."""
        projection, bias, context = (x.to(states.dtype) for x in weights)
        with _as_they_are(states):
            return ops.linear(ops.linear(states, projection, bias).tanh(), context)

    def gradients(
        self, segments: Segments, outputs: Any, state: Any, grad_pooled: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        states, scores = outputs
        device, dtype = states.device, states.dtype
        row, step = (on_device(x, device) for x in rows_and_steps(segments.batch_sizes))
        document, begin = on_device(segments.document, device), on_device(segments.first_step, device)
        length, of_row = on_device(segments.length, device), document[row]
        grad_last, grad_max, *grad_means = grad_pooled.to(dtype).chunk(len(self.parts), dim=1)
        inside = begin[row] + step >= state.pool_from[of_row]
        power, fraction = _exponentials(scores.detach())
        shares = fraction * _power_of_two(power - state.power[of_row]) / state.mass[of_row]
        shares = shares.masked_fill(~inside.unsqueeze(1), 0.0).to(dtype)
        means = state.means()
        grad_states, grad_scores = torch.zeros_like(states), torch.zeros_like(scores)
        for head, grad in enumerate(grad_means):
            # d mean / d h_t = a_t; d mean / d score_t = a_t (h_t - mean).
            share, mine = shares[:, head], grad[of_row]
            grad_states.addcmul_(share.unsqueeze(1), mine)
            grad_scores[:, head] = share * ((mine * states.detach()).sum(1) - (grad * means[:, head]).sum(1)[of_row])
        offsets = torch.cumsum(segments.batch_sizes, 0) - segments.batch_sizes
        offsets, here = on_device(offsets, device), torch.arange(len(document), device=device)
        final = (begin + length == state.count[document]).unsqueeze(1)
        grad_states.index_add_(0, offsets[length - 1] + here, grad_last[document] * final)
        place = state.argmax[document].long() - begin.unsqueeze(1)
        ours = (place >= 0) & (place < length.unsqueeze(1))
        place = torch.minimum(place.clamp(min=0), length.unsqueeze(1) - 1)  # where it is another's, a zero is added
        grad_states.scatter_add_(0, offsets[place] + here.unsqueeze(1), grad_max[document] * ours)
        both = [(x, g) for x, g in ((states, grad_states), (scores, grad_scores)) if x.requires_grad]
        return [x for x, _ in both], [g for _, g in both]

    def shares(self, states: Sequence[Any]) -> tuple[Tensor, Tensor]:
        last = states[-1]
        scales = [_power_of_two(state.power - last.power) for state in states]
        masses = torch.cat([state.mass * scale for state, scale in zip(states, scales, strict=True)])
        totals = torch.cat([state.total * scale.unsqueeze(2) for state, scale in zip(states, scales, strict=True)])
        return added_by_each(masses) / last.mass, added_by_each(totals) / last.mass.unsqueeze(2)

    def forward(self, states: Tensor, lengths: Tensor, pool_from: Tensor) -> Tensor:
        states = states.to(state_dtype(states.dtype))
        step = torch.arange(states.shape[1], device=states.device)
        outside = ((step < pool_from.unsqueeze(1)) | (step >= lengths.unsqueeze(1))).unsqueeze(2)
        projection, bias, context = (x.to(states.dtype) for x in self.weights())
        with _as_they_are(states):
            scores = F.linear(F.linear(states, projection, bias).tanh(), context).double()
            shares = scores.masked_fill(outside, -torch.inf).softmax(1)
            means = (shares.transpose(1, 2) @ states.double()).to(states.dtype)
        last = states.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])).squeeze(1)
        maximum = states.masked_fill(outside, -torch.inf).max(1).values
        return torch.cat([last, maximum, means.flatten(1)], dim=1)


def _as_they_are(x: Tensor) -> AbstractContextManager[Any]:
    """Without autocast: scores of a document's length are summed, and a rounded one would move its weight."""
    if torch.compiler.is_exporting():
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """``exp(scores)`` as ``fraction * 2^power``: power int64, fraction float64, about 1 to 2."""
    scores = scores.double()
    power = (scores * math.log2(math.e)).floor().clamp(_LOWEST, -_LOWEST)
    return power.long(), (scores - power * math.log(2)).exp()


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, exactly, in float64, of int64 numbers that are at most 1023; 0 below -1022."""
    return ((exponent.clamp(-1023, 1023) + 1023) << 52).view(torch.float64)


@torch.no_grad()
def _added(state: AttentionState, states: Tensor, scores: Tensor, batch_sizes: Tensor) -> AttentionState:
    """The pooling state after more steps; not changed itself.

    Args:
        states, scores: [N, E] and [N, heads], packed.
    """
    device, count = states.device, int(batch_sizes[0])
    row, step = (on_device(x, device) for x in rows_and_steps(batch_sizes))
    outside = (state.count[row] + step < state.pool_from[row]).unsqueeze(1)
    power, fraction = _exponentials(scores)
    index = row.unsqueeze(1).expand_as(power)
    highest = state.power.scatter_reduce(0, index, power.masked_fill(outside, _LOWEST), "amax")
    scale = _power_of_two(state.power - highest)
    weight = (fraction * _power_of_two(power - highest[row])).masked_fill(outside, 0.0)
    mass = (state.mass * scale).index_add_(0, row, weight)
    total = (state.total * scale.unsqueeze(2)).index_add_(0, row, weight.unsqueeze(2) * states.unsqueeze(1))
    found, where = _in_time(states.masked_fill(outside, -torch.inf), row, step, batch_sizes).max(0)
    greater = found > state.maximum[:count]
    argmax = torch.where(greater, (where + state.count[:count].unsqueeze(1)).int(), state.argmax[:count])
    maximum = torch.where(greater, found, state.maximum[:count])
    lengths = sequence_lengths(batch_sizes)
    ends = (torch.cumsum(batch_sizes, 0) - batch_sizes)[lengths - 1] + torch.arange(count, device="cpu")
    return AttentionState(
        torch.cat([maximum, state.maximum[count:]]),
        torch.cat([argmax, state.argmax[count:]]),
        torch.cat([states[on_device(ends, device)], state.last[count:]]),
        torch.cat([state.count[:count] + on_device(lengths, device), state.count[count:]]),
        state.pool_from, highest, mass, total,
    )  # fmt: skip


def _in_time(states: Tensor, row: Tensor, step: Tensor, batch_sizes: Tensor) -> Tensor:
    """Packed rows as [T, B, E]; -inf where a sequence has ended."""
    steps, count = len(batch_sizes), int(batch_sizes[0])
    if len(states) == steps * count:
        return states.view(steps, count, -1)
    padded = states.new_full((steps * count, states.shape[1]), -torch.inf)
    return padded.index_copy_(0, step * count + row, states).view(steps, count, -1)
