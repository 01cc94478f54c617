"""How a document's states become one vector: what BPT3C asks of a pooling, and concat pooling.

A pooling is carried through a document from call to call, so its memory does not grow with the text. In the second pass
it says what gradient each stretch of the document gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from ulmfit_fast.core.device import on_device
from ulmfit_fast.nn.documents import concat_pool
from ulmfit_fast.nn.encoder import Encoder, EncoderMasks, EncoderWeights, LayerState
from ulmfit_fast.nn.segments import Segments
from ulmfit_fast.ops import PooledState


class PoolingState(Protocol):
    """What is carried of D documents; a NamedTuple of tensors. A call's row r belongs to document r."""

    @property
    def last(self) -> Tensor:
        """[D, E], the latest state: float32, float64 with float64 states."""

    @property
    def count(self) -> Tensor:
        """int64 [D], steps that the document has had."""

    @property
    def pool_from(self) -> Tensor:
        """int64 [D], the first step that is pooled."""

    def pooled(self) -> Tensor:
        """[D, output size]: the vector so far."""

    def __iter__(self) -> Any: ...

    def _replace(self, **changes: Tensor) -> Self: ...


class ReadingWeights(NamedTuple):
    """The tensors that documents are read and pooled with."""

    encoder: EncoderWeights
    pooling: tuple[Tensor, ...]

    def flat(self) -> list[Tensor]:
        return [*self.encoder.flat(), *self.pooling]

    def detached(self) -> ReadingWeights:
        """The same values as leaves of a graph of their own."""
        own = tuple(x.detach().requires_grad_(x.requires_grad) for x in self.pooling)
        return ReadingWeights(self.encoder.detached(), own)


class PoolingResult(NamedTuple):
    """What a pooling makes of a call.

    Attributes:
        state: the new pooling state.
        end: each layer's state after each sequence's last step.
        boundaries: each layer's states at the rows asked for; empty where none were.
        outputs: what ``Pooling.gradients`` takes of this call.
    """

    state: Any
    end: list[LayerState]
    boundaries: list[LayerState]
    outputs: Any


class Pooling(nn.Module):
    """Base of the poolings.

    Args:
        features: of a state, E.

    Attributes:
        parts: names of the E features each that the pooled vector consists of, in order.
    """

    parts: tuple[str, ...]

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    @property
    def output_size(self) -> int:
        return len(self.parts) * self.features

    def weights(self) -> tuple[Tensor, ...]:
        """What it computes with now: parameters, or what parametrizations made of them."""
        return ()

    def empty(self, documents: int, dtype: torch.dtype, device: torch.device | str) -> Any:
        """The ``PoolingState`` before the first step; ``dtype`` of the states to come."""
        raise NotImplementedError

    def run(
        self, encoder: Encoder, tokens: Tensor, batch_sizes: Tensor, start: list[LayerState],
        masks: EncoderMasks | None, state: Any, *, weights: ReadingWeights | None = None, bptt: int = 0,
        boundary_rows: Tensor | None = None,
    ) -> PoolingResult:  # fmt: skip
        """Encode packed rows into the pooling state of their documents.

        Args:
            start: each layer's states before the first step.
            state: the documents' pooling state so far.
            weights: to use in place of the encoder's and the pooling's own.
            encoder, tokens, batch_sizes, masks, bptt, boundary_rows: as ``AWDLSTM.pool``.
        """
        raise NotImplementedError

    def gradients(
        self, segments: Segments, outputs: Any, state: Any, grad_pooled: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Differentiable results of a call, and the gradient that the pooled vector gives to each.

        Args:
            segments: that were run.
            outputs: ``PoolingResult.outputs`` of that call, with a graph.
            state: of the whole documents.
            grad_pooled: [D, output size], d loss / d ``state.pooled()``.
        """
        raise NotImplementedError

    def shares(self, states: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """What each stretch of one document gives to the means, the parts behind the maximum.

        Args:
            states: K, after each stretch.

        Returns:
            Float64: each stretch's share of a mean's weights, [K, means]; and of its value, [K, means, E].
        """
        raise NotImplementedError

    def forward(self, states: Tensor, lengths: Tensor, pool_from: Tensor) -> Tensor:
        """The same in one autograd graph, of states that are all there, in plain torch.

        Args:
            states: [D, T, E], padded at the end.
            lengths, pool_from: int64 [D].

        Returns:
            [D, output size] in float32, or float64 with float64 states.
        """
        raise NotImplementedError


def added_by_each(sums: Tensor) -> Tensor:
    """What was added to sums that began with zero, [K, ...] of each stretch."""
    return torch.diff(sums, dim=0, prepend=torch.zeros_like(sums[:1]))


class ConcatPooling(Pooling):
    """``[h_last, max, mean]`` over a document's states.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3.
    """

    parts = ("last", "maximum", "mean")

    def empty(self, documents: int, dtype: torch.dtype, device: torch.device | str) -> PooledState:
        return PooledState.empty(documents, self.features, dtype, device)

    def run(
        self, encoder: Encoder, tokens: Tensor, batch_sizes: Tensor, start: list[LayerState],
        masks: EncoderMasks | None, state: Any, *, weights: ReadingWeights | None = None, bptt: int = 0,
        boundary_rows: Tensor | None = None,
    ) -> PoolingResult:  # fmt: skip
        pooled, end, boundaries = encoder.pool(
            tokens, batch_sizes, start, masks, state, weights=None if weights is None else weights.encoder, bptt=bptt,
            boundary_rows=boundary_rows,
        )  # fmt: skip
        return PoolingResult(pooled, end, boundaries, pooled)

    def gradients(
        self, segments: Segments, outputs: Any, state: Any, grad_pooled: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        device = state.count.device
        document, begin = on_device(segments.document, device), on_device(segments.first_step, device)
        end = begin + on_device(segments.length, device)
        grad_last, grad_max, grad_mean = grad_pooled.to(state.last.dtype).chunk(3, dim=1)
        pooled_steps = (state.count - state.pool_from).unsqueeze(1)
        argmax = state.argmax[document]
        here = (argmax >= begin.unsqueeze(1)) & (argmax < end.unsqueeze(1))
        ends = (end == state.count[document]).unsqueeze(1)
        count = len(document)
        found = [outputs.total[:count], outputs.maximum[:count], outputs.last[:count]]
        grads = [(grad_mean / pooled_steps)[document], grad_max[document] * here, grad_last[document] * ends]
        return found, [g.to(x.dtype) for x, g in zip(found, grads, strict=True)]

    def shares(self, states: Sequence[Any]) -> tuple[Tensor, Tensor]:
        steps = torch.cat([(state.count - state.pool_from).clamp(min=0) for state in states]).double()
        totals = torch.cat([state.total for state in states])
        return (added_by_each(steps) / steps[-1]).unsqueeze(1), (added_by_each(totals) / steps[-1]).unsqueeze(1)

    def forward(self, states: Tensor, lengths: Tensor, pool_from: Tensor) -> Tensor:
        return concat_pool(states, lengths, pool_from)
