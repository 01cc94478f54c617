"""The text classifier: documents through BPT3C, pooled, and a two-block head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.device import on_device
from ulmfit_fast.nn.bpt3c import BPT3C
from ulmfit_fast.nn.documents import packed
from ulmfit_fast.nn.dropout import Dropout
from ulmfit_fast.nn.encoder import Encoder, LayerState, has_hooks, refuse_tracing


def classifier_head(features: int, hidden_size: int, classes: int, dropouts: tuple[float, float]) -> nn.Sequential:
    """BatchNorm, dropout, linear, ReLU, BatchNorm, dropout, linear: [B, features] to [B, classes].

    The linear layers have no bias, as in fastai: a BatchNorm precedes each.
    """
    return nn.Sequential(
        nn.BatchNorm1d(features),
        Dropout(dropouts[0]),
        nn.Linear(features, hidden_size, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(hidden_size),
        Dropout(dropouts[1]),
        nn.Linear(hidden_size, classes, bias=False),
    )


def joined(poolings: Iterable[nn.Module], head: nn.Module) -> nn.Module:
    """The head's layer group: the head itself, unless a pooling has parameters."""
    learned = [pooling for pooling in poolings if any(True for _ in pooling.parameters())]
    return nn.ModuleList([*learned, head]) if learned else head


