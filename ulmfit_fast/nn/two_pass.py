"""The two passes of BPT3C: documents forward in blocks of chunks, then gradients block by block.

Pass one runs all documents of a batch side by side, a block of steps at a time, and keeps of each block only what
pass two needs to run it again: the states at its chunks' starts. Pass two recomputes a block with the same masks and
gives it its share of the pooled state's gradient. Where gradients stay inside a chunk and a document has one draw of
masks, the block's chunks are independent of each other and are run as one wide batch. Where there is memory for all
activations, blocks keep their autograd graphs from pass one instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.device import on_device
from ulmfit_fast.core.random import current_generator
from ulmfit_fast.nn.encoder import Encoder, EncoderMasks, LayerState
from ulmfit_fast.nn.pooling import Pooling, PoolingState, ReadingWeights
from ulmfit_fast.nn.segments import Segments
from ulmfit_fast.ops import draw_seed, sequence_lengths

Progress = Callable[[float], object]  # told how many more tokens are done


@dataclass(frozen=True)
class Plan:
    """How a batch is run."""

    bptt: int  # steps of a chunk
    exact: bool  # gradients cross chunks
    masks_per_chunk: bool
    store: bool  # activations are kept from pass one instead of recomputed
    block_rows: int  # rows that are run at a time, if a chunk of all documents has no more

    def chunks_of_block(self, documents: int) -> int:
        if self.masks_per_chunk:
            return 1
        return max(1, self.block_rows // (documents * self.bptt))

    @property
    def side_by_side(self) -> bool:
        """Whether the chunks of a block do not depend on each other in pass two."""
        return not self.exact and not self.masks_per_chunk


@dataclass
class Graph:
    """A block's results with their autograd graph."""

    start: list[LayerState]
    pooled: PoolingState
    end: list[LayerState]
    outputs: Any  # of the pooling, which knows their gradients


@dataclass
class Block:
    """What pass one leaves of a block for pass two."""

    segments: Segments  # one a document
    bptt: int
    starts: list[LayerState]  # each layer's states at the starts of its chunks, chunk after chunk, if they are needed
    mask_seed: int | None = None  # of its own masks, where each chunk has its own: they are drawn again in pass two
    graph: Graph | None = None


class StartStates:
    """States at the starts of blocks and chunks, all of a layer in one piece of memory.

    Many small pieces among a block's large and short-lived ones would keep the latter's memory from being used again.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows  # at most
        self._used = 0
        self._layers: list[LayerState] = []

    def append(self, starts: list[LayerState], later: list[LayerState]) -> list[LayerState]:
        """Copies of ``starts`` and behind them ``later`` (which may be empty), for every layer."""
        if not self._layers:
            like = later or starts
            self._layers = [tuple(x.new_empty(self._rows, x.shape[1]) for x in layer) for layer in like]
        begin, middle = self._used, self._used + len(starts[0][0])
        self._used = middle + (len(later[0][0]) if later else 0)
        for layer, own in enumerate(self._layers):
            for part, states in enumerate(own):  # h, c
                states[begin:middle].copy_(starts[layer][part])
                if later:
                    states[middle : self._used].copy_(later[layer][part])
        return [tuple(x[begin : self._used] for x in layer) for layer in self._layers]


def first_rows(state: list[LayerState], count: int) -> list[LayerState]:
    return [tuple(x[:count] for x in layer) for layer in state]


def flat(state: list[LayerState]) -> list[Tensor]:
    return [x for layer in state for x in layer]


def split_documents(documents: PackedSequence, plan: Plan) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Blocks of whole chunks: (first step, tokens, batch_sizes)."""
    sizes = documents.batch_sizes
    step, row = 0, 0
    while step < len(sizes):
        block = sizes[step : step + plan.chunks_of_block(int(sizes[step])) * plan.bptt]
        rows = int(block.sum())
        yield step, documents.data[row : row + rows], block
        step, row = step + len(block), row + rows


