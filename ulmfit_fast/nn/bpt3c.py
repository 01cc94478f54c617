"""BPT3C, back-propagation through time for text classification: whole documents in bounded activation memory.

(Howard and Ruder, arXiv 1801.06146, section 3.3.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.nn import two_pass
from ulmfit_fast.nn.awd_lstm import AWDLSTM
from ulmfit_fast.nn.two_pass import Block, Plan, Progress
from ulmfit_fast.ops import autocast_dtype, sequence_lengths

# Rows (tokens) run at a time: enough for wide matrix products. Where they are recomputed, their activations are most of
# the memory: 0.2 GB at full size, as much again in backward.
_ROWS, _RECOMPUTED_ROWS = 64 * 72, 40 * 72


class BPT3C(nn.Module):
    """Encodes whole documents to ``[h_last, max, mean]`` of the top layer's states, in bounded memory.

    A document is read in chunks of ``bptt`` tokens, each starting from the state the last one ended with. Gradients
    take two passes: forward without a graph, keeping the states between chunks; backward chunk by chunk again with the
    same masks (many chunks at a time where they do not depend on each other). Memory beyond the states between chunks
    does not grow with the documents, or no further than ``memory`` allows.

    Args:
        encoder: the AWD-LSTM.
        bptt: tokens of a chunk. In eval mode the result does not depend on it.
        backprop: "detached": gradients stay inside a chunk (the paper's way). "exact": they also flow from a chunk into
            the one before it: full back-propagation through the document.
        mask_scope: "document": one draw of all dropout masks for a document. "chunk": a new draw for each chunk.
        variable_length: in training the chunk length of a batch is drawn around ``bptt`` (normal with standard
            deviation 5, around half of it one time in twenty).
        memory: "recompute": pass two computes everything again. "store": all activations are kept from pass one, a
            quarter less work, in memory that grows with the documents. "auto": "store" for a batch that fits
            ``memory_budget``, else "recompute".
        memory_budget: bytes of activations that "auto" may keep.
        pool_window: pool only this many tokens of a document; None for all.
        keep: which tokens that are, "last" (the earlier ones still lead up to them) or "first" (the rest is not read).
            "all" is all of them, whatever ``pool_window`` says.

    Raises:
        ValueError: bptt or pool_window < 1, a negative memory_budget, an unknown backprop, mask_scope, memory or keep.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3 (BPT3C, concat pooling).
    """

    def __init__(
        self,
        encoder: AWDLSTM,
        bptt: int = 70,
        backprop: str = "detached",
        mask_scope: str = "document",
        variable_length: bool = False,
        memory: str = "auto",
        memory_budget: int = 5 << 29,
        pool_window: int | None = None,
        keep: str = "last",
    ) -> None:
        super().__init__()
        if bptt < 1:
            raise ValueError(f"BPT3C: bptt must be at least 1, got {bptt}")
        if pool_window is not None and pool_window < 1:
            raise ValueError(f"BPT3C: pool_window must be at least 1, or None for all tokens, got {pool_window}")
        if memory_budget < 0:
            raise ValueError(f"BPT3C: memory_budget must be a number of bytes, got {memory_budget}")
        for name, value, known in (
            ("backprop", backprop, ("detached", "exact")),
            ("mask_scope", mask_scope, ("document", "chunk")),
            ("memory", memory, ("recompute", "store", "auto")),
            ("keep", keep, ("last", "first", "all")),
        ):
            if value not in known:
                raise ValueError(
                    f"BPT3C: {name} must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, got {value!r}"
                )
        self.encoder = encoder
        self.bptt = bptt
        self.backprop = backprop
        self.mask_scope = mask_scope
        self.variable_length = variable_length
        self.memory = memory
        self.memory_budget = memory_budget
        self.pool_window = pool_window
        self.keep = keep
        self.block_rows: int | None = None  # rows run at a time, if not the default
        self.on_progress: Progress | None = None  # told how many more tokens are done, block by block

    @classmethod
    def like_fastai(cls, encoder: AWDLSTM, **changes: Any) -> BPT3C:
        """fastai's semantics: chunks of 72, the last 1,440 tokens pooled, all masks drawn again for each chunk.

        Not its two defects: tails and "last" states that depend on the other documents' lengths (fastai #3379).
        """
        settings = {"bptt": 72, "backprop": "detached", "mask_scope": "chunk", "pool_window": 1440, "keep": "last"}
        return cls(encoder, **(settings | changes))  # type: ignore[arg-type]

    @property
    def output_size(self) -> int:
        return 3 * self.encoder.output_size

    def extra_repr(self) -> str:
        return f"bptt={self.bptt}, backprop={self.backprop!r}, mask_scope={self.mask_scope!r}, memory={self.memory!r}"

    def forward(self, documents: PackedSequence) -> Tensor:
        """Pool each document.

        Args:
            documents: token ids, int64, as ``torch.nn.utils.rnn.pack_sequence(ids, enforce_sorted=False)`` packs them.

        Returns:
            [B, 3E] in float32 (float64 with float64 weights), in the documents' original order.
        """
        if self.keep == "first" and self.pool_window is not None:
            documents = _first_steps(documents, self.pool_window)
        parameters = [p for p in self.encoder.parameters() if p.requires_grad]
        if torch.is_grad_enabled() and parameters:
            pooled = _TwoPass.apply(self, documents, *parameters)
        else:
            with torch.no_grad():
                pooled = two_pass.encode(
                    self.encoder, self.encoder.weights().detached(), documents, self._plan(_ROWS),
                    self._pool_from(documents), progress=self.on_progress,
                ).pooled()  # fmt: skip
        indices = documents.unsorted_indices
        return pooled if indices is None else pooled.index_select(0, indices)

    def chunk_length(self) -> int:
        """Tokens of a chunk for one batch: ``bptt``, or in training a draw around it."""
        if not (self.training and self.variable_length):
            return self.bptt
        centre = self.bptt if torch.rand(()) < 0.95 else self.bptt / 2
        return max(5, int(torch.normal(float(centre), 5.0, ())))

    def _plan(self, block_rows: int, store: bool = False) -> Plan:
        masks_per_chunk = self.mask_scope == "chunk" and self.encoder.training
        return Plan(
            self.chunk_length(), self.backprop == "exact", masks_per_chunk, store, self.block_rows or block_rows
        )

    def _stores(self, documents: PackedSequence) -> bool:
        if self.memory != "auto":
            return self.memory == "store"
        lengths = sequence_lengths(documents.batch_sizes)
        if self.pool_window is not None and self.keep == "last" and self.backprop == "detached":
            lengths = lengths.clamp(max=self.pool_window + self.bptt)
        return int(lengths.sum()) * self.encoder.activation_bytes() <= self.memory_budget

    def _pool_from(self, documents: PackedSequence) -> Tensor:
        lengths = sequence_lengths(documents.batch_sizes)
        if self.pool_window is None or self.keep != "last":
            return torch.zeros_like(lengths)
        return (lengths - self.pool_window).clamp(min=0)


def _first_steps(documents: PackedSequence, steps: int) -> PackedSequence:
    sizes = documents.batch_sizes[:steps]
    return PackedSequence(
        documents.data[: int(sizes.sum())], sizes, documents.sorted_indices, documents.unsorted_indices
    )


class _TwoPass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bpt3c: BPT3C, documents: PackedSequence, *parameters: nn.Parameter) -> Tensor:
        ctx.encoder, ctx.weights = bpt3c.encoder, bpt3c.encoder.weights().detached()
        ctx.progress = _halves(bpt3c.on_progress)
        store = bpt3c._stores(documents)
        ctx.plan = bpt3c._plan(_ROWS if store else _RECOMPUTED_ROWS, store)
        blocks: list[Block] = []
        ctx.blocks = blocks
        ctx.pool_from = bpt3c._pool_from(documents)
        ctx.pooled = two_pass.encode(ctx.encoder, ctx.weights, documents, ctx.plan, ctx.pool_from, blocks, ctx.progress)
        device = documents.data.device.type
        ctx.autocast = device, autocast_dtype(device)
        ctx.save_for_backward(*parameters)  # a change of theirs before backward is then an error
        return ctx.pooled.pooled()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_pooled: Tensor) -> tuple[Tensor | None, ...]:
        device, dtype = ctx.autocast
        parameters = ctx.saved_tensors
        if ctx.blocks is None:
            raise RuntimeError(
                "BPT3C: backward a second time; its states are freed after the first: call forward again"
            )
        blocks, ctx.blocks = ctx.blocks, None
        with torch.enable_grad(), torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            grads = two_pass.gradients(
                ctx.encoder, ctx.weights, blocks, ctx.plan, ctx.pool_from, ctx.pooled, grad_pooled, ctx.progress
            )
        return (None, None, *(grad.to(p.dtype) for grad, p in zip(grads, parameters, strict=True)))


def _halves(progress: Progress | None) -> Progress | None:
    """Reports half of each pass's tokens: a batch that is also differentiated is passed over twice."""
    if progress is None:
        return None
    return lambda tokens: progress(tokens / 2)
