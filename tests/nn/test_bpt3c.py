"""BPT3C against one plain autograd graph over the whole document, and its promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from tests.nn.one_graph import states_of_one_graph
from ulmfit_fast import AWDLSTM, BPT3C, AWDLSTMConfig, TextClassifier, ops
from ulmfit_fast.nn.pooling import ConcatPooling, Pooling, ReadingWeights
from ulmfit_fast.nn.stacked import DropoutMasks
from ulmfit_fast.nn.two_pass import Block, Plan, encode, masks_of_seed
from ulmfit_fast.text.batching import pack_documents

CONFIG = AWDLSTMConfig(
    30, embedding_size=6, hidden_size=9, num_layers=3, embed_p=0.2, input_p=0.3, hidden_p=0.3, weight_p=0.5
)
LENGTHS = (72, 2, 500, 71, 1, 73)
FEW = (11, 3, 25, 8, 1, 25, 4)


def make_encoder(dtype: torch.dtype = torch.float64) -> AWDLSTM:
    return AWDLSTM(CONFIG).to(dtype)


def reading(encoder: AWDLSTM) -> tuple[AWDLSTM, Pooling, ReadingWeights]:
    """With what ``encode`` reads and pools."""
    pooling = ConcatPooling(encoder.output_size)
    return encoder, pooling, ReadingWeights(encoder.weights(), pooling.weights())


def make_documents(lengths: tuple[int, ...] = FEW) -> list[Tensor]:
    return [torch.randint(0, 30, (length,)) for length in lengths]


def pool_with_one_graph(
    encoder: AWDLSTM,
    document: Tensor,
    chunk: int,
    detach: bool,
    masks: list[DropoutMasks] | None,
    row: int,
    window: int | None = None,
) -> Tensor:
    """[h_last, max, mean] of one document."""
    pooled = states_of_one_graph(encoder, document, chunk, detach, masks, row)[-window if window else 0 :]
    return torch.cat([pooled[-1], pooled.max(0).values, pooled.mean(0)])


def expected_of_one_graph(
    encoder: AWDLSTM, documents: list[Tensor], bpt3c: BPT3C, seed: int
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """(pooled, gradients of all parameters, weights of the loss) by the definition."""
    torch.manual_seed(seed)
    masks = None
    if encoder.training:
        masks = [encoder.draw_masks(len(documents))]
        if bpt3c.mask_scope == "chunk":
            torch.manual_seed(seed)
            chunks = -(-max(map(len, documents)) // bpt3c.bptt)
            masks = [
                masks_of_seed(encoder, int(ops.draw_seed()), len(documents), torch.device("cpu")) for _ in range(chunks)
            ]
    rows = {index: row for row, index in enumerate(pack_documents(documents).sorted_indices.tolist())}
    expected = torch.stack(
        [
            pool_with_one_graph(
                encoder, document, bpt3c.bptt, bpt3c.backprop == "detached", masks, rows[index], bpt3c.pool_window
            )
            for index, document in enumerate(documents)
        ]
    )
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    return expected, torch.autograd.grad((expected * weight).sum(), list(encoder.parameters())), weight


def assert_equals_one_graph(encoder: AWDLSTM, documents: list[Tensor], **settings: Any) -> None:
    """With every way to use memory, blocks smaller than the documents and larger ones."""
    expected, expected_grads, weight = expected_of_one_graph(encoder, documents, BPT3C(encoder, **settings), 7)
    for memory, block_rows in (("recompute", 1), ("recompute", 150), ("store", 150), ("store", 4608)):
        bpt3c = BPT3C(encoder, memory=memory, **settings).train(encoder.training)
        bpt3c.block_rows = block_rows
        torch.manual_seed(7)
        pooled = bpt3c(pack_documents(documents))
        torch.testing.assert_close(pooled, expected, atol=1e-10, rtol=1e-10)
        grads = torch.autograd.grad((pooled * weight).sum(), list(encoder.parameters()))
        for (name, _), grad, right in zip(encoder.named_parameters(), grads, expected_grads, strict=True):
            where = f"memory={memory}, block_rows={block_rows}, {name}"
            torch.testing.assert_close(grad, right, atol=1e-10, rtol=1e-10, msg=lambda m: f"{where}: {m}")  # noqa: B023


@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("bptt", [1, 7, 72, 1000])
def test_equals_one_graph_over_the_whole_document(bptt: int, backprop: str, mask_scope: str) -> None:
    assert_equals_one_graph(
        make_encoder().train(), make_documents(LENGTHS), bptt=bptt, backprop=backprop, mask_scope=mask_scope
    )


@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("bptt", [5, 8])
def test_equals_one_graph_in_eval_mode(bptt: int, backprop: str) -> None:
    assert_equals_one_graph(make_encoder().eval(), make_documents(), bptt=bptt, backprop=backprop)


@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("window", [1, 5, 9])
def test_pool_window_equals_pooling_the_last_states(window: int, mask_scope: str, backprop: str) -> None:
    assert_equals_one_graph(
        make_encoder().train(), make_documents(), bptt=4, backprop=backprop, mask_scope=mask_scope, pool_window=window
    )


def test_keep_first_is_the_same_as_a_shorter_document_and_keep_all_has_no_window() -> None:
    encoder, documents = make_encoder().eval(), make_documents()
    first = BPT3C(encoder, 5, pool_window=6, keep="first")(pack_documents(documents))
    assert torch.equal(first, BPT3C(encoder, 5)(pack_documents([d[:6] for d in documents])))
    everything = BPT3C(encoder, 5, pool_window=6, keep="all")(pack_documents(documents))
    assert torch.equal(everything, BPT3C(encoder, 5)(pack_documents(documents)))


def test_exact_gradients_do_not_depend_on_the_chunk_length() -> None:
    encoder, documents = make_encoder().eval(), pack_documents(make_documents())
    grads = []
    for chunk in (3, 100):
        pooled = BPT3C(encoder, chunk, "exact").eval()(documents)
        grads.append(torch.autograd.grad(pooled.sin().sum(), list(encoder.parameters())))
    for few, one in zip(*grads, strict=True):
        torch.testing.assert_close(few, one, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_document_does_not_depend_on_batch_padding_or_chunks(dtype: torch.dtype) -> None:
    """Bit for bit, through the head too."""
    model = TextClassifier(make_encoder(dtype), 3).to(dtype).eval()
    documents = make_documents((300, 2, 71, 70, 140, 9))
    with torch.no_grad():
        expected = model(pack_documents(documents))
        for chunk, block_rows in ((1, 1), (7, 40), (70, 4608), (1000, 4608)):
            model.bpt3c.bptt, model.bpt3c.block_rows = chunk, block_rows
            assert torch.equal(model(pack_documents(documents)), expected)
        for order in (range(6), (3, 1, 5, 0, 4, 2), (2, 2, 0)):
            assert torch.equal(model(pack_documents([documents[i] for i in order])), expected[list(order)])


def test_a_document_does_not_depend_on_its_batch_under_autocast() -> None:
    model = TextClassifier(make_encoder(torch.float32), 3).eval()
    documents = make_documents((30, 2, 71))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(pack_documents(documents))
        model.bpt3c.bptt = 9
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


@pytest.mark.parametrize("backprop", ["detached", "exact"])
def test_partly_frozen_encoder(backprop: str) -> None:
    encoder = make_encoder().eval()
    documents = pack_documents(make_documents())
    bpt3c = BPT3C(encoder, 5, backprop).eval()
    bpt3c.block_rows = 20
    whole = torch.autograd.grad(bpt3c(documents).sum(), list(encoder.rnns[-1].parameters()))
    encoder.requires_grad_(False)
    encoder.rnns[-1].requires_grad_(True)
    bpt3c(documents).sum().backward()
    for parameter, grad in zip(encoder.rnns[-1].parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert encoder.encoder.weight.grad is None


def test_what_is_kept_for_backward_is_the_states_between_chunks() -> None:
    encoder = AWDLSTM(AWDLSTMConfig(50, 32, 64, 2)).eval()
    kept = []
    for length in (100, 1600):
        blocks: list[Block] = []
        documents = pack_documents([torch.randint(0, 50, (length,))])
        plan = Plan(50, exact=False, masks_per_chunk=False, store=False, block_rows=200)
        encode(*reading(encoder), documents, plan, torch.zeros(1, dtype=torch.int64), blocks)
        states = [x for b in blocks for pair in b.starts for x in pair]
        assert all(b.graph is None for b in blocks)
        kept.append(sum(x.numel() for x in states))
    per_chunk = 2 * 64 + 2 * 32
    assert kept == [2 * per_chunk, 32 * per_chunk]


def test_masks_of_a_chunk_are_not_held() -> None:
    """They are drawn again: a mask of the embedding for each chunk would be most of a long document's memory."""
    encoder = make_encoder().train()
    blocks: list[Block] = []
    plan = Plan(4, exact=False, masks_per_chunk=True, store=False, block_rows=100)
    documents = pack_documents(make_documents())
    encode(*reading(encoder), documents, plan, torch.tensor([20] * 7), blocks)
    assert [int(block.segments.first_step[0]) for block in blocks] == [20, 24]  # nothing is pooled before
    assert all(block.segments.masks is None and block.mask_seed is not None for block in blocks)