def encode(
    encoder: Encoder,
    pooling: Pooling,
    weights: ReadingWeights,
    documents: PackedSequence,
    plan: Plan,
    pool_from: Tensor,
    keep: list[Block] | None = None,
    progress: Progress | None = None,
) -> Any:
    """Pass one, without a graph but for stored blocks. Blocks that pass two needs go to ``keep``.

    Args:
        encoder: whose documents they are.
        pooling: of its states.
        weights: to use in place of their own.
        documents: token ids, packed.
        plan: how to run them.
        pool_from: int64 [B] on CPU, the first step of each document that is pooled.
        keep: where blocks go; None if there will be no pass two.
        progress: told the rows of each block.

    Returns:
        The pooling's state of the whole documents.
    """
    batch = int(documents.batch_sizes[0])
    state = encoder.initial_state(batch)
    masks = None if plan.masks_per_chunk else encoder.draw_masks(batch)
    mask_seed: int | None = None
    kept_states = StartStates(int(documents.batch_sizes[:: plan.bptt].sum()))
    pooled = pooling.empty(batch, state[0][0].dtype, documents.data.device)
    pooled = pooled._replace(pool_from=on_device(pool_from, pooled.count.device))
    for first_step, tokens, sizes in split_documents(documents, plan):
        count = int(sizes[0])
        if plan.masks_per_chunk:
            mask_seed = int(draw_seed(generator=current_generator("cpu")))
            masks = masks_of_seed(encoder, mask_seed, batch, tokens.device)
        segments = Segments(
            tokens, sizes, _count(count), torch.full((count,), first_step, device="cpu"), sequence_lengths(sizes),
            first_rows(state, count), None if masks is None else masks.first(count),
        )  # fmt: skip
        graph: Graph | None = None
        boundaries: list[LayerState] = []
        wanted = keep is not None and _has_gradient(segments, plan, pool_from)
        if wanted and plan.store:
            graph = run(encoder, pooling, weights, segments, plan, pooled)
            pooled, state = _detached(graph)
        else:
            rows = boundary_rows(sizes, plan.bptt) if wanted and plan.side_by_side else None
            with torch.no_grad():
                pooled, state, boundaries = pooling.run(  # and its outputs go at once
                    encoder, tokens, sizes, segments.state, segments.masks, pooled, weights=weights, boundary_rows=rows
                )[:3]
        if wanted and keep is not None:
            starts: list[LayerState] = []
            if graph is None:
                starts = kept_states.append(segments.state, boundaries)
                segments.state = first_rows(starts, count)
            if plan.masks_per_chunk:
                segments.masks = None
            keep.append(Block(segments, plan.bptt, starts, mask_seed, graph))
        if progress is not None:  # of tokens without a gradient pass two has nothing to tell
            progress(len(tokens) * (1 if wanted or keep is None else 2))
    return pooled


def masks_of_seed(encoder: Encoder, seed: int, batch: int, device: torch.device) -> EncoderMasks:
    """The masks of one chunk, for ``batch`` documents; ``device`` is the encoder's."""
    return encoder.new_masks(batch, torch.Generator(device).manual_seed(seed))


def run(
    encoder: Encoder, pooling: Pooling, weights: ReadingWeights, segments: Segments, plan: Plan, pooled: PoolingState
) -> Graph:
    """The segments with a graph."""
    start = segments.state
    if plan.exact:
        first = weights.encoder.first_trainable()
        start = [tuple(x.detach().requires_grad_(number >= first) for x in layer) for number, layer in enumerate(start)]
    bptt = plan.bptt if plan.side_by_side else 0
    with torch.enable_grad():
        pooled, end, _, outputs = pooling.run(
            encoder, segments.tokens, segments.batch_sizes, start, segments.masks, pooled, weights=weights, bptt=bptt
        )
    return Graph(start, pooled, end, outputs)


def _detached(graph: Graph) -> tuple[Any, list[LayerState]]:
    pooled: Any = type(graph.pooled)
    return (
        pooled(*(x.detach() for x in graph.pooled)),
        [tuple(x.detach() for x in layer) for layer in graph.end],
    )


def _count(n: int) -> Tensor:
    """0 to n - 1, on the CPU whatever torch's default device is."""
    return torch.arange(n, device="cpu")


