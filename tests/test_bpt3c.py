"""BPT3C against one plain autograd graph over the whole document, and its promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ulmfit_fast import AWDLSTM, BPT3C, AWDLSTMConfig, TextClassifier, reference
from ulmfit_fast.awd_lstm import DropoutMasks
from ulmfit_fast.text.batching import pack_documents

CONFIG = AWDLSTMConfig(
    30, embedding_size=6, hidden_size=9, num_layers=3, embed_p=0.2, input_p=0.3, hidden_p=0.3, weight_p=0.5
)
LENGTHS = (11, 3, 25, 8, 1, 25, 4)


def make_encoder(dtype: torch.dtype = torch.float64) -> AWDLSTM:
    return AWDLSTM(CONFIG).to(dtype)


def make_documents(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    return [torch.randint(0, 30, (length,)) for length in lengths]


def pool_with_one_graph(
    encoder: AWDLSTM, document: Tensor, chunk: int, detach: bool, masks: list[DropoutMasks] | None, row: int
) -> Tensor:
    """[h_last, max, mean] of one document, with the reference LSTM, everything in one autograd graph."""
    states = []
    carried = [(torch.zeros(1, r.hidden_size).double(), torch.zeros(1, r.hidden_size).double()) for r in encoder.rnns]
    for number, tokens in enumerate(document.split(chunk)):
        mask = None if masks is None else masks[min(number, len(masks) - 1)]
        x = encoder.encoder.weight[tokens]
        if mask is not None:
            x = x * mask.embedding[tokens]
        for layer, rnn in enumerate(encoder.rnns):
            h, c = carried[layer]
            if detach:
                h, c = h.detach(), c.detach()
            if mask is not None:
                x = x * mask.locked[layer][row]
            x, h, c = reference.lstm(
                x, torch.ones(len(tokens), dtype=torch.int64), h, c, rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0,
                rnn.bias_hh_l0, weight_dropout=0.0 if mask is None else rnn.weight_dropout,
                seed=None if mask is None else mask.seeds[layer],
            )  # fmt: skip
            carried[layer] = (h, c)
        states.append(x)
    all_states = torch.cat(states)
    return torch.cat([all_states[-1], all_states.max(0).values, all_states.mean(0)])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_equals_one_graph_over_the_whole_document(chunk: int, backprop: str, mask_scope: str, training: bool) -> None:
    encoder, documents = make_encoder().train(training), make_documents()
    torch.manual_seed(7)
    pooled = BPT3C(encoder, chunk, backprop, mask_scope).train(training)(pack_documents(documents))
    weight = torch.linspace(-1, 1, pooled.numel(), dtype=torch.float64).view_as(pooled)
    grads = torch.autograd.grad((pooled * weight).sum(), list(encoder.parameters()))

    torch.manual_seed(7)
    masks = None
    if training:
        draws = -(-max(LENGTHS) // chunk) if mask_scope == "chunk" else 1
        masks = [encoder.draw_masks(len(documents)) for _ in range(draws)]
    rows = {index: row for row, index in enumerate(pack_documents(documents).sorted_indices.tolist())}
    expected = torch.stack(
        [
            pool_with_one_graph(encoder, document, chunk, backprop == "detached", masks, rows[index])
            for index, document in enumerate(documents)
        ]
    )
    expected_grads = torch.autograd.grad((expected * weight).sum(), list(encoder.parameters()))
    torch.testing.assert_close(pooled, expected, atol=1e-10, rtol=1e-10)
    for (name, _), grad, expected_grad in zip(encoder.named_parameters(), grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-10, rtol=1e-10, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_exact_gradients_do_not_depend_on_the_chunk_length() -> None:
    encoder, documents = make_encoder().eval(), pack_documents(make_documents())
    grads = []
    for chunk in (3, 100):
        pooled = BPT3C(encoder, chunk, "exact").eval()(documents)
        grads.append(torch.autograd.grad(pooled.sin().sum(), list(encoder.parameters())))
    for few, one in zip(*grads, strict=True):
        torch.testing.assert_close(few, one, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_document_does_not_depend_on_batch_padding_or_chunks(dtype: torch.dtype) -> None:
    """Bit for bit, through the head too."""
    model = TextClassifier(make_encoder(dtype), 3).to(dtype).eval()
    documents = make_documents((300, 2, 71, 70, 140, 9))
    with torch.no_grad():
        expected = model(pack_documents(documents))
        for chunk in (1, 7, 70, 1000):
            model.bpt3c.bptt = chunk
            assert torch.equal(model(pack_documents(documents)), expected)
        for index, document in enumerate(documents):
            assert torch.equal(model(pack_documents([document]))[0], expected[index])


def test_the_mode_between_the_passes_does_not_matter() -> None:
    encoder, documents = make_encoder(), pack_documents(make_documents())
    grads = []
    for change in (False, True):
        torch.manual_seed(2)
        bpt3c = BPT3C(encoder, 5).train()
        pooled = bpt3c(documents)
        if change:
            bpt3c.eval()
        grads.append(torch.autograd.grad(pooled.sin().sum(), list(encoder.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_frozen_encoder_needs_no_second_pass_and_the_head_still_learns() -> None:
    model = TextClassifier(make_encoder(torch.float32), 3)
    model.bpt3c.encoder.requires_grad_(False)
    model(pack_documents(make_documents())).sum().backward()
    assert all(p.grad is None for p in model.bpt3c.parameters())
    assert model.head[2].weight.grad is not None


def test_partly_frozen_encoder() -> None:
    encoder = make_encoder().eval()
    documents = pack_documents(make_documents())
    bpt3c = BPT3C(encoder, 5).eval()
    whole = torch.autograd.grad(bpt3c(documents).sum(), list(encoder.rnns[-1].parameters()))
    encoder.requires_grad_(False)
    encoder.rnns[-1].requires_grad_(True)
    bpt3c(documents).sum().backward()
    for parameter, grad in zip(encoder.rnns[-1].parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert encoder.encoder.weight.grad is None


def test_backward_memory_is_that_of_one_chunk() -> None:
    """The graph of a document 16 times as long keeps no more than its boundary states."""
    encoder = AWDLSTM(AWDLSTMConfig(50, 32, 64, 2)).eval()
    bpt3c = BPT3C(encoder, 50).eval()
    saved: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        saved[-1] += tensor.numel()
        return tensor

    for length in (100, 1600):
        saved.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            bpt3c(pack_documents([torch.randint(0, 50, (length,))])).sum()
    assert saved[0] == saved[1]


def test_autocast_is_repeated_in_the_second_pass() -> None:
    encoder = make_encoder(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = BPT3C(encoder, 5)(pack_documents(make_documents()))
    assert pooled.dtype == torch.float32
    pooled.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_chunk_lengths_vary_in_training_only() -> None:
    bpt3c = BPT3C(make_encoder(), 70, variable_length=True)
    lengths = {bpt3c.chunk_length() for _ in range(200)}
    assert min(lengths) >= 5
    assert len(lengths) > 5
    assert sum(length < 52 for length in lengths) > 0  # the halves
    assert bpt3c.eval().chunk_length() == 70


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bptt": 0}, "bptt must be at least 1, got 0"),
        ({"backprop": "full"}, "backprop must be 'detached' or 'exact', got 'full'"),
        ({"mask_scope": "step"}, "mask_scope must be 'document' or 'chunk', got 'step'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BPT3C(make_encoder(), **arguments)


def test_a_document_without_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match="document 1 has no tokens"):
        pack_documents([torch.tensor([1]), torch.tensor([], dtype=torch.int64)])
