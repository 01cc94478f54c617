"""How probable continuations of texts are to a language model. What texts have in common with theirs is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from ulmfit_fast import ops
from ulmfit_fast.core.device import documents_on_device, on_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.nn.documents import positions
from ulmfit_fast.nn.encoder import LayerState

if TYPE_CHECKING:
    from ulmfit_fast.nn.language_model import LanguageModel

Ids = Sequence[int]


@own_modes(grad=False)
def score_continuations(
    model: LanguageModel, texts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
) -> list[Tensor]:
    """The logarithm of each continuation's probability given its text, summed over its tokens.

    Args:
        model: computes in eval mode, whatever mode it is in, and is left in its own.
        texts: token ids, each at least one.
        continuations: of each text, token ids; an empty one has the logarithm 0.

    Returns:
        For each text float64 [its continuations] on the CPU, in nats.

    Raises:
        InputError: a text without tokens, an id out of the vocabulary.
    """
    vocabulary, device = len(model.decoder_weight), model.decoder_weight.device
    for text in texts:
        if not len(text):
            raise InputError("LanguageModel.score: a text has no tokens; begin with the tokenizer's bos_id")
    for ids in (*texts, *(each for own in continuations for each in own)):
        for token in ids:
            if not 0 <= int(token) < vocabulary:
                raise InputError(f"LanguageModel.score: token ids must be in [0, {vocabulary}), got {token}")
    # A text's last token is read with each continuation, as it is what expects the first token of it.
    rows = [(i, list(map(int, each))) for i, own in enumerate(continuations) for each in own]
    places = [place for place, (_, each) in enumerate(rows) if each]
    found = torch.zeros(len(rows), dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            if places:
                state = _states(model, [list(map(int, text))[:-1] for text in texts])
                inputs = [torch.tensor([int(texts[rows[p][0]][-1]), *rows[p][1][:-1]]) for p in places]
                targets = [torch.tensor(rows[p][1]) for p in places]
                read, expected = (pack_sequence(each, enforce_sorted=False) for each in (inputs, targets))
                own = torch.tensor([rows[p][0] for p in places])[read.sorted_indices]
                begun = [tuple(x[on_device(own, x.device)] for x in layer) for layer in state]
                raw, _ = _encode(model, read, begun)
                losses = ops.linear_cross_entropy(
                    raw, model.decoder_weight, on_device(expected.data, device), model.decoder_bias, reduction="none"
                )
                document, _ = positions(read)
                sums = torch.zeros(len(places), dtype=torch.float64).index_add(0, document, -losses.double().cpu())
                found[torch.tensor(places)] = sums
    finally:
        model.train(was_training)
    return list(found.split([len(own) for own in continuations]))


def _states(model: LanguageModel, texts: list[list[int]]) -> list[LayerState]:
    """Each layer's state after texts that may be empty, in their order."""
    state = model.encoder.initial_state(len(texts))
    places = [i for i, text in enumerate(texts) if text]
    if not places:
        return state
    read = pack_sequence([torch.tensor(texts[i]) for i in places], enforce_sorted=False)
    _, after = _encode(model, read, model.encoder.initial_state(len(places)))
    rows = torch.tensor(places)[read.sorted_indices]
    return [
        tuple(x.to(y.dtype).index_copy(0, on_device(rows, x.device), y) for x, y in zip(old, new, strict=True))
        for old, new in zip(state, after, strict=True)
    ]


def _encode(model: LanguageModel, read: PackedSequence, state: list[LayerState]) -> tuple[Tensor, list[LayerState]]:
    """The last layer's output [N, E] and the states, in packed order."""
    read = documents_on_device(read, model.decoder_weight.device)
    raw, after = model.encoder(read.data, read.batch_sizes, state, None)
    return raw, after