def boundary_rows(batch_sizes: Tensor, bptt: int) -> Tensor:
    """The packed rows after which a chunk ends and another of the same document begins, chunk after chunk."""
    starts = bptt * _count(-(-len(batch_sizes) // bptt))[1:]
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    continuing = batch_sizes[starts]
    first = torch.cumsum(continuing, 0) - continuing
    document = _count(int(continuing.sum())) - first.repeat_interleave(continuing)
    return offsets[starts - 1].repeat_interleave(continuing) + document


def chunks_side_by_side(block: Block, pool_from: Tensor) -> Segments:
    """The chunks of a block as one wide batch, the longest first. Chunks that nothing is pooled from are left out."""
    whole, bptt = block.segments, block.bptt
    sizes = whole.batch_sizes
    starts = _count(len(sizes))[::bptt]
    running = sizes[starts]
    start = starts.repeat_interleave(running)
    first = torch.cumsum(running, 0) - running
    document = _count(int(running.sum())) - first.repeat_interleave(running)
    length = (whole.length[document] - start).clamp(max=bptt)
    first_step = whole.first_step[document] + start
    wanted = (first_step + length > pool_from[document]).nonzero().squeeze(1)
    order = wanted[torch.argsort(length[wanted], descending=True, stable=True)]
    start, document, length, first_step = start[order], document[order], length[order], first_step[order]
    steps = _count(int(length[0])).unsqueeze(1)
    inside = steps < length
    offsets = torch.cumsum(sizes, 0) - sizes
    rows = (offsets[(start + steps).clamp(max=len(sizes) - 1)] + document)[inside]
    device = whole.tokens.device
    tokens, order = whole.tokens[on_device(rows, device)], on_device(order, device)
    state: list[LayerState] = [tuple(x[order] for x in layer) for layer in block.starts]
    masks = None if whole.masks is None else whole.masks.of_rows(document)
    return Segments(tokens, inside.sum(1), document, first_step, length, state, masks)


def gradients(
    encoder: Encoder,
    pooling: Pooling,
    weights: ReadingWeights,
    blocks: list[Block],
    plan: Plan,
    pool_from: Tensor,
    pooled: PoolingState,
    grad_pooled: Tensor,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Pass two: d loss / d each of ``weights.flat()`` that requires it, blocks last to first.

    Empties ``blocks`` on the way.

    Args:
        encoder, pooling, weights, plan, pool_from: as in pass one.
        blocks: what pass one kept.
        pooled: what pass one returned.
        grad_pooled: [B, output size], of ``pooled.pooled()``.
        progress: told the rows of each block.
    """
    leaves = [x for x in weights.flat() if x.requires_grad]
    totals: list[Tensor | None] = [None] * len(leaves)
    grad_end: list[Tensor] = []  # d loss / d the states that the block ends with, layer after layer h and c
    while blocks:
        block = blocks.pop()
        segments, graph = block.segments, block.graph
        if graph is None:
            if block.mask_seed is not None:
                masks = masks_of_seed(encoder, block.mask_seed, len(pooled.count), pooled.count.device)
                segments.masks = masks.first(len(segments.document))
            if plan.side_by_side:
                segments = chunks_side_by_side(block, pool_from)
            fresh = pooling.empty(len(segments.document), pooled.last.dtype, pooled.last.device)
            device = pooled.count.device
            fresh = fresh._replace(
                count=on_device(segments.first_step, device),
                pool_from=on_device(pool_from[segments.document], device),
            )
            graph = run(encoder, pooling, weights, segments, replace(plan, bptt=0), fresh)
        outputs, grads = pooling.gradients(segments, graph.outputs, pooled, grad_pooled)
        first = weights.encoder.first_trainable()
        start = flat(graph.start[first:]) if plan.exact else []
        end = flat(graph.end[first:])
        # Documents that ended in this block have no next one. What is state but not trained has no gradient.
        followed = [(x, g) for x, g in zip(end, grad_end, strict=False) if x.requires_grad]
        outputs += [x[: len(g)] for x, g in followed]
        grads += [g.to(x.dtype) for x, g in followed]
        found = torch.autograd.grad(outputs, [*leaves, *start], grads, allow_unused=True)
        for index, (leaf, grad) in enumerate(zip(leaves, found, strict=False)):
            totals[index] = _add(totals[index], grad, leaf, pooled.last.dtype)
        grad_end = [torch.zeros_like(x) if g is None else g for x, g in zip(start, found[len(leaves) :], strict=True)]
        if progress is not None:
            progress(len(block.segments.tokens))
    return [torch.zeros_like(x) if total is None else total for x, total in zip(leaves, totals, strict=True)]


def _add(total: Tensor | None, grad: Tensor | None, leaf: Tensor, dtype: torch.dtype) -> Tensor | None:
    """``total + grad`` in ``dtype``, in place where there is a total; ``grad`` may be sparse."""
    if grad is None:
        return total
    if total is None and not grad.is_sparse:
        return grad.to(dtype)
    return (torch.zeros_like(leaf, dtype=dtype) if total is None else total).add_(grad)


def _has_gradient(segments: Segments, plan: Plan, pool_from: Tensor) -> bool:
    """Whether something in them is pooled, or leads up to what is."""
    ends = segments.first_step + segments.length
    return plan.exact or bool((ends > pool_from[segments.document]).any())
