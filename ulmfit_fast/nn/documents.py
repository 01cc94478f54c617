"""Documents between their two forms, packed rows and padded, and pooled in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from ulmfit_fast.core.device import on_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.ops.shared import state_dtype


def packed(name: str, documents: PackedSequence | Tensor, lengths: Tensor | None) -> PackedSequence:
    """Token ids as they come to ``forward``: packed, or padded at the end, [B, T], with their lengths [B].

    Raises:
        InputError: padded without lengths, or of other shapes; packed with lengths; a length outside [1, T].
    """
    if isinstance(documents, PackedSequence):
        if lengths is not None:
            raise InputError(f"{name}: a PackedSequence knows its lengths; leave out lengths")
        return documents
    if not isinstance(documents, Tensor):
        raise InputError(
            f"{name}: documents must be a PackedSequence (ulmfit_fast.text.batching.pack_documents) or padded token "
            f"ids [B, T] with their lengths, got {type(documents).__name__}"
        )
    if documents.dim() != 2 or documents.dtype != torch.int64:
        raise InputError(
            f"{name}: documents must be token ids, int64 [B, T], got {documents.dtype} {list(documents.shape)}"
        )
    if lengths is None:
        raise InputError(
            f"{name}: padded documents need their lengths, or the padding would be read as text: pass lengths, "
            "int64 [B], or a PackedSequence (ulmfit_fast.text.batching.pack_documents)"
        )
    rows, steps = documents.shape
    lengths = torch.as_tensor(lengths, device="cpu")
    if lengths.shape != (rows,) or lengths.dtype != torch.int64:
        raise InputError(f"{name}: lengths must be int64 [{rows}], got {lengths.dtype} {list(lengths.shape)}")
    for row in ((lengths < 1) | (lengths > steps)).nonzero().flatten().tolist()[:1]:
        raise InputError(f"{name}: lengths must be in [1, {steps}], got {int(lengths[row])} for document {row}")
    return pack_padded_sequence(documents, lengths, batch_first=True, enforce_sorted=False)


def unpadded(tokens: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Documents that all begin in the first column, and their lengths, of documents padded on either side.

    Args:
        tokens: int64 [B, T].
        pad_id: of the padding; within a document it is a token like others.

    Returns:
        int64 [B, T'], padded at the end, and int64 [B] on the CPU.

    Raises:
        InputError: a document of padding alone.
    """
    is_text = tokens != pad_id
    if not bool(is_text.any(1).all()):
        raise InputError("unpadded: a document of the batch is nothing but padding; texts begin with xxbos")
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    first = is_text.int().argmax(1)
    last = tokens.shape[1] - 1 - is_text.flip(1).int().argmax(1)
    lengths = last - first + 1
    place = (first.unsqueeze(1) + steps[: int(lengths.max())]).clamp(max=tokens.shape[1] - 1)
    return tokens.gather(1, place), lengths.cpu()


def positions(documents: PackedSequence) -> tuple[Tensor, Tensor]:
    """Of each packed row its document, in the original order, and its step; int64 [N] on the rows' device."""
    sizes, order = documents.batch_sizes, documents.sorted_indices
    steps = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    document = torch.arange(len(steps), device=sizes.device) - (torch.cumsum(sizes, 0) - sizes)[steps]
    device = documents.data.device
    document, steps = on_device(document, device), on_device(steps, device)
    return document if order is None else order[document], steps


def concat_pool(states: Tensor, lengths: Tensor, pool_from: Tensor) -> Tensor:
    """``[h_last, max, mean]`` over each document's steps from ``pool_from`` to its length; padding counts for nothing.

    Args:
        states: [B, T, E], padded at the end.
        lengths, pool_from: int64 [B].

    Returns:
        [B, 3E] in float32, or float64 with float64 states.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3.
    """
    states = states.to(state_dtype(states.dtype))
    step = torch.arange(states.shape[1], device=states.device)
    outside = ((step < pool_from.unsqueeze(1)) | (step >= lengths.unsqueeze(1))).unsqueeze(2)
    last = states.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])).squeeze(1)
    maximum = states.masked_fill(outside, -torch.inf).max(1).values
    total = states.double().masked_fill(outside, 0.0).sum(1)
    mean = (total / (lengths - pool_from).unsqueeze(1)).to(states.dtype)
    return torch.cat([last, maximum, mean], dim=1)