def test_auto_stores_what_fits_the_budget() -> None:
    encoder = make_encoder().train()
    need = 300 * encoder.activation_bytes()
    for budget, stored in ((0, 0), (need - 1, 0), (need, 12)):
        bpt3c = BPT3C(encoder, 25, memory_budget=budget).train()
        bpt3c.block_rows = 25
        pooled = bpt3c(pack_sequence(make_documents((300,))))  # sorted: no index_select after it
        assert sum(block.graph is not None for block in pooled.grad_fn.blocks) == stored


def test_backward_twice_says_what_to_do() -> None:
    pooled = BPT3C(make_encoder(), 5)(pack_documents(make_documents()))
    pooled.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call forward again"):
        pooled.sum().backward()


def test_gradient_accumulation_adds_up() -> None:
    encoder = make_encoder().eval()
    bpt3c, documents = BPT3C(encoder, 5).eval(), make_documents()
    whole = torch.autograd.grad(bpt3c(pack_documents(documents)).sin().sum(), list(encoder.parameters()))
    for part in (documents[:3], documents[3:]):
        bpt3c(pack_documents(part)).sin().sum().backward()
    for parameter, grad in zip(encoder.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


@pytest.mark.parametrize("memory", ["recompute", "store"])
def test_progress_adds_up_to_the_tokens(memory: str) -> None:
    bpt3c = BPT3C(make_encoder(), 5, memory=memory)
    done: list[float] = []
    bpt3c.on_progress, bpt3c.block_rows = done.append, 10
    bpt3c(pack_documents(make_documents())).sum().backward()
    assert sum(done) == sum(FEW)
    assert len(done) > 4
    done.clear()
    with torch.no_grad():
        bpt3c.eval()(pack_documents(make_documents()))
    assert sum(done) == sum(FEW)


def test_like_fastai_is_a_set_of_options() -> None:
    bpt3c = BPT3C.like_fastai(make_encoder(), memory="store")
    assert (bpt3c.bptt, bpt3c.mask_scope, bpt3c.pool_window, bpt3c.memory) == (72, "chunk", 1440, "store")


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
        ({"memory": "disk"}, "memory must be 'recompute', 'store' or 'auto', got 'disk'"),
        ({"memory_budget": -1}, "memory_budget must be a number of bytes, got -1"),
        ({"pool_window": 0}, "pool_window must be at least 1, or None for all tokens, got 0"),
        ({"keep": "middle"}, "keep must be 'last', 'first' or 'all', got 'middle'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BPT3C(make_encoder(), **arguments)


def test_a_document_without_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match="document 1 has no tokens"):
        pack_documents([torch.tensor([1]), torch.tensor([], dtype=torch.int64)])
