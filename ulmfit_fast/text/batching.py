"""Token ids to batches: a stream in parallel lanes for the language model, documents of similar length to classify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from ulmfit_fast.errors import InputError


class LanguageModelStream:
    """All texts one after the other, cut into ``batch_size`` lanes that are read side by side.

    Args:
        ids: each text's token ids.
        batch_size: lanes.
        bptt: tokens of a lane in a batch.
        variable_length: draw each batch's length around ``bptt`` (normal with standard deviation 5; around half of it
            one time in twenty), as AWD-LSTM is trained.
        shuffle: a new order of the texts each epoch.
        seed: of order and lengths.

    Raises:
        InputError: fewer tokens than two a lane.
    """

    def __init__(
        self,
        ids: Sequence[np.ndarray],
        batch_size: int,
        bptt: int,
        variable_length: bool = False,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        self.ids = list(ids)
        self.batch_size = batch_size
        self.bptt = bptt
        self.variable_length = variable_length
        self.shuffle = shuffle
        self._random = np.random.default_rng(seed)
        self.lane_length = sum(map(len, self.ids)) // batch_size
        if self.lane_length < 2:
            raise InputError(
                f"{sum(map(len, self.ids))} tokens are too few for {batch_size} lanes of a language model; give more "
                "text or a smaller batch size"
            )

    @property
    def tokens(self) -> int:
        """Tokens predicted in an epoch."""
        return (self.lane_length - 1) * self.batch_size

    def expected_batches(self) -> int:
        mean = 0.95 * self.bptt + 0.05 * self.bptt / 2 if self.variable_length else self.bptt
        return max(1, round((self.lane_length - 1) / mean))

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (tokens, next tokens), both int64 [T, B]; consecutive batches continue the same lanes."""
        order = self._random.permutation(len(self.ids)) if self.shuffle else range(len(self.ids))
        stream = np.concatenate([self.ids[i] for i in order])[: self.lane_length * self.batch_size]
        lanes = torch.from_numpy(np.ascontiguousarray(stream.reshape(self.batch_size, self.lane_length).T)).long()
        start = 0
        while start < self.lane_length - 1:
            stop = min(start + self._draw_length(), self.lane_length - 1)
            yield lanes[start:stop], lanes[start + 1 : stop + 1]
            start = stop

    def _draw_length(self) -> int:
        if not self.variable_length:
            return self.bptt
        centre = self.bptt if self._random.random() < 0.95 else self.bptt / 2
        return max(5, int(self._random.normal(centre, 5)))


def document_batches(
    ids: Sequence[np.ndarray],
    batch_size: int,
    max_tokens: int | None = None,
    random: np.random.Generator | None = None,
) -> Iterator[tuple[PackedSequence, np.ndarray]]:
    """Documents in batches of similar length.

    Args:
        ids: each document's token ids.
        batch_size: most documents in a batch.
        max_tokens: most tokens in a batch, so that long documents come in small batches; a single document may have
            more. None: no limit.
        random: for training. Breaks up the order (lengths are jittered before sorting, batches come shuffled) and
            leaves no batch with one document, on which BatchNorm cannot train. Without it, longest first.

    Returns:
        Batches of (packed documents, their positions in ``ids``).
    """
    lengths = np.array([len(document) for document in ids], dtype=np.float64)
    if random is not None:
        lengths *= random.uniform(0.8, 1.25, len(lengths))
    fewest = 1 if random is None else 2
    batches: list[list[int]] = []
    tokens = 0
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = len(ids[index])
        full = not batches or len(batches[-1]) == batch_size
        too_long = max_tokens is not None and tokens + length > max_tokens
        if full or (too_long and len(batches[-1]) >= fewest):
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += length
    if len(batches) > 1 and len(batches[-1]) < fewest:
        batches[-2:] = [batches[-2] + batches[-1]]
    if random is not None:
        random.shuffle(batches)
    for batch in batches:
        yield pack_documents([torch.from_numpy(ids[i]).long() for i in batch]), np.array(batch)


def pack_documents(ids: Sequence[Tensor]) -> PackedSequence:
    """Token ids of several documents, each int64 [length >= 1], packed in any order."""
    for index, document in enumerate(ids):
        if len(document) == 0:
            raise ValueError(f"pack_documents: document {index} has no tokens; tokenizers begin each with xxbos")
    return pack_sequence([torch.as_tensor(document, dtype=torch.int64) for document in ids], enforce_sorted=False)
