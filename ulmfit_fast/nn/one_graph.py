"""Documents through an encoder whose layers are called as modules, in one ordinary autograd graph.

This is what hooks see, and what gives gradients with respect to embeddings. Memory grows with the documents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ulmfit_fast.core.device import on_device
from ulmfit_fast.core.random import current_generator
from ulmfit_fast.nn.documents import concat_pool, positions
from ulmfit_fast.nn.encoder import Encoder, LayerState
from ulmfit_fast.nn.two_pass import Plan, Progress, masks_of_seed
from ulmfit_fast.ops import draw_seed


def encode(
    encoder: Encoder,
    documents: PackedSequence,
    plan: Plan,
    pool_from: Tensor,
    embedded: Tensor | None = None,
    progress: Progress | None = None,
    pool: Callable[[Tensor, Tensor, Tensor], Tensor] = concat_pool,
) -> Tensor:
    """Pool each document; equal to ``two_pass.encode`` within rounding, with the same masks for the same seed.

    The embedding is called once, on padded ids in the documents' original order (row i is document i, as attribution
    methods need it). The layers are called on packed rows: on all steps at once in eval mode, whose gradients are
    always exact, in training on a chunk at a time where gradients or masks do not cross chunks.

    Args:
        encoder: whose documents they are.
        documents: token ids, packed.
        plan: how to run them; nothing is recomputed.
        pool_from: int64 [B] on CPU, the first step of each document that is pooled.
        embedded: [B, T, E] in the original order, in place of the padded ids' embedding.
        progress: told the rows of each chunk.
        pool: ``Pooling.forward``.

    Returns:
        What ``pool`` makes of the states, [B, ...], in packed order.
    """
    tokens, sizes = documents.data, documents.batch_sizes
    batch, device = int(sizes[0]), tokens.device
    where = positions(documents)
    masks = None if plan.masks_per_chunk else encoder.draw_masks(batch)
    if embedded is None:
        padded = tokens.new_zeros(batch, len(sizes))
        padded[where] = tokens
        embedded = encoder.embed(padded)
    rows = embedded[where]
    detach = encoder.training and not plan.exact
    state: list[LayerState] = encoder.initial_state(batch)
    outputs: list[Tensor] = []
    done = 0
    for chunk in sizes.split(plan.bptt if detach or plan.masks_per_chunk else len(sizes)):
        count, end = int(chunk[0]), done + int(chunk.sum())
        if plan.masks_per_chunk:
            masks = masks_of_seed(encoder, int(draw_seed(generator=current_generator("cpu"))), batch, device)
        state = [tuple((x.detach() if detach else x)[:count] for x in layer) for layer in state]
        output, state = encoder(
            tokens[done:end], chunk, state, None if masks is None else masks.first(count), rows[done:end]
        )
        outputs.append(output)
        if progress is not None:
            progress(end - done)
        done = end
    states, lengths = pad_packed_sequence(PackedSequence(torch.cat(outputs), sizes), batch_first=True)
    return pool(states, on_device(lengths, device), on_device(pool_from, device))
