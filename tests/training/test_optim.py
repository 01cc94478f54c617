"""NT-ASGD and averaged weights against the formulas and torch's SGD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import PRETRAIN
from ulmfit_fast import AWDLSTM, NTASGD, AveragedWeights, LanguageModel, slanted_triangular
from ulmfit_fast.core.random import Generators
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import TokenArray
from ulmfit_fast.training.language_model import LanguageModelTrainer
from ulmfit_fast.training.loop import Loop, StepLoss
from ulmfit_fast.training.trainer import RunOptions


def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 4, generator=generator, dtype=torch.float64)).square().mean().backward()
        optimizer.step()


def test_averages_all_weights_from_the_trigger_on() -> None:
    ours, theirs = model(), model()
    mine = NTASGD(ours.parameters(), lr=0.1, weight_decay=0.01, patience=1)
    for loss in (3.0, 2.0, 2.5):
        mine.validated(loss)
    assert not mine.averaging
    assert mine.validated(2.6)  # above 2.0, the best but the last
    train(ours, mine, 7)
    plain, seen = torch.optim.SGD(theirs.parameters(), lr=0.1, weight_decay=0.01), []
    plain.register_step_post_hook(lambda *_: seen.append([p.detach().clone() for p in theirs.parameters()]))
    train(theirs, plain, 7)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    with mine.average.in_place():
        for i, a in enumerate(ours.parameters()):
            torch.testing.assert_close(a.detach(), torch.stack([step[i] for step in seen]).mean(0))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_trigger_looks_past_the_last_five() -> None:
    optimizer = NTASGD(model().parameters())
    losses = [9, 8, 7, 7.5, 7.4, 7.3, 7.2, 7.1, 7.05, 6.9]
    # The eighth is compared with 9 and 8, the ninth with 9, 8 and 7.
    assert [optimizer.validated(loss) for loss in losses] == [False] * 8 + [True] + [False]


def test_falling_losses_never_trigger() -> None:
    optimizer = NTASGD(model().parameters())
    assert not any(optimizer.validated(10 - i / 10) for i in range(50))


def test_state_goes_on_to_the_same_bits() -> None:
    whole, part, rest = model(), model(), model()

    def run(net: nn.Module, optimizer: NTASGD, seeds: range) -> None:
        for seed in seeds:
            torch.manual_seed(seed)
            optimizer.zero_grad()
            net(torch.randn(8, 4, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
            optimizer.validated(float(seed))

    one = NTASGD(whole.parameters(), lr=0.1, patience=2)
    run(whole, one, range(12))
    two = NTASGD(part.parameters(), lr=0.1, patience=2)
    run(part, two, range(6))
    three = NTASGD(rest.parameters(), lr=0.1, patience=2)
    rest.load_state_dict(part.state_dict())
    three.load_state_dict(two.state_dict())
    run(rest, three, range(6, 12))
    assert one.averaging
    assert all(torch.equal(a, b) for a, b in zip(one.average.averages, three.average.averages, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


@pytest.mark.parametrize("decay", [None, 0.9])
def test_average(decay: float | None) -> None:
    weight = nn.Parameter(torch.zeros(1))
    average = AveragedWeights([weight], decay)
    with average.in_place():
        assert weight == 0
    for value in (1.0, 2.0, 6.0):
        weight.data.fill_(value)
        average.update()
    expected = 3.0 if decay is None else 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 6
    with average.in_place():
        torch.testing.assert_close(weight.detach(), torch.tensor([expected]))
    assert weight == 6


def test_sgd_with_the_slanted_triangular_rate() -> None:
    """One weight, one step: at the schedule's first rate, the gradient alone."""
    config = replace(PRETRAIN, optimizer="sgd", lr=3.2, weight_decay=0.0, clip=10.0)
    tokenizer = config.train_tokenizer(["a b c"])
    corpus = Corpus(tokenizer, TokenArray([np.arange(20, dtype=np.int32) % len(tokenizer)]), None)
    trainer = LanguageModelTrainer(
        "test",
        LanguageModel(AWDLSTM(config.encoder_config(tokenizer))),
        corpus,
        config,
        RunOptions(),
        Generators(0),
    )
    weight = nn.Linear(1, 1, bias=False)
    optimizer, scheduler = trainer.new_optimizer([{"params": [weight.weight], "lr": config.lr}], 100)
    loop = Loop(weight, optimizer, scheduler, config.clip, progress=False)
    before = weight.weight.item()
    loop.train_epoch("one step", [torch.full((1, 1), 0.5)], 1, lambda x: StepLoss(*[weight(x).sum()] * 2, 1))
    assert weight.weight.item() == pytest.approx(before - 0.5 * slanted_triangular(0, 100, 3.2))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"decay must be in \(0, 1\) or None, got 1.0"):
        AveragedWeights([], 1.0)
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        NTASGD(model().parameters(), patience=0)