class TextClassifier(nn.Module):
    """Classifies documents of any length.

    ``torch.export`` takes it in eval mode, called on padded documents and their lengths, both dynamic
    (``interop.torch_export``); hooks on the embedding and the LSTM layers run (see ``BPT3C``).

    Args:
        encoder: an ``AWDLSTM``; its ``output_p`` is the dropout on the pooled vector.
        classes: number of logits K, at least 1.
        hidden_size: width of the head's hidden layer.
        hidden_dropout: dropout before the last linear layer. Configurations' ``drop_mult`` leaves it alone, as fastai's
            does.
        options: as in ``BPT3C``: a ``BPT3CConfig``, or its fields (bptt, backprop, mask_scope, pooling, ...).

    Raises:
        ValueError: no class, and as ``BPT3CConfig``.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        hidden_size: int = 50,
        hidden_dropout: float = 0.1,
        *options: Any,
        **named: Any,
    ) -> None:
        super().__init__()
        self.classes = classes
        if classes < 1:
            raise ValueError(f"TextClassifier: classes must be at least 1, got {classes}")
        self.bpt3c = BPT3C(encoder, *options, **named)
        self.head = classifier_head(self.bpt3c.output_size, hidden_size, classes, (encoder.output_p, hidden_dropout))

    def layer_groups(self) -> list[nn.Module]:
        """[embedding], [first LSTM], ..., [last LSTM], [head, with what a pooling learns]."""
        return [*self.bpt3c.encoder.layer_groups(), joined([self.bpt3c.pooling], self.head)]

    def forward(self, documents: PackedSequence | Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits [B, K] in the documents' original order.

        In eval mode a document's logits do not depend, to the bit, on the other documents (on the CPU, without hooks).

        Args:
            documents: as ``text.batching.pack_documents`` makes them; or token ids padded at the end, int64 [B, T].
            lengths: int64 [B], of padded documents.

        Raises:
            InputError: padded documents without lengths, lengths outside [1, T].
            RuntimeError: under ``torch.jit.trace``.
        """
        refuse_tracing("TextClassifier")
        if not torch.compiler.is_exporting():
            documents, lengths = packed("TextClassifier", documents, lengths), None
        return self.classify(self.bpt3c(documents, lengths))

    def embed(self, tokens: Tensor) -> Tensor:
        """Embedded documents [B, T, E] of padded token ids [B, T]: what ``forward_embedded`` takes."""
        return self.bpt3c.encoder.embed(tokens)

    def forward_embedded(self, embedded: Tensor, lengths: Tensor, frozen: bool = False) -> Tensor:
        """``forward`` from embedded documents on, for attributions: ``embedded`` gets exact gradients. In eval mode.

        ``forward_embedded(embed(tokens), lengths)`` equals ``forward(tokens, lengths)`` within rounding.

        Args:
            embedded: [B, T, E], padded at the end.
            lengths: int64 [B].
            frozen: the encoder's layers get no gradients, memory is as little as that of ``forward``, and backward runs
                once.

        Returns:
            Logits [B, K].

        Raises:
            InputError: training mode, other shapes, lengths outside [1, T].
        """
        return self.classify(self.bpt3c.forward_embedded(embedded, lengths, frozen))

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits [B, K] of pooled vectors [B, ``bpt3c.output_size``]."""
        pooled = pooled.to(next(self.head.parameters()).dtype)
        whole = self.training or torch.compiler.is_exporting() or pooled.device.type != "cpu"
        if whole or any(has_hooks(module) for module in self.head.modules()):
            return self.head(pooled)
        # Row by row: a BLAS product's rounding depends on the number of its rows. On a GPU nothing is promised for it.
        return torch.cat([self.head(row) for row in pooled.split(1)])

    def quantize(self) -> TextClassifier:
        """A copy for prediction in int8, in eval mode; this model stays as it is. See ``nn.quantized.quantize``.

        LSTM weights and the embedding take a quarter of their memory, and predictions are faster. They differ a little;
        the label may change where two are about equally probable. The copy cannot be trained, differentiated or
        exported, and computes on the CPU alone. It is saved and loaded like any model.

        Raises:
            InputError: an encoder with hooks.
        """
        from ulmfit_fast.nn.quantized import quantize  # which knows this class

        return quantize(self)

    def stream(self) -> DocumentStream:
        """Reads one document token by token and knows the prediction so far; see ``DocumentStream``."""
        return DocumentStream(self)


class DocumentStream:
    """One document as it comes: tokens in, the prediction so far at any moment, in memory that does not grow.

    The prediction equals, to the bit, that of ``TextClassifier`` in eval mode on all tokens so far. Tokens are run a
    few hundred at a time, or when the prediction is asked for.

    Args:
        model: the classifier; used in eval mode, whatever mode it is in.

    Raises:
        ValueError: a ``pool_window`` at the end of the document, which nobody knows while it still comes; hooks on the
            encoder's layers, which would not run.
    """

    _AT_A_TIME = 256

    def __init__(self, model: TextClassifier) -> None:
        bpt3c = model.bpt3c
        if bpt3c.calls_modules():
            raise ValueError(
                "TextClassifier.stream: the embedding, an LSTM layer or the pooling has hooks, or a forward of its "
                "own, which a stream does not call; remove it, or classify whole documents"
            )
        if bpt3c.config.window_at_the_end is not None:
            raise ValueError(
                "TextClassifier.stream: pool_window with keep='last' needs the end; use keep='all' or 'first'"
            )
        self.model = model
        self.tokens_read = 0
        self._limit = bpt3c.config.read_at_most
        self._waiting: list[int] = []
        self._state = bpt3c.encoder.initial_state(1)
        like = self._state[-1][0]
        self._pooled = bpt3c.pooling.empty(1, like.dtype, like.device)

    def feed(self, tokens: Iterable[int]) -> None:
        """Read more token ids. The document's first should be the tokenizer's ``bos_id``.

        Raises:
            ValueError: an id that the vocabulary lacks; those before it have been read.
        """
        vocabulary = self.model.bpt3c.encoder.vocab_size
        for token in map(int, tokens):
            if self._limit is not None and self.tokens_read == self._limit:
                return
            if not 0 <= token < vocabulary:
                raise ValueError(f"DocumentStream.feed: token ids must be in [0, {vocabulary}), got {token}")
            if len(self._waiting) >= self._AT_A_TIME:
                self._catch_up()
            self._waiting.append(token)
            self.tokens_read += 1

    def logits(self, and_then: Iterable[int] = ()) -> Tensor:
        """Logits [K] so far, or as if ``and_then`` had come too.

        Raises:
            ValueError: nothing has been read.
        """
        self._catch_up()  # and need not be run again for the next one
        more = list(map(int, and_then))
        if self._limit is not None:
            more = more[: self._limit - self.tokens_read]
        if not (self.tokens_read or more):
            raise ValueError("DocumentStream.logits: nothing has been read; feed tokens first")
        pooled = self._run(more)[0] if more else self._pooled
        return self._classify(pooled.pooled())

    def _catch_up(self) -> None:
        """Run what waits."""
        if self._waiting:
            self._pooled, self._state = self._run(self._waiting)
            self._waiting = []

    def _run(self, tokens: list[int]) -> tuple[Any, list[LayerState]]:
        bpt3c = self.model.bpt3c
        ids = on_device(torch.tensor(tokens, dtype=torch.int64, device="cpu"), self._pooled.count.device)
        sizes = torch.ones(len(tokens), dtype=torch.int64, device="cpu")
        with torch.inference_mode():
            read = bpt3c.pooling.run(bpt3c.encoder, ids, sizes, self._state, None, self._pooled)
        return read.state, read.end

    def _classify(self, pooled: Tensor) -> Tensor:
        training = [module for module in (self.model, *self.model.head.modules()) if module.training]
        try:
            for module in training:
                module.training = False
            with torch.inference_mode():
                return self.model.classify(pooled)[0]
        finally:
            for module in training:
                module.training = True
