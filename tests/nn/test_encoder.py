"""The seam between BPT3C and an encoder: one of another kind, written here in plain torch, runs through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ulmfit_fast import AWDLSTM, BPT3C, AWDLSTMConfig, TextClassifier
from ulmfit_fast.nn.bpt3c import BPT3CConfig
from ulmfit_fast.nn.encoder import Encoder, LayerState, has_hooks
from ulmfit_fast.nn.one_graph import encode
from ulmfit_fast.nn.two_pass import Plan
from ulmfit_fast.ops import PooledState, sequence_lengths
from ulmfit_fast.text.batching import pack_documents


class Weights(NamedTuple):
    embedding: Tensor
    rate: Tensor

    def flat(self) -> list[Tensor]:
        return list(self)

    def detached(self) -> Self:
        return self._make(x.detach().requires_grad_(x.requires_grad) for x in self)

    def first_trainable(self) -> int:
        return 0


class Masks(NamedTuple):
    rows: Tensor  # [B, E]

    def of_rows(self, rows: Tensor) -> Self:
        return self._make([self.rows[rows]])

    def first(self, batch: int) -> Self:
        return self._make([self.rows[:batch]])


@dataclass(frozen=True)
class MovingAverageConfig:
    vocab_size: int
    features: int


class MovingAverage(nn.Module):
    """h_t = a h_{t-1} + (1 - a) tanh(embedding), a = sigmoid(rate): one layer whose state is one tensor."""

    def __init__(self, config: MovingAverageConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.randn(config.vocab_size, config.features).double())
        self.rate = nn.Parameter(torch.randn(config.features).double())
        self.output_size, self.vocab_size, self.output_p = config.features, config.vocab_size, 0.0

    def layer_groups(self) -> list[nn.Module]:
        return [self]

    def initial_state(self, batch: int) -> list[LayerState]:
        return [(self.table.new_zeros(batch, self.output_size),)]

    def draw_masks(self, batch: int) -> Masks | None:
        return self.new_masks(batch) if self.training else None

    def new_masks(self, batch: int, generator: torch.Generator | None = None) -> Masks:
        return Masks(torch.rand(batch, self.output_size, generator=generator).double())

    def weights(self) -> Weights:
        return Weights(self.table, self.rate)

    def activation_bytes(self) -> int:
        return 8 * self.output_size

    def calls_modules(self) -> bool:
        return has_hooks(self)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def forward(
        self, tokens: Tensor, batch_sizes: Tensor, state: Any = None, masks: Any = None, embedded: Tensor | None = None
    ) -> tuple[Tensor, list[LayerState]]:
        embedded = self.table[tokens] if embedded is None else embedded
        return self._steps(embedded, batch_sizes, state, masks, self.rate, 0)

    def pool(
        self, tokens: Tensor, batch_sizes: Tensor, state: list[LayerState], masks: Any, pooled: PooledState, *,
        weights: Any = None, bptt: int = 0, boundary_rows: Tensor | None = None,
    ) -> tuple[PooledState, list[LayerState], list[LayerState]]:  # fmt: skip
        weights = weights or self.weights()
        output, new_state = self._steps(weights.embedding[tokens], batch_sizes, state, masks, weights.rate, bptt)
        total, maximum, argmax, last = (x.clone() for x in pooled[:4])
        first = 0
        for number, rows in enumerate(batch_sizes.tolist()):
            h, step = output[first : first + rows], pooled.count[:rows] + number
            here = (step >= pooled.pool_from[:rows]).unsqueeze(1)
            greater = here & (h > maximum[:rows])
            total = torch.cat([total[:rows] + h * here, total[rows:]])
            argmax = torch.cat([torch.where(greater, step.unsqueeze(1).int(), argmax[:rows]), argmax[rows:]])
            maximum = torch.cat([torch.where(greater, h, maximum[:rows]), maximum[rows:]])
            last = torch.cat([h, last[rows:]])
            first += rows
        count = pooled.count.clone()
        count[: int(batch_sizes[0])] += sequence_lengths(batch_sizes)
        boundaries = [] if boundary_rows is None else [(output[boundary_rows],)]
        return PooledState(total, maximum, argmax, last, count, pooled.pool_from), new_state, boundaries

    def _steps(
        self, x: Tensor, batch_sizes: Tensor, state: list[LayerState], masks: Masks | None, rate: Tensor, bptt: int
    ) -> tuple[Tensor, list[LayerState]]:
        a, (h,) = rate.sigmoid(), state[0]
        outputs: list[Tensor] = []
        ended: list[Tensor] = []
        for step, rows in enumerate(x.split(batch_sizes.tolist())):
            ended.insert(0, h[len(rows) :])
            h = h[: len(rows)].detach() if bptt and step % bptt == 0 and step else h[: len(rows)]
            dropped = rows if masks is None else rows * masks.rows[: len(rows)]
            h = a * h + (1 - a) * dropped.tanh()
            outputs.append(h)
        return torch.cat(outputs), [(torch.cat([h, *ended]),)]


def make_documents(lengths: Sequence[int] = (11, 3, 25, 8, 1)) -> PackedSequence:
    return pack_documents([torch.randint(20, (n,)) for n in lengths])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
def test_another_encoder_runs_through_the_two_passes(backprop: str, mask_scope: str, training: bool) -> None:
    encoder, documents = MovingAverage(MovingAverageConfig(20, 5)).train(training), make_documents()
    for memory, block_rows in (("recompute", 1), ("recompute", 60), ("store", 60)):
        bpt3c = BPT3C(encoder, 4, backprop, mask_scope, memory=memory, pool_window=7).train(training)
        bpt3c.block_rows = block_rows
        torch.manual_seed(3)
        pooled = bpt3c(documents)
        torch.manual_seed(3)
        plan = Plan(4, backprop == "exact" or not training, mask_scope == "chunk" and training, False, block_rows)
        expected = encode(encoder, documents, plan, bpt3c._pool_from(documents))[documents.unsorted_indices]
        torch.testing.assert_close(pooled, expected, atol=1e-12, rtol=1e-12)
        if backprop == "exact" or training:
            found = torch.autograd.grad(pooled.sin().sum(), list(encoder.parameters()))
            right = torch.autograd.grad(expected.sin().sum(), list(encoder.parameters()))
            for mine, theirs in zip(found, right, strict=True):
                torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)


def test_another_encoder_equals_its_definition() -> None:
    encoder, documents = MovingAverage(MovingAverageConfig(20, 5)), make_documents()
    a, h = encoder.rate.sigmoid(), torch.zeros(5, 5).double()
    tokens, lengths = pad_packed_sequence(documents, batch_first=True)
    states = []
    for step in range(tokens.shape[1]):
        h = a * h + (1 - a) * encoder.table[tokens[:, step]].tanh()
        states.append(h)
    expected = torch.stack(
        [
            torch.cat([s[-1], s.max(0).values, s.mean(0)])
            for s in (torch.stack(states)[:length, row] for row, length in enumerate(lengths.tolist()))
        ]
    )
    torch.testing.assert_close(BPT3C(encoder, 4).eval()(documents), expected)


def test_a_classifier_of_another_encoder_predicts_and_streams() -> None:
    model = TextClassifier(MovingAverage(MovingAverageConfig(20, 5)), 3).double().eval()
    document = torch.randint(20, (13,))
    stream = model.stream()
    stream.feed(document)
    with torch.no_grad():
        torch.testing.assert_close(stream.logits(), model(pack_documents([document]))[0])
    assert model.layer_groups() == [model.bpt3c.encoder, model.head]


def test_the_protocol_has_what_awd_lstm_has() -> None:
    encoder: Encoder = AWDLSTM(AWDLSTMConfig(20, 4, 6, 2))
    assert [type(group) for group in encoder.layer_groups()] == [nn.Embedding, *[type(r) for r in encoder.rnns]]
    assert (encoder.output_size, encoder.vocab_size, encoder.output_p) == (4, 20, 0.1)


def test_one_configuration_and_its_fields_are_the_same() -> None:
    encoder = AWDLSTM(AWDLSTMConfig(20, 4, 6, 2))
    config = BPT3CConfig(bptt=9, backprop="exact", pool_window=5, keep="first")
    for bpt3c in (
        BPT3C(encoder, config),
        BPT3C(encoder, 9, "exact", pool_window=5, keep="first"),
        BPT3C(encoder, BPT3CConfig(bptt=9), backprop="exact", pool_window=5, keep="first"),
        TextClassifier(encoder, 2, 50, 0.1, config).bpt3c,
        TextClassifier(encoder, 2, bptt=9, backprop="exact", pool_window=5, keep="first").bpt3c,
    ):
        assert bpt3c.config == config
        assert (bpt3c.bptt, bpt3c.backprop, bpt3c.pool_window, bpt3c.keep) == (9, "exact", 5, "first")
    bpt3c.bptt = 4
    assert bpt3c.config.bptt == 4
    with pytest.raises(ValueError, match="bptt must be at least 1, got 0"):
        bpt3c.bptt = 0
    assert BPT3C.like_fastai(encoder, bptt=5).config == BPT3CConfig(5, mask_scope="chunk", pool_window=1440)
    with pytest.raises(TypeError, match="unexpected keyword argument 'window'"):
        TextClassifier(encoder, 2, window=5)
    with pytest.raises(TypeError, match="after a BPT3CConfig give changes by name"):
        BPT3C(encoder, config, 5)
