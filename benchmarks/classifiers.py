"""Whole classifier steps: ours, fastai's, and nn.LSTM chunk by chunk under torch's checkpointing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, TextClassifier
from ulmfit_fast.nn.stacked import CLASSIFIER_DROPOUTS
from ulmfit_fast.text.batching import pack_documents

PAD = 1


@dataclass(frozen=True)
class Sizes:
    vocabulary: int = 30_000
    embedding: int = 400
    hidden: int = 1152
    bptt: int = 72

    @property
    def weights(self) -> int:
        """Of the three LSTM layers' matrices."""
        e, h = self.embedding, self.hidden
        return 4 * h * (e + h) + 4 * h * (h + h) + 4 * e * (h + e)


@dataclass(frozen=True)
class Task:
    """A batch of documents, lengths spread evenly between two."""

    name: str
    documents: int
    shortest: int
    longest: int
    training: bool

    @property
    def lengths(self) -> list[int]:
        return torch.linspace(self.longest, self.shortest, self.documents).long().tolist()

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def gflop(self, sizes: Sizes) -> float:
        """The LSTMs' products; training counts no recomputation."""
        return 2 * sizes.weights * self.tokens * (3 if self.training else 1) / 1e9

    def draw(self, sizes: Sizes) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randint(9, sizes.vocabulary, (n,), generator=generator) for n in self.lengths]


def _config(sizes: Sizes, drop_mult: float) -> AWDLSTMConfig:
    config = AWDLSTMConfig(sizes.vocabulary, sizes.embedding, sizes.hidden)
    return config.with_dropouts(CLASSIFIER_DROPOUTS, drop_mult)


def make_model(sizes: Sizes, drop_mult: float) -> TextClassifier:
    return TextClassifier(AWDLSTM(_config(sizes, drop_mult)), 2, bptt=sizes.bptt)


def _step(model: nn.Module, logits: Callable[[], Tensor], task: Task, bfloat16: bool) -> Callable[[], None]:
    """One optimizer step, or one prediction."""
    targets = torch.arange(task.documents) % 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train(task.training)

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16), torch.set_grad_enabled(task.training):
            output = logits()
        if task.training:
            optimizer.zero_grad()
            F.cross_entropy(output.float(), targets).backward()
            optimizer.step()

    return run


def ours(task: Task, sizes: Sizes, bfloat16: bool) -> Callable[[], None]:
    model = make_model(sizes, 0.5)
    documents = pack_documents(task.draw(sizes))
    return _step(model, lambda: model(documents), task, bfloat16)


def fastai(task: Task, sizes: Sizes, bfloat16: bool) -> Callable[[], None]:
    """Chunks of 72, the gradient of the last 1,440 tokens, padded and sorted as its data loaders do it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastai.text.data import pad_chunk
        from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
        from fastai.text.models.core import get_text_classifier
    config = awd_lstm_clas_config | {"emb_sz": sizes.embedding, "n_hid": sizes.hidden}
    model = get_text_classifier(
        AWD_LSTM, sizes.vocabulary, 2, seq_len=sizes.bptt, config=config, drop_mult=0.5, max_len=20 * sizes.bptt
    )
    # Whole chunks, where its results are right.
    longest = -(-task.longest // sizes.bptt) * sizes.bptt
    padded = [pad_chunk(document, PAD, seq_len=sizes.bptt, pad_len=longest) for document in task.draw(sizes)]
    batch = torch.stack(padded)
    return _step(model, lambda: model(batch)[0], task, bfloat16)


class DocumentGradient:
    """The gradient of one document's pooled vector, without dropout: what ours and the checkpointed nn.LSTM compute."""

    def __init__(self, tokens: int, sizes: Sizes, bfloat16: bool) -> None:
        torch.manual_seed(0)
        self.sizes, self.bfloat16 = sizes, bfloat16
        self.model = make_model(sizes, 0.0)
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(9, sizes.vocabulary, (tokens,), generator=generator)
        self.documents = pack_documents([self.tokens])
        encoder = self.model.bpt3c.encoder
        self.layers = nn.ModuleList(nn.LSTM(r.input_size, r.hidden_size) for r in encoder.rnns)
        self.layers.load_state_dict(encoder.rnns.state_dict())
        self.embedding = nn.Embedding.from_pretrained(encoder.encoder.weight.detach().clone(), freeze=False)

    def ours(self) -> list[Tensor]:
        encoder = self.model.bpt3c.encoder
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            pooled = self.model.bpt3c(self.documents)
        return list(torch.autograd.grad(pooled.float().sum(), list(encoder.parameters())))

    def checkpointed(self) -> list[Tensor]:
        state = [(torch.zeros(1, 1, r.hidden_size), torch.zeros(1, 1, r.hidden_size)) for r in self.layers]
        totals, maxima, last = [], [], torch.empty(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            for chunk in self.tokens.split(self.sizes.bptt):
                flat = [x for pair in state for x in pair]
                total, maximum, last, *end = checkpoint(self._chunk, chunk, *flat, use_reentrant=False)
                state = [(h.detach(), c.detach()) for h, c in zip(end[::2], end[1::2], strict=True)]
                totals.append(total)
                maxima.append(maximum)
        pooled = torch.cat([last, torch.stack(maxima).amax(0), torch.stack(totals).sum(0) / len(self.tokens)])
        return list(torch.autograd.grad(pooled.float().sum(), [self.embedding.weight, *self.layers.parameters()]))

    def _chunk(self, tokens: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        x, end = self.embedding(tokens).unsqueeze(1), []
        for layer, h, c in zip(self.layers, flat[::2], flat[1::2], strict=True):
            x, (h_n, c_n) = layer(x, (h, c))
            end += [h_n, c_n]
        states = x.squeeze(1).float()
        return (states.sum(0), states.amax(0), states[-1], *end)
