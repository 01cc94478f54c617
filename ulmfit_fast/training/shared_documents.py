"""Batches of documents whose parts several processes compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.distributed import Processes, share_of_sizes
from ulmfit_fast.text.batching import group_documents, pack_documents


@dataclass(frozen=True)
class SharedBatch:
    """One process's part of a batch.

    Args:
        documents: packed.
        rows: int64, their positions among all texts. Where there are fewer documents than processes some have no rows,
            and one document, which does not count: their graph must not lack what the others' have.
        all_rows: int64, of the whole batch.
        all_tokens: of the whole batch; of several processes before ``read`` has left words out.
    """

    documents: PackedSequence
    rows: np.ndarray
    all_rows: np.ndarray
    all_tokens: int


def shared_batches(
    ids: Sequence[np.ndarray],
    batch_size: int,
    max_tokens: int | None,
    random: np.random.Generator,
    read: Callable[[int], np.ndarray] | None,
    processes: Processes,
    skip: int = 0,
) -> Iterator[SharedBatch]:
    """``document_batches`` for training, of which each process has a part with about as many tokens as the others'.

    Args:
        ids, batch_size, max_tokens, random, read: as ``document_batches``.
        processes: those that share them.
        skip: batches to leave out at the beginning.
    """
    for group in group_documents([len(document) for document in ids], batch_size, max_tokens, random)[skip:]:
        lengths = [len(ids[i]) for i in group]
        own = [group[i] for i in share_of_sizes(lengths, processes.size)[processes.rank]]
        computed = own or [min(group, key=lambda i: len(ids[i]))]
        documents = pack_documents([torch.from_numpy(ids[i] if read is None else read(i)) for i in computed])
        tokens = len(documents.data) if processes.size == 1 else sum(lengths)
        yield SharedBatch(documents, np.array(own, dtype=np.int64), np.array(group), tokens)
