"""BPT3C, back-propagation through time for text classification: whole documents in memory that does not grow.

A document is encoded in chunks of ``bptt`` tokens, each starting from the state the last one ended with, and
the top layer's states are pooled over the whole document. Two passes keep memory at one chunk: forward without a graph,
keeping each chunk's boundary states; backward recomputes a chunk at a time with the same masks and feeds it its share
of the pooled vector's gradient. (Howard and Ruder, arXiv 1801.06146, section 3.3.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.awd_lstm import AWDLSTM, DropoutMasks, LayerState, sequence_of_rows


@dataclass
class PooledState:
    """Pooling over time, carried from chunk to chunk; B sequences of E features, float32 (float64 for float64 states).

    Rows are added step by step, so the result does not depend, to the bit, on where the chunks end.
    """

    total: Tensor  # [B, E] running sum
    maximum: Tensor  # [B, E] running maximum
    argmax: Tensor  # int64 [B, E] the step of the maximum, the first where equal
    last: Tensor  # [B, E] the latest state
    count: Tensor  # int64 [B] steps seen

    @classmethod
    def empty(cls, batch: int, features: int, like: Tensor) -> PooledState:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        zeros = torch.zeros(batch, features, dtype=dtype, device=like.device)
        steps = torch.zeros(batch, features, dtype=torch.int64, device=like.device)
        count = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return cls(zeros, torch.full_like(zeros, -torch.inf), steps, zeros.clone(), count)

    def add(self, states: Tensor, batch_sizes: Tensor, first_step: int) -> None:
        """Pool the packed rows ``states`` [N, E], whose first step is ``first_step`` of the document."""
        for step, rows in enumerate(states.to(self.total.dtype).split(batch_sizes.tolist()), start=first_step):
            n = len(rows)
            self.total[:n] += rows
            larger = rows > self.maximum[:n]
            self.maximum[:n] = torch.where(larger, rows, self.maximum[:n])
            self.argmax[:n].masked_fill_(larger, step)
            self.last[:n] = rows
            self.count[:n] += 1

    def pooled(self) -> Tensor:
        """``[h_last, max, mean]``, [B, 3 E] (concat pooling)."""
        return torch.cat([self.last, self.maximum, self.total / self.count.unsqueeze(1)], dim=1)

    def gradient(self, grad_pooled: Tensor, batch_sizes: Tensor, first_step: int) -> Tensor:
        """d loss / d states for the packed rows of a chunk that ``add`` took, [N, E]."""
        device = grad_pooled.device
        sequence = sequence_of_rows(batch_sizes).to(device)
        step = torch.arange(first_step, first_step + len(batch_sizes)).repeat_interleave(batch_sizes).to(device)
        grad_last, grad_max, grad_mean = grad_pooled.chunk(3, dim=1)
        grad = (grad_mean / self.count.unsqueeze(1))[sequence]
        grad += grad_max[sequence] * (self.argmax[sequence] == step.unsqueeze(1))
        grad += grad_last[sequence] * (self.count[sequence] == step + 1).unsqueeze(1)
        return grad


@dataclass
class _Chunk:
    tokens: Tensor  # int64 [N], packed
    batch_sizes: Tensor  # int64 [T]
    first_step: int
    state: list[LayerState]  # at its start, [batch_sizes[0], size]
    masks: DropoutMasks | None


class BPT3C(nn.Module):
    """Encodes whole documents to ``[h_last, max, mean]`` of the top layer's states, in the memory of one chunk.

    Args:
        encoder: the AWD-LSTM.
        bptt: tokens of a chunk. In eval mode and float32 (or float64) the result does not depend on it.
        backprop: "detached": gradients stay inside a chunk (the paper's way). "exact": they also flow from a chunk into
            the one before it: full back-propagation through the document.
        mask_scope: "document": one draw of all dropout masks for a document. "chunk": a new draw for each chunk.
        variable_length: in training the chunk length of a batch is drawn around ``bptt`` (normal with standard
            deviation 5, around half of it one time in twenty).

    Raises:
        ValueError: bptt < 1, unknown backprop or mask_scope.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3 (BPT3C, concat pooling).
    """

    def __init__(
        self,
        encoder: AWDLSTM,
        bptt: int = 70,
        backprop: str = "detached",
        mask_scope: str = "document",
        variable_length: bool = False,
    ) -> None:
        super().__init__()
        if bptt < 1:
            raise ValueError(f"BPT3C: bptt must be at least 1, got {bptt}")
        if backprop not in ("detached", "exact"):
            raise ValueError(f"BPT3C: backprop must be 'detached' or 'exact', got {backprop!r}")
        if mask_scope not in ("document", "chunk"):
            raise ValueError(f"BPT3C: mask_scope must be 'document' or 'chunk', got {mask_scope!r}")
        self.encoder = encoder
        self.bptt = bptt
        self.backprop = backprop
        self.mask_scope = mask_scope
        self.variable_length = variable_length

    @property
    def output_size(self) -> int:
        return 3 * self.encoder.output_size

    def extra_repr(self) -> str:
        return f"bptt={self.bptt}, backprop={self.backprop!r}, mask_scope={self.mask_scope!r}"

    def forward(self, documents: PackedSequence) -> Tensor:
        """Pool each document.

        Args:
            documents: token ids, int64, as ``torch.nn.utils.rnn.pack_sequence(ids, enforce_sorted=False)`` packs them.

        Returns:
            [B, 3 E], in the documents' original order.
        """
        parameters = [p for p in self.encoder.parameters() if p.requires_grad]
        if torch.is_grad_enabled() and parameters:
            pooled = _TwoPass.apply(self, documents, *parameters)
        else:
            with torch.no_grad():
                pooled = self._encode(documents, None).pooled()
        indices = documents.unsorted_indices
        return pooled if indices is None else pooled.index_select(0, indices)

    def chunk_length(self) -> int:
        """Tokens of a chunk for one batch: ``bptt``, or in training a draw around it."""
        if not (self.training and self.variable_length):
            return self.bptt
        centre = self.bptt if torch.rand(()) < 0.95 else self.bptt / 2
        return max(5, int(torch.normal(float(centre), 5.0, ())))

    def _encode(self, documents: PackedSequence, keep: Callable[[_Chunk], Any] | None) -> PooledState:
        """The forward pass without a graph; ``keep`` sees each chunk before it is encoded."""
        tokens, batch_sizes = documents.data, documents.batch_sizes
        batch, length = int(batch_sizes[0]), self.chunk_length()
        state = self.encoder.initial_state(batch)
        masks = self.encoder.draw_masks(batch)
        pool = PooledState.empty(batch, self.encoder.output_size, state[0][0])
        first_row = 0
        for first_step in range(0, len(batch_sizes), length):
            sizes = batch_sizes[first_step : first_step + length]
            rows, sequences = int(sizes.sum()), int(sizes[0])
            if self.mask_scope == "chunk" and first_step > 0:
                masks = self.encoder.draw_masks(batch)
            state = [(h[:sequences], c[:sequences]) for h, c in state]
            chunk = _Chunk(tokens[first_row : first_row + rows], sizes, first_step, state, masks)
            if keep is not None:
                keep(chunk)
            states, state = self.encoder(chunk.tokens, sizes, state, masks)
            pool.add(states, sizes, first_step)
            first_row += rows
        return pool

    def _gradients(
        self,
        chunks: list[_Chunk],
        pool: PooledState,
        grad_pooled: Tensor,
        parameters: tuple[nn.Parameter, ...],
        autocast: tuple[str, torch.dtype, bool],
    ) -> list[Tensor | None]:
        """The backward pass: each chunk again, last to first, with a graph."""
        totals: list[Tensor | None] = [None] * len(parameters)
        exact = self.backprop == "exact"
        grad_state: list[Tensor] | None = None  # d loss / d the state that the chunk ends with, flat
        for chunk in reversed(chunks):
            start = [(h.requires_grad_(exact), c.requires_grad_(exact)) for h, c in chunk.state]
            device, dtype, enabled = autocast
            with torch.autocast(device, dtype=dtype, enabled=enabled):
                states, end = self.encoder(chunk.tokens, chunk.batch_sizes, start, chunk.masks)
            outputs = [states]
            grads = [pool.gradient(grad_pooled, chunk.batch_sizes, chunk.first_step).to(states.dtype)]
            inputs: list[Tensor] = list(parameters)
            if exact:
                inputs += [x for pair in start for x in pair]
                if grad_state is not None:
                    flat_end = [x for pair in end for x in pair]
                    # Sequences that ended in this chunk have no next one.
                    outputs += [x[: len(g)] for x, g in zip(flat_end, grad_state, strict=True)]
                    grads += [g.to(x.dtype) for x, g in zip(flat_end, grad_state, strict=True)]
            found = torch.autograd.grad(outputs, inputs, grads, allow_unused=True)
            for index, grad in enumerate(found[: len(parameters)]):
                if grad is not None:
                    total = totals[index]
                    totals[index] = grad if total is None else total.add_(grad)
            if exact:
                flat_start = inputs[len(parameters) :]
                grad_state = [
                    torch.zeros_like(x) if g is None else g
                    for x, g in zip(flat_start, found[len(parameters) :], strict=True)
                ]
        return totals


class _TwoPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bpt3c: BPT3C, documents: PackedSequence, *parameters: nn.Parameter) -> Tensor:
        ctx.bpt3c, ctx.chunks = bpt3c, []
        ctx.pool = bpt3c._encode(documents, ctx.chunks.append)
        device = documents.data.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(*parameters)
        return ctx.pool.pooled()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_pooled: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            grads = ctx.bpt3c._gradients(ctx.chunks, ctx.pool, grad_pooled, ctx.saved_tensors, ctx.autocast)
        return (None, None, *grads)
