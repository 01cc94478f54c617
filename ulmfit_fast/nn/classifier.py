"""The text classifier: documents through BPT3C, concat pooling, and a two-block head."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.nn.awd_lstm import AWDLSTM, LayerState
from ulmfit_fast.nn.bpt3c import BPT3C
from ulmfit_fast.ops import PooledState


def classifier_head(features: int, hidden_size: int, classes: int, dropouts: tuple[float, float]) -> nn.Sequential:
    """BatchNorm, dropout, linear, ReLU, BatchNorm, dropout, linear: [B, features] to [B, classes].

    The linear layers have no bias, as in fastai: a BatchNorm precedes each.
    """
    return nn.Sequential(
        nn.BatchNorm1d(features),
        nn.Dropout(dropouts[0]),
        nn.Linear(features, hidden_size, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(hidden_size),
        nn.Dropout(dropouts[1]),
        nn.Linear(hidden_size, classes, bias=False),
    )


class TextClassifier(nn.Module):
    """Classifies documents of any length.

    Args:
        encoder: the AWD-LSTM; its ``output_p`` is the dropout on the pooled vector.
        classes: number of labels K, at least 2.
        hidden_size: width of the head's hidden layer.
        hidden_dropout: dropout before the last linear layer.
        bptt, backprop, mask_scope, variable_length, memory, memory_budget, pool_window, keep: as in ``BPT3C``.

    Raises:
        ValueError: fewer than two classes, and as ``BPT3C``.
    """

    def __init__(
        self,
        encoder: AWDLSTM,
        classes: int,
        hidden_size: int = 50,
        hidden_dropout: float = 0.1,
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
        self.classes = classes
        if classes < 2:
            raise ValueError(f"TextClassifier: classes must be at least 2, got {classes}")
        self.bpt3c = BPT3C(
            encoder, bptt, backprop, mask_scope, variable_length, memory, memory_budget, pool_window, keep
        )
        dropouts = (encoder.config.output_p, hidden_dropout)
        self.head = classifier_head(self.bpt3c.output_size, hidden_size, classes, dropouts)

    def layer_groups(self) -> list[nn.Module]:
        """[embedding], [first LSTM], ..., [last LSTM], [head]."""
        encoder = self.bpt3c.encoder
        return [encoder.encoder, *encoder.rnns, self.head]

    def forward(self, documents: PackedSequence) -> Tensor:
        """Logits [B, K] in the documents' original order; ``documents`` as ``text.batching.pack_documents`` makes them.

        In eval mode a document's logits do not depend, to the bit, on the other documents.
        """
        return self.classify(self.bpt3c(documents))

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits [B, K] of pooled vectors [B, 3E]."""
        pooled = pooled.to(next(self.head.parameters()).dtype)
        if self.training:
            return self.head(pooled)
        # Row by row: a BLAS product's rounding depends on the number of its rows.
        return torch.cat([self.head(row) for row in pooled.split(1)])

    def stream(self) -> DocumentStream:
        """Reads one document token by token and knows the prediction so far; see ``DocumentStream``."""
        return DocumentStream(self)


class DocumentStream:
    """One document as it comes: tokens in, the prediction so far at any moment, in memory that does not grow.

    The prediction equals, to the bit, that of ``TextClassifier`` in eval mode on all tokens so far. Tokens are run a
    few hundred at a time.

    Args:
        model: the classifier; used in eval mode, whatever mode it is in.

    Raises:
        ValueError: a ``pool_window`` at the end of the document, which nobody knows while it still comes.
    """

    _AT_A_TIME = 256

    def __init__(self, model: TextClassifier) -> None:
        bpt3c = model.bpt3c
        if bpt3c.pool_window is not None and bpt3c.keep == "last":
            raise ValueError(
                "TextClassifier.stream: pool_window with keep='last' needs the end; use keep='all' or 'first'"
            )
        self.model = model
        self.tokens_read = 0
        self._limit = bpt3c.pool_window if bpt3c.keep == "first" else None
        self._waiting: list[int] = []
        self._state = bpt3c.encoder.initial_state(1)
        cell = self._state[-1][1]
        self._pooled = PooledState.empty(1, bpt3c.encoder.output_size, cell.dtype, cell.device)

    def feed(self, tokens: Iterable[int]) -> None:
        """Read more token ids. The document's first should be the tokenizer's ``bos_id``.

        Raises:
            ValueError: an id that the vocabulary lacks; those before it have been read.
        """
        vocabulary = self.model.bpt3c.encoder.config.vocab_size
        for token in map(int, tokens):
            if self._limit is not None and self.tokens_read == self._limit:
                return
            if not 0 <= token < vocabulary:
                raise ValueError(f"DocumentStream.feed: token ids must be in [0, {vocabulary}), got {token}")
            if len(self._waiting) >= self._AT_A_TIME:
                self._pooled, self._state = self._run(self._waiting)
                self._waiting = []
            self._waiting.append(token)
            self.tokens_read += 1

    def logits(self, and_then: Iterable[int] = ()) -> Tensor:
        """Logits [K] so far, or as if ``and_then`` had come too.

        Raises:
            ValueError: nothing has been read.
        """
        waiting = [*self._waiting, *map(int, and_then)]
        if self._limit is not None:
            waiting = waiting[: len(self._waiting) + self._limit - self.tokens_read]
        pooled = self._run(waiting)[0] if waiting else self._pooled
        if int(pooled.count) == 0:
            raise ValueError("DocumentStream.logits: nothing has been read; feed tokens first")
        return self._classify(pooled.pooled())

    def _run(self, tokens: list[int]) -> tuple[PooledState, list[LayerState]]:
        encoder = self.model.bpt3c.encoder
        ids = torch.tensor(tokens, dtype=torch.int64, device=encoder.encoder.weight.device)
        sizes = torch.ones(len(tokens), dtype=torch.int64)
        with torch.inference_mode():
            pooled, state, _ = encoder.pool(ids, sizes, self._state, None, self._pooled)
        return pooled, state

    def _classify(self, pooled: Tensor) -> Tensor:
        modules = [self.model, *self.model.head.modules()]
        modes = [module.training for module in modules]
        try:
            for module in modules:
                module.training = False
            with torch.inference_mode():
                return self.model.classify(pooled)[0]
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
