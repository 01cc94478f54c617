"""The user's default dtype is no affair of models that exist already."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.text.batching import pack_documents


def make_work() -> Callable[[], list[Tensor]]:
    """All ways through a classifier and a language model, as a function that repeats them."""
    encoder = AWDLSTM(AWDLSTMConfig(30, 6, 9, 2))
    classifier, language_model = TextClassifier(encoder, 3, bptt=4, variable_length=True), LanguageModel(encoder)
    documents = pack_documents([torch.randint(30, (n,)) for n in (9, 3, 20)])
    padded, lengths = torch.randint(30, (3, 9)), torch.tensor([9, 1, 4])
    bpt3c = classifier.bpt3c
    bpt3c.block_rows = 30
    buffers = copy.deepcopy(classifier.state_dict())  # BatchNorm's change

    def work() -> list[Tensor]:
        results: list[Tensor] = []
        classifier.load_state_dict(buffers)
        for training in (True, False):
            classifier.train(training)
            for memory, mask_scope in (("store", "document"), ("recompute", "document"), ("recompute", "chunk")):
                bpt3c.memory, bpt3c.mask_scope = memory, mask_scope
                for given in ((documents,), (padded, lengths)):
                    torch.manual_seed(1)
                    logits = classifier(*given)
                    results += [logits, *torch.autograd.grad(logits.sin().sum(), list(classifier.parameters()))]
            handle = encoder.encoder.register_forward_hook(lambda *_: None)
            torch.manual_seed(1)
            results.append(classifier(documents))
            handle.remove()
            torch.manual_seed(1)
            results.append(language_model.train(training)(padded).dropped)
        results.append(classifier.forward_embedded(classifier.embed(padded), lengths))
        stream = classifier.stream()
        stream.feed([1, 2, 3])
        return [*results, stream.logits()]

    return work


def test_default_dtype() -> None:
    work = make_work()
    expected = work()
    torch.set_default_dtype(torch.float64)
    try:
        actual = work()
    finally:
        torch.set_default_dtype(torch.float32)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
