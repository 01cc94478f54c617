"""Batches of documents whose parts several processes compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.distributed import Processes, share_of_sizes
from ulmfit_fast.text.batching import pack_documents


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


def shared_batch(
    ids: Sequence[np.ndarray], group: Sequence[int], read: Callable[[int], np.ndarray] | None, processes: Processes
) -> SharedBatch:
    """One process's part of a batch, with about as many tokens as the others'.

    Args:
        ids: of all documents.
        group: positions of the batch's documents.
        read: a document by its position, where it is to be another than ``ids`` has there, no longer than it.
        processes: those that share the batch.
    """
    lengths = [len(ids[i]) for i in group]
    own = [group[i] for i in share_of_sizes(lengths, processes.size)[processes.rank]]
    computed = own or [min(group, key=lambda i: len(ids[i]))]
    documents = pack_documents([torch.from_numpy(ids[i] if read is None else read(i)) for i in computed])
    tokens = len(documents.data) if processes.size == 1 else sum(lengths)
    return SharedBatch(documents, np.array(own, dtype=np.int64), np.array(group), tokens)
