"""Token ids to batches: a stream in parallel lanes for the language model, documents of similar length to classify."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist, fmean

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.token_file import TokenArray, TokenCorpus

_DEVIATION = 5  # of a batch's length


class LanguageModelStream:
    """All texts one after the other, cut into ``batch_size`` lanes that are read side by side.

    Args:
        corpus: the texts' token ids, in memory or in a file; a list is taken as ``TokenArray``.
        batch_size: lanes.
        bptt: tokens of a lane in a batch.
        variable_length: draw each batch's length around ``bptt`` (normal with standard deviation 5; around half of it
            one time in twenty), as AWD-LSTM is trained.
        shuffle: a new order of the texts each epoch.
        seed: draws the order and the lengths.
        lanes: which of the lanes to read, where several processes read one stream; None: all.

    Raises:
        InputError: fewer tokens than two a lane.
    """

    def __init__(
        self,
        corpus: TokenCorpus | Sequence[np.ndarray],
        batch_size: int,
        bptt: int,
        variable_length: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        lanes: range | None = None,
    ) -> None:
        self.lanes = range(batch_size) if lanes is None else lanes
        self.corpus = TokenArray(corpus) if isinstance(corpus, Sequence) else corpus
        self.batch_size = batch_size
        self.bptt = bptt
        self.variable_length = variable_length
        self.shuffle = shuffle
        self.random = np.random.default_rng(seed)
        tokens = int(self.corpus.offsets[-1])
        self.lane_length = tokens // batch_size
        if self.lane_length < 2:
            raise InputError(
                f"{tokens} tokens are too few for {batch_size} lanes of a language model; give more text or a smaller "
                "batch size"
            )

    @property
    def tokens(self) -> int:
        """Tokens predicted in an epoch, in all lanes."""
        return (self.lane_length - 1) * self.batch_size

    def expected_batches(self) -> int:
        """Number of batches of an epoch, on average where lengths are drawn. The last batch may be shorter."""
        if not self.variable_length:
            return -(-(self.lane_length - 1) // self.bptt)
        mean = 0.95 * _mean_length(self.bptt) + 0.05 * _mean_length(self.bptt / 2)
        return max(1, round((self.lane_length - 1) / mean + 0.5))

    def epoch(self, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (tokens, next tokens), both int64 [T, lanes]; consecutive batches continue the same lanes.

        Args:
            skip: batches to leave out at the beginning, as if they had been read.
        """
        read = self._reader()
        start = 0
        while start < self.lane_length - 1:
            stop = min(start + self._draw_length(), self.lane_length - 1)
            if skip > 0:
                skip -= 1
            else:
                lanes = [read(lane * self.lane_length + start, stop + 1 - start) for lane in self.lanes]
                batch = torch.from_numpy(np.stack(lanes, axis=1)).long()
                yield batch[:-1], batch[1:]
            start = stop

    def _reader(self) -> Callable[[int, int], np.ndarray]:
        """Reads so many ids from some position on, in this epoch's order of the texts."""
        offsets = self.corpus.offsets
        if not self.shuffle:
            return lambda position, count: self.corpus.read(position, position + count)
        order = self.random.permutation(len(offsets) - 1)
        begins = np.concatenate([[0], np.cumsum(np.diff(offsets)[order])])  # of the texts, in the order they are read

        def read(position: int, count: int) -> np.ndarray:
            text = int(np.searchsorted(begins, position, side="right")) - 1
            pieces = []
            while count > 0:
                start = int(offsets[order[text]]) + position - int(begins[text])
                taken = min(count, int(begins[text + 1]) - position)
                pieces.append(self.corpus.read(start, start + taken))
                position, count, text = position + taken, count - taken, text + 1
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

        return read

    def _draw_length(self) -> int:
        if not self.variable_length:
            return self.bptt
        centre = self.bptt if self.random.random() < 0.95 else self.bptt / 2
        return _length(self.random.normal(centre, _DEVIATION))


def _length(drawn: float) -> int:
    return max(5, int(drawn))


@functools.lru_cache(maxsize=64)
def _mean_length(centre: float) -> float:
    """The mean of ``_length`` of a normal draw, from the quantiles of the draw."""
    distribution = NormalDist(centre, _DEVIATION)
    return fmean(_length(distribution.inv_cdf((i + 0.5) / 1000)) for i in range(1000))


def document_batches(
    ids: Sequence[np.ndarray],
    batch_size: int,
    max_tokens: int | None = None,
    random: np.random.Generator | None = None,
    read: Callable[[int], np.ndarray] | None = None,
) -> Iterator[tuple[PackedSequence, np.ndarray]]:
    """Documents in batches of similar length: ``group_documents``, packed.

    Args:
        ids: of the documents.
        batch_size, max_tokens, random: as ``group_documents``.
        read: a document by its position, where it is to be another than ``ids`` has there, no longer than it.

    Returns:
        Batches of (packed documents, their positions in ``ids``).
    """
    for group in group_documents([len(document) for document in ids], batch_size, max_tokens, random):
        yield read_group(ids, group, read)


def read_group(
    ids: Sequence[np.ndarray], group: Sequence[int], read: Callable[[int], np.ndarray] | None = None
) -> tuple[PackedSequence, np.ndarray]:
    """The batch of the documents at these positions: ``document_batches``."""
    documents = [ids[i] if read is None else read(i) for i in group]
    return pack_documents([torch.from_numpy(document) for document in documents]), np.array(group)


def group_documents(
    lengths: Sequence[int],
    batch_size: int,
    max_tokens: int | None = None,
    random: np.random.Generator | None = None,
) -> list[list[int]]:
    """Positions of documents in batches of similar length.

    Args:
        lengths: tokens of each document.
        batch_size: most documents in a batch; in training the last may have one more.
        max_tokens: most tokens in a batch, so that long documents come in small batches. One alone may have more,
            and so may two in training. None: no limit.
        random: for training. Breaks up the order (lengths are jittered before sorting, batches come shuffled) and
            leaves no batch with one document, on which BatchNorm cannot train. Without it, longest first.
    """
    keys = np.array(lengths, dtype=np.float64)
    if random is not None:
        keys *= random.uniform(0.8, 1.25, len(keys))
    fewest = 1 if random is None else 2
    batches: list[list[int]] = []
    tokens = 0
    for index in np.argsort(-keys, kind="stable").tolist():
        length = lengths[index]
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
    return batches


def pack_documents(ids: Sequence[Tensor]) -> PackedSequence:
    """Token ids of several documents, each [length >= 1], packed in any order.

    Equal to ``torch.nn.utils.rnn.pack_sequence(ids, enforce_sorted=False)``, but nothing is padded on the way: one long
    document among short ones takes no more than its own memory.
    """
    lengths = torch.tensor([len(document) for document in ids])
    for index in (lengths == 0).nonzero().flatten().tolist()[:1]:
        raise ValueError(f"pack_documents: document {index} has no tokens; tokenizers begin each with xxbos")
    order = torch.argsort(lengths, descending=True, stable=True)
    # Step t has the documents that are longer than t.
    batch_sizes = len(ids) - torch.searchsorted(lengths.sort().values, torch.arange(int(lengths.max())), right=True)
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    data = torch.empty(int(lengths.sum()), dtype=torch.int64)
    for row, index in enumerate(order.tolist()):
        document = torch.as_tensor(ids[index], dtype=torch.int64)
        data[offsets[: len(document)] + row] = document
    return PackedSequence(data, batch_sizes, order, torch.argsort(order))
