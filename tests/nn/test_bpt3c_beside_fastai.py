"""fastai 2.8.12's classifier beside ours with the same weights: equal where fastai is right, and where it is not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ulmfit_fast import AWDLSTM, BPT3C, AWDLSTMConfig, TextClassifier
from ulmfit_fast.text.batching import pack_documents

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    core = pytest.importorskip(
        "fastai.text.models.core", reason="fastai is not installed: pip install --no-deps -r requirements-fastai.txt"
    )
    from fastai.text.data import pad_chunk
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config

V, E, H, LAYERS, CLASSES, PAD = 60, 12, 20, 3, 4, 1
CONFIG = AWDLSTMConfig(V, E, H, LAYERS, embed_p=0, input_p=0, hidden_p=0, weight_p=0, output_p=0)


def make_pair(bptt: int = 72) -> tuple[TextClassifier, Any]:
    """Ours with fastai's semantics, and fastai's with the same weights; no dropout."""
    ours = TextClassifier(AWDLSTM(CONFIG), CLASSES, hidden_dropout=0.0)
    ours.bpt3c = BPT3C.like_fastai(ours.bpt3c.encoder, bptt=bptt)
    sizes = {"emb_sz": E, "n_hid": H, "n_layers": LAYERS}
    theirs = core.get_text_classifier(
        AWD_LSTM, V, CLASSES, seq_len=bptt, config=awd_lstm_clas_config | sizes, drop_mult=0.0, ps=[0.0], max_len=1440
    )
    encoder, head = theirs[0].module, theirs[1].layers
    with torch.no_grad():
        ours.bpt3c.encoder.encoder.weight.mul_(20)  # states far enough apart
        encoder.encoder.weight.copy_(ours.bpt3c.encoder.encoder.weight)
        for mine, other in zip(ours.bpt3c.encoder.rnns, encoder.rnns, strict=True):
            other.weight_hh_l0_raw.copy_(mine.weight_hh_l0)
            for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
                getattr(other.module, name).copy_(getattr(mine, name))
        for mine, other in zip(ours.head.parameters(), head_parameters(theirs), strict=True):
            other.copy_(mine)
    for module in head.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return ours, theirs


def head_parameters(theirs: Any) -> list[Tensor]:
    """BatchNorm, linear, BatchNorm, linear, as in ours."""
    layers = [m for m in theirs[1].modules() if isinstance(m, torch.nn.Linear | torch.nn.BatchNorm1d)]
    return [parameter for layer in layers for parameter in layer.parameters()]


def make_documents(*lengths: int) -> list[Tensor]:
    """Each of its own few words: alike ones leave BatchNorm nothing but rounding to divide by."""
    return [torch.randint(9, V, (5,))[torch.randint(0, 5, (length,))] for length in lengths]


def fastai_batch(documents: list[Tensor], bptt: int) -> Tensor:
    """Padded and sorted as fastai's data loaders do it."""
    longest = max(map(len, documents))
    padded = [pad_chunk(d, PAD, seq_len=bptt, pad_len=longest) for d in sorted(documents, key=len, reverse=True)]
    return torch.stack(padded)


LENGTHS = (1584, 720, 216, 144, 144, 72, 72, 72)  # whole chunks: its defects do not show


# Relative to a tensor's largest element. float32: both sum over many steps, and BatchNorm divides by small spreads.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_same_predictions(dtype: torch.dtype) -> None:
    ours, theirs = (model.to(dtype).eval() for model in make_pair())
    documents = make_documents(*LENGTHS)
    with torch.no_grad():
        expected, found = theirs(fastai_batch(documents, 72))[0], ours(pack_documents(documents))
    assert float((found - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_same_gradients_of_a_training_step(dtype: torch.dtype) -> None:
    ours, theirs = (model.to(dtype).train() for model in make_pair())
    documents, targets = make_documents(*LENGTHS), torch.arange(len(LENGTHS)) % CLASSES
    loss = F.cross_entropy(ours(pack_documents(documents)), targets)
    expected = F.cross_entropy(theirs(fastai_batch(documents, 72))[0], targets)
    assert float((loss - expected).detach().abs()) <= TOLERANCE[dtype] * float(expected.detach())
    loss.backward()
    expected.backward()
    encoder = theirs[0].module
    pairs = {"embedding": (ours.bpt3c.encoder.encoder.weight, encoder.encoder.weight)}
    for layer, (mine, other) in enumerate(zip(ours.bpt3c.encoder.rnns, encoder.rnns, strict=True)):
        pairs[f"weight_hh {layer}"] = (mine.weight_hh_l0, other.weight_hh_l0_raw)
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            pairs[f"{name} {layer}"] = (getattr(mine, name), getattr(other.module, name))
    for index, (mine, other) in enumerate(zip(ours.head.parameters(), head_parameters(theirs), strict=True)):
        pairs[f"head {index}"] = (mine, other)
    for name, (mine, other) in pairs.items():
        largest = float(other.grad.abs().max())
        assert float((mine.grad - other.grad).abs().max()) <= TOLERANCE[dtype] * largest, name


def test_fastai_loses_the_tails_of_short_documents_and_we_do_not() -> None:
    """Lengths 11, 9, 5 in chunks of 3: the 9 ends where a chunk does, and the 5's tail becomes zeros (#3379)."""
    ours, theirs = make_pair(bptt=3)
    documents = make_documents(11, 9, 5)
    with torch.no_grad():
        states, _ = theirs[0].eval()(fastai_batch(documents, 3))
        assert torch.equal(states[2, 9:], torch.zeros(2, E))  # the last two steps of the document of 5
        alone, _ = theirs[0](documents[2].unsqueeze(0))
        assert (alone[0, 3:] != 0).all()
        ours.eval()
        together = ours(pack_documents(documents))
        for index, document in enumerate(documents):
            assert torch.equal(ours(pack_documents([document]))[0], together[index])


def test_fastai_takes_a_wrong_last_state_and_we_do_not() -> None:
    """Front padding within the last chunk's width is counted as if it stood behind the document."""
    ours, theirs = make_pair(bptt=72)
    documents = make_documents(80, 4)
    with torch.no_grad():
        states, mask = theirs[0].eval()(fastai_batch(documents, 72))
        pooled = core.masked_concat_pool(states, mask, 72)
        right = theirs[0](documents[1].unsqueeze(0))[0][0, -1]
        assert not torch.allclose(pooled[1, :E], right, atol=1e-3)
        last = ours.eval().bpt3c(pack_documents(documents))[1, :E]
        torch.testing.assert_close(last, right, rtol=1e-4, atol=1e-6)
