"""Documents as they come to a model: packed, or padded with their lengths; and what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from ulmfit_fast import AWDLSTM, BPT3C, AWDLSTMConfig, InputError, LanguageModel, TextClassifier
from ulmfit_fast.text.batching import pack_documents

CONFIG = AWDLSTMConfig(30, 6, 9, 2)


def make_model(**options: object) -> TextClassifier:
    return TextClassifier(AWDLSTM(CONFIG), 3, **options).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"pool_window": 4}, {"pool_window": 4, "keep": "first"}])
def test_padded_documents_are_the_packed_ones(options: dict) -> None:
    model, documents = make_model(**options), [torch.randint(30, (n,)) for n in (5, 1, 12)]
    lengths = torch.tensor([5, 1, 12])
    for steps in (12, 20):
        tokens = torch.full((3, steps), 29)
        for row, document in enumerate(documents):
            tokens[row, : len(document)] = document
        for module in (model, model.bpt3c):
            assert torch.equal(module(tokens, lengths), module(pack_documents(documents)))


@pytest.mark.parametrize(
    ("documents", "lengths", "message"),
    [
        (torch.zeros(2, 5, dtype=torch.int64), None, "padded documents need their lengths"),
        (torch.zeros(2, 5), torch.tensor([5, 1]), r"must be token ids, int64 \[B, T\], got torch.float32 \[2, 5\]"),
        (torch.zeros(5, dtype=torch.int64), torch.tensor([5]), r"int64 \[B, T\], got torch.int64 \[5\]"),
        (
            torch.zeros(2, 5, dtype=torch.int64),
            torch.tensor([5]),
            r"lengths must be int64 \[2\], got torch.int64 \[1\]",
        ),
        (torch.zeros(2, 5, dtype=torch.int64), torch.tensor([5.0, 1.0]), r"lengths must be int64 \[2\], got torch.fl"),
        (torch.zeros(2, 5, dtype=torch.int64), torch.tensor([5, 6]), r"in \[1, 5\], got 6 for document 1"),
        (torch.zeros(2, 5, dtype=torch.int64), torch.tensor([0, 5]), r"in \[1, 5\], got 0 for document 0"),
        ([[1, 2]], None, "documents must be a PackedSequence .* got list"),
        (pack_documents([torch.tensor([1, 2])]), torch.tensor([2]), "a PackedSequence knows its lengths"),
    ],
)
def test_what_is_refused(documents: object, lengths: Tensor | None, message: str) -> None:
    for name, module in (("TextClassifier", make_model()), ("BPT3C", make_model().bpt3c)):
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            module(documents, lengths)


class _Packs(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.model(pack_padded_sequence(tokens, lengths, batch_first=True, enforce_sorted=False))


def test_jit_trace_is_refused_as_it_would_give_wrong_values() -> None:
    encoder, model = AWDLSTM(CONFIG).eval(), make_model()
    tokens, lengths = torch.randint(30, (2, 12)), torch.tensor([12, 5])
    cases = {
        "TextClassifier": (_Packs(model), (tokens, lengths)),
        "BPT3C": (_Packs(BPT3C(encoder).eval()), (tokens, lengths)),
        "LanguageModel": (LanguageModel(encoder).eval(), (tokens,)),
        "AWDLSTM": (encoder, (tokens.reshape(-1), torch.full((12,), 2))),
        "BPT3C.forward_embedded": (lambda x, n: model.forward_embedded(x, n), (torch.randn(2, 12, 6), lengths)),
    }
    for name, (module, arguments) in cases.items():
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            with pytest.raises(RuntimeError, match=f"{name}: torch.jit.trace cannot follow .* use torch.export"):
                torch.jit.trace(module, arguments)
