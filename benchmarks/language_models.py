"""One language-model training step, whole: ours and fastai's."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, LanguageModel
from ulmfit_fast.nn.encoder import LayerState
from ulmfit_fast.nn.language_model import language_model_loss
from ulmfit_fast.nn.stacked import LM_DROPOUTS

ALPHA, BETA, LR = 2.0, 1.0, 1e-3


@dataclass(frozen=True)
class Sizes:
    vocabulary: int = 30_000
    embedding: int = 400
    hidden: int = 1152
    layers: int = 3
    batch: int = 64
    bptt: int = 72

    @property
    def tokens(self) -> int:
        return self.batch * self.bptt

    @property
    def lstm_gflop(self) -> float:
        """A step's products, forward and backward."""
        widths = [self.embedding, *[self.hidden] * (self.layers - 1), self.embedding]
        weights = sum(4 * out * (into + out) for into, out in itertools.pairwise(widths))
        return 6 * weights * self.tokens / 1e9

    @property
    def softmax_gflop(self) -> float:
        return 6 * self.vocabulary * self.embedding * self.tokens / 1e9

    @property
    def gflop(self) -> float:
        return self.lstm_gflop + self.softmax_gflop

    def draw(self) -> tuple[Tensor, Tensor]:
        """Tokens and the tokens after them, [T, B]: random, with the frequencies of words (one over their rank)."""
        generator = torch.Generator().manual_seed(0)
        frequencies = 1 / torch.arange(1, self.vocabulary + 1, dtype=torch.float64)
        stream = torch.multinomial(frequencies, self.tokens + self.batch, replacement=True, generator=generator)
        lanes = stream.view(self.bptt + 1, self.batch)
        return lanes[:-1], lanes[1:]


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.7, 0.99), weight_decay=0.01, fused=True)


def ours(sizes: Sizes, bfloat16: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    config = AWDLSTMConfig(sizes.vocabulary, sizes.embedding, sizes.hidden, sizes.layers, **LM_DROPOUTS)
    model = LanguageModel(AWDLSTM(config)).train()
    optimizer = make_optimizer(model)
    tokens, targets = sizes.draw()
    state: list[LayerState] | None = None

    def run() -> None:
        nonlocal state
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            output = model(tokens, state)
            _, loss = language_model_loss(model, output, targets, ALPHA, BETA)
        state = [(h.detach(), c.detach()) for h, c in output.state]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.4)
        optimizer.step()

    return run


def fastai(sizes: Sizes, bfloat16: bool) -> Callable[[], None]:
    """What its Learner does in a step: the model, CrossEntropyLossFlat, RNNRegularizer, backward, the optimizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
        from fastai.text.models.core import get_language_model
    torch.manual_seed(0)
    config = awd_lstm_lm_config | {"emb_sz": sizes.embedding, "n_hid": sizes.hidden, "n_layers": sizes.layers}
    model = get_language_model(AWD_LSTM, sizes.vocabulary, config=config, drop_mult=1.0).train()
    optimizer = make_optimizer(model)
    tokens, targets = (x.T.contiguous() for x in sizes.draw())  # its batches come first

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logits, raw, dropped = model(tokens)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss = loss + ALPHA * dropped.float().pow(2).mean()
        loss = loss + BETA * (raw[:, 1:] - raw[:, :-1]).float().pow(2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.4)
        optimizer.step()

    return run


IMPLEMENTATIONS = {"ours": ours, "fastai": fastai}


def parts_of_a_step(sizes: Sizes, bfloat16: bool) -> dict[str, float]:
    """Milliseconds of our step by part, from torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    run = ours(sizes, bfloat16)
    run()
    repeats = 3
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            run()
    whole = 1000 * (time.perf_counter() - start) / repeats
    names = {
        "lstm forward": "GeneratedBackwardFor_ulmfit_fast_lstm_default",
        "lstm backward": "ulmfit_fast::lstm_backward",
        "loss and its gradients": "GeneratedBackwardFor_ulmfit_fast_linear_cross_entropy_default",
        "embedding": "GeneratedBackwardFor_ulmfit_fast_embedding_default",
        "embedding backward": "ulmfit_fast::embedding_backward",
        "locked dropout": "ulmfit_fast::locked_dropout",
        "optimizer": "Optimizer.step#AdamW.step",
    }
    events = {event.key: event.cpu_time_total / 1000 / repeats for event in profiler.key_averages()}
    parts = {part: events.get(name, 0.0) for part, name in names.items()}
    return parts | {"all else": whole - sum(parts.values())}
