"""BPT3C, back-propagation through time for text classification: whole documents in bounded activation memory.

(Howard and Ruder, arXiv 1801.06146, section 3.3.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.random import current_generator
from ulmfit_fast.nn import one_graph, two_pass
from ulmfit_fast.nn.documents import packed, positions
from ulmfit_fast.nn.encoder import Encoder, has_hooks, refuse_tracing
from ulmfit_fast.nn.pooling import Pooling, ReadingWeights
from ulmfit_fast.nn.poolings import CONCAT, MOST_HEADS, POOLINGS
from ulmfit_fast.nn.two_pass import Block, Plan, Progress
from ulmfit_fast.ops import autocast_dtype, sequence_lengths

# Rows (tokens) run at a time: enough for wide matrix products. Where they are recomputed, their activations are most of
# the memory: 0.2 GB at full size, as much again in backward.
_ROWS, _RECOMPUTED_ROWS = 64 * 72, 40 * 72


def _is_length(value: Any) -> bool:
    """Whether it is a whole number of tokens that a document can have."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) < 1 << 60


@dataclass(frozen=True)
class BPT3CConfig:
    """How documents are read, pooled and differentiated: every option of ``BPT3C``.

    Args:
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
        pooling: "concat": the last state, the largest and the mean (``nn.pooling.ConcatPooling``). "attention": learned
            weights over the states in the mean's place (``nn.attention_pooling.AttentionPooling``).
        attention_heads: weighted means that "attention" makes.

    Raises:
        ValueError: bptt, pool_window or attention_heads < 1, more than 1,000 heads, heads without attention, a negative
            memory_budget, an unknown backprop, mask_scope, memory, keep or pooling.
    """

    bptt: int = 70
    backprop: str = "detached"
    mask_scope: str = "document"
    variable_length: bool = False
    memory: str = "auto"
    memory_budget: int = 5 << 29
    pool_window: int | None = None
    keep: str = "last"
    pooling: str = CONCAT
    attention_heads: int = 1

    def __post_init__(self) -> None:
        if not _is_length(self.bptt):
            raise ValueError(f"BPT3CConfig: bptt must be at least 1, got {self.bptt}")
        if self.pool_window is not None and not _is_length(self.pool_window):
            raise ValueError(
                f"BPT3CConfig: pool_window must be at least 1, or None for all tokens, got {self.pool_window}"
            )
        if self.memory_budget < 0:
            raise ValueError(f"BPT3CConfig: memory_budget must be a number of bytes, got {self.memory_budget}")
        for name, known in (
            ("backprop", ("detached", "exact")),
            ("mask_scope", ("document", "chunk")),
            ("memory", ("recompute", "store", "auto")),
            ("keep", ("last", "first", "all")),
            ("pooling", tuple(POOLINGS)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"BPT3CConfig: {name} must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, "
                    f"got {getattr(self, name)!r}"
                )
        if not _is_length(self.attention_heads) or self.attention_heads > MOST_HEADS:
            raise ValueError(f"BPT3CConfig: attention_heads must be 1 to {MOST_HEADS}, got {self.attention_heads}")
        if self.pooling == CONCAT and self.attention_heads != 1:
            raise ValueError(f"BPT3CConfig: attention_heads={self.attention_heads} goes with pooling='attention'")

    @classmethod
    def of(cls, *options: Any, **named: Any) -> BPT3CConfig:
        """``of(config, **changes)``, or the fields themselves, in order or by name."""
        if options and isinstance(options[0], cls):
            if len(options) > 1:
                raise TypeError(f"BPT3CConfig: after a BPT3CConfig give changes by name, got {options[1:]}")
            return replace(options[0], **named)
        return cls(*options, **named)

    @property
    def window_at_the_end(self) -> int | None:
        """Of how many last tokens the pooled vector is; None where it is of all that are read."""
        return self.pool_window if self.keep == "last" else None

    @property
    def read_at_most(self) -> int | None:
        """How many first tokens are read; None for all."""
        return self.pool_window if self.keep == "first" else None


def _option(name: str) -> Any:
    """An attribute of BPT3C that is a field of its configuration."""

    def read(self: BPT3C) -> Any:
        return getattr(self.config, name)

    def write(self: BPT3C, value: Any) -> None:
        self.config = replace(self.config, **{name: value})

    return property(read, write, doc=f"``config.{name}``")


class BPT3C(nn.Module):
    """Encodes whole documents to one vector each, pooled over the top layer's states, in bounded memory.

    A document is read in chunks of ``bptt`` tokens, each starting from the state the last one ended with. Gradients
    take two passes: forward without a graph, keeping the states between chunks; backward chunk by chunk again with the
    same masks (many chunks at a time where they do not depend on each other). Memory beyond the states between chunks
    does not grow with the documents, or no further than ``memory`` allows.

    Gradients go to whatever the encoder computes with: parameters, shared between layers or with something outside,
    frozen, pruned, parametrized. Where the embedding or a layer has hooks, or has been replaced by something with a
    ``forward`` of its own, the layers are called as modules, in one autograd graph whose memory grows with the
    documents; in eval mode its gradients are exact, whatever ``backprop`` says.

    >>> BPT3C(encoder, bptt=70, backprop="exact")
    >>> BPT3C(encoder, BPT3CConfig(backprop="exact"))

    Args:
        encoder: an ``AWDLSTM``, or another with its methods (``nn.encoder.Encoder``).
        options: a ``BPT3CConfig``, or its fields, in order or by name; each is an attribute, too, that can be set, but
            for the pooling, which is a module of that name.

    Raises:
        ValueError: as ``BPT3CConfig``.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3 (BPT3C, concat pooling).
    """

    bptt: int = _option("bptt")
    backprop: str = _option("backprop")
    mask_scope: str = _option("mask_scope")
    variable_length: bool = _option("variable_length")
    memory: str = _option("memory")
    memory_budget: int = _option("memory_budget")
    pool_window: int | None = _option("pool_window")
    keep: str = _option("keep")

    def __init__(self, encoder: Encoder, *options: Any, **named: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = BPT3CConfig.of(*options, **named)
        make = POOLINGS[self.config.pooling]
        self.pooling: Pooling = make(encoder.output_size, self.config.attention_heads)
        self.block_rows: int | None = None  # rows run at a time, if not the default
        self.on_progress: Progress | None = None  # told how many more tokens are done, block by block

    @classmethod
    def like_fastai(cls, encoder: Encoder, **changes: Any) -> BPT3C:
        """fastai's semantics: chunks of 72, the last 1,440 tokens pooled, all masks drawn again for each chunk.

        Not its two defects: tails and "last" states that depend on the other documents' lengths (fastai #3379).
        """
        settings = BPT3CConfig(bptt=72, backprop="detached", mask_scope="chunk", pool_window=1440, keep="last")
        return cls(encoder, settings, **changes)

    @property
    def output_size(self) -> int:
        return self.pooling.output_size

    def extra_repr(self) -> str:
        return f"bptt={self.bptt}, backprop={self.backprop!r}, mask_scope={self.mask_scope!r}, memory={self.memory!r}"

    def forward(self, documents: PackedSequence | Tensor, lengths: Tensor | None = None) -> Tensor:
        """Pool each document.

        Args:
            documents: token ids, int64, as ``torch.nn.utils.rnn.pack_sequence(ids, enforce_sorted=False)`` packs them;
                or padded at the end, [B, T].
            lengths: int64 [B], of padded documents.

        Returns:
            [B, output_size] in float32 (float64 with float64 weights), in the documents' original order.

        Raises:
            InputError: padded documents without lengths, lengths outside [1, T].
            RuntimeError: under ``torch.jit.trace``.
        """
        refuse_tracing("BPT3C")
        if torch.compiler.is_exporting():
            return self._padded(documents, lengths)
        return self._pool(self._read(packed("BPT3C", documents, lengths)))

    def forward_embedded(self, embedded: Tensor, lengths: Tensor, frozen: bool = False) -> Tensor:
        """``forward`` from embedded documents on, exactly differentiable with respect to them; in eval mode.

        Args:
            embedded: [B, T, E], ``encoder.embed(tokens)`` of documents padded at the end, or something in its place.
            lengths: int64 [B].
            frozen: ``embedded`` alone gets gradients, in the two passes of ``forward`` and in as little memory, and
                backward runs once. Layers with hooks need one graph all the same.

        Returns:
            [B, output_size]. Unless ``frozen`` in one autograd graph, whose memory grows with the documents.

        Raises:
            InputError: training mode, embedded is not three-dimensional, lengths outside [1, T].
        """
        refuse_tracing("BPT3C.forward_embedded")
        if self.encoder.training:  # whole rows of the embedding are dropped, by token
            raise InputError("BPT3C.forward_embedded: is for eval mode; call eval() first")
        if embedded.dim() != 3:
            raise InputError(f"BPT3C.forward_embedded: embedded must be [B, T, E], got {list(embedded.shape)}")
        tokens = torch.zeros(embedded.shape[:2], dtype=torch.int64, device=embedded.device)
        documents = self._read(packed("BPT3C.forward_embedded", tokens, lengths))
        rows = None
        if frozen and not self.calls_modules():
            rows = self.encoder.weights().over(embedded.flatten(0, 1))
        if rows is None:
            return self._pool(documents, embedded)
        weights = ReadingWeights(rows, tuple(x.detach() for x in self.pooling.weights()))
        document, step = positions(documents)
        return self._pool(documents._replace(data=document * embedded.shape[1] + step), weights=weights)

    def calls_modules(self) -> bool:
        """Whether the encoder's layers or the pooling must be called as modules (``Encoder.calls_modules``)."""
        return self.encoder.calls_modules() or has_hooks(self.pooling)

    def _pool(
        self, documents: PackedSequence, embedded: Tensor | None = None, weights: ReadingWeights | None = None
    ) -> Tensor:
        """``weights`` in place of its own, whose gradients are then exact, as they are with ``embedded``."""
        if embedded is not None or self.calls_modules():
            pooled = one_graph.encode(
                self.encoder, documents, self._plan(_ROWS), self._pool_from(documents), embedded, self.on_progress,
                self.pooling,
            )  # fmt: skip
        else:
            exact = self.backprop == "exact" or weights is not None
            weights = weights or ReadingWeights(self.encoder.weights(), self.pooling.weights())
            tensors = weights.flat()
            if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
                pooled = _TwoPass.apply(self, documents, weights, exact, *tensors)
            else:
                with torch.no_grad():
                    pooled = two_pass.encode(
                        self.encoder, self.pooling, weights.detached(), documents, self._plan(_ROWS),
                        self._pool_from(documents), progress=self.on_progress,
                    ).pooled()  # fmt: skip
        indices = documents.unsorted_indices
        return pooled if indices is None else pooled.index_select(0, indices)

    def _padded(self, tokens: PackedSequence | Tensor, lengths: Tensor | None) -> Tensor:
        """The same of padded documents without a step that depends on their lengths: what ``torch.export`` follows."""
        if isinstance(tokens, PackedSequence) or lengths is None:
            raise InputError(
                "BPT3C: torch.export takes padded token ids, int64 [B, T], and their lengths, int64 [B], not a "
                "PackedSequence"
            )
        if self.training or self.encoder.training:
            raise InputError("BPT3C: torch.export is for eval mode; call eval() first")
        batch, steps = tokens.shape
        if self.config.read_at_most is not None:
            lengths = lengths.clamp(max=self.config.read_at_most)
        pool_from = torch.zeros_like(lengths)
        if self.config.window_at_the_end is not None:
            pool_from = (lengths - self.config.window_at_the_end).clamp(min=0)
        rows, _ = self.encoder(
            tokens.transpose(0, 1).reshape(-1), torch.full((steps,), batch, dtype=torch.int64, device="cpu"),
            self.encoder.initial_state(batch),
        )  # fmt: skip
        return self.pooling(rows.view(steps, batch, -1).transpose(0, 1), lengths, pool_from)

    def chunk_length(self) -> int:
        """Tokens of a chunk for one batch: ``bptt``, or in training a draw around it."""
        if not (self.training and self.variable_length):
            return self.bptt
        drawn: dict[str, Any] = {"generator": current_generator("cpu"), "dtype": torch.float32, "device": "cpu"}
        centre = self.bptt if torch.rand((), **drawn) < 0.95 else self.bptt / 2
        return max(5, int(torch.normal(float(centre), 5.0, (), **drawn)))

    def _plan(self, block_rows: int, store: bool = False, exact: bool | None = None) -> Plan:
        masks_per_chunk = self.mask_scope == "chunk" and self.encoder.training
        exact = self.backprop == "exact" if exact is None else exact
        return Plan(self.chunk_length(), exact, masks_per_chunk, store, self.block_rows or block_rows)

    def _stores(self, documents: PackedSequence, exact: bool) -> bool:
        if self.memory != "auto":
            return self.memory == "store"
        lengths = sequence_lengths(documents.batch_sizes)
        window = self.config.window_at_the_end
        if window is not None and not exact:
            lengths = lengths.clamp(max=window + self.bptt)
        return int(lengths.sum()) * self.encoder.activation_bytes() <= self.memory_budget

    def _pool_from(self, documents: PackedSequence) -> Tensor:
        lengths, window = sequence_lengths(documents.batch_sizes), self.config.window_at_the_end
        return torch.zeros_like(lengths) if window is None else (lengths - window).clamp(min=0)

    def _read(self, documents: PackedSequence) -> PackedSequence:
        """What is read of the documents."""
        sizes = documents.batch_sizes[: self.config.read_at_most]
        data = documents.data[: int(sizes.sum())]
        return PackedSequence(data, sizes, documents.sorted_indices, documents.unsorted_indices)


class _TwoPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, bpt3c: BPT3C, documents: PackedSequence, weights: ReadingWeights, exact: bool, *flat: Tensor
    ) -> Tensor:
        # ``flat`` are those of ``weights``: torch takes each one's gradient on to where it came from.
        ctx.encoder, ctx.pooling, ctx.weights = bpt3c.encoder, bpt3c.pooling, weights.detached()
        ctx.progress = _halves(bpt3c.on_progress)
        store = bpt3c._stores(documents, exact)
        ctx.plan = bpt3c._plan(_ROWS if store else _RECOMPUTED_ROWS, store, exact)
        blocks: list[Block] = []
        ctx.blocks = blocks
        ctx.pool_from = bpt3c._pool_from(documents)
        ctx.pooled = two_pass.encode(
            ctx.encoder, ctx.pooling, ctx.weights, documents, ctx.plan, ctx.pool_from, blocks, ctx.progress
        )
        device = documents.data.device.type
        ctx.autocast = device, autocast_dtype(device)
        ctx.save_for_backward(*flat)  # a change of theirs before backward is then an error
        return ctx.pooled.pooled()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_pooled: Tensor) -> tuple[Tensor | None, ...]:
        device, dtype = ctx.autocast
        flat = ctx.saved_tensors
        if ctx.blocks is None:
            raise RuntimeError(
                "BPT3C: backward a second time; its states are freed after the first: call forward again"
            )
        blocks, ctx.blocks = ctx.blocks, None
        with torch.enable_grad(), torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            grads = two_pass.gradients(
                ctx.encoder, ctx.pooling, ctx.weights, blocks, ctx.plan, ctx.pool_from, ctx.pooled, grad_pooled,
                ctx.progress,
            )  # fmt: skip
        found = iter(grads)  # of those that require one
        wanted = (leaf.requires_grad for leaf in ctx.weights.flat())
        return (
            None,
            None,
            None,
            None,
            *(next(found).to(x.dtype) if w else None for x, w in zip(flat, wanted, strict=True)),
        )


def _halves(progress: Progress | None) -> Progress | None:
    """Reports half of each pass's tokens: a batch that is also differentiated is passed over twice."""
    if progress is None:
        return None
    return lambda tokens: progress(tokens / 2)
