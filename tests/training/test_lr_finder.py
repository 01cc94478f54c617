"""The range test: what it suggests on curves that are known, and that it leaves everything as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from tests.training.any_models import ResNet
from ulmfit_fast import (
    InputError,
    LRFinding,
    ULMFiTStrategy,
    find_lr,
    finetune_classifier,
    finetune_lm,
    lr_range_test,
    pretrain_lm,
)
from ulmfit_fast.storage.run_file import checksum
from ulmfit_fast.training.lr_finder import LRFinder
from ulmfit_fast.training.lr_range import draw_finding

TEXTS, LABELS = make_task(60)
RATES = [10.0**k for k in range(-6, 3)]


def finding(losses: list[float]) -> LRFinding:
    return LRFinding(RATES[: len(losses)], losses)


def test_smoothing_is_without_bias() -> None:
    assert finding([3.0] * 5).smoothed == pytest.approx([3.0] * 5)
    # weights 0.9 * 0.1 and 0.1, over their sum 0.19
    assert finding([1.0, 2.0]).smoothed == pytest.approx([1.0, 0.09 / 0.19 + 0.2 / 0.19])


def test_suggestions_on_a_curve_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ulmfit_fast.training.lr_range._SMOOTHING", 0.0)
    curve = finding([1.0, 1.1, 1.0, 0.9, 0.5, 0.3, 0.2, 2.0])
    assert curve.smoothed == pytest.approx(curve.losses)
    # slopes of central differences: the steepest is between 0.9 and 0.3, at 1e-2
    assert curve.steepest == pytest.approx(1e-2)
    # 1.1, 1.0, 0.9, 0.5, 0.3, 0.2 fall, six steps, the last at position 6: position 6 - 3
    assert curve.valley == pytest.approx(1e-3)
    # wavering on the way does not matter: 1, 0.9, 0.5, 0.3, five steps with 0.2, the last at position 7
    assert finding([1.0, 0.9, 0.95, 0.5, 0.6, 0.3, 0.4, 0.2]).valley == pytest.approx(RATES[7 - 2])


def test_no_suggestion_where_nothing_falls() -> None:
    rising = finding([1.0, 1.1, 1.2, 1.3])
    assert rising.steepest is None
    assert rising.valley is None
    assert finding([1.0]).steepest is None
    assert draw_finding(rising).startswith(b"\x89PNG")
    assert draw_finding(finding([1.0])).startswith(b"\x89PNG")
    assert draw_finding(finding([1.0, 0.9, 0.5, 0.4, 4.0])).startswith(b"\x89PNG")


def test_a_parabola_is_found() -> None:
    """w^2 / 2 by SGD: above a rate of 2 it diverges; it falls fastest a little below 1."""
    weight = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(1.0)
    optimizer = torch.optim.SGD(weight.parameters(), lr=1.0)
    found = lr_range_test(weight, optimizer, [torch.ones(1, 1)], lambda x: weight(x).square().sum() / 2, lr_min=1e-4)
    assert found.rates[0] == pytest.approx(1e-4)
    assert found.rates[1] / found.rates[0] == pytest.approx((10 / 1e-4) ** (1 / 99))
    assert found.losses[0] == pytest.approx(0.5)
    assert found.steepest is not None
    assert 0.02 < found.steepest < 1
    assert found.valley is not None
    assert 0.005 < found.valley < 1


def test_rates_stay_discriminative() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[1].parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    seen = []

    def compute_loss(batch: Any) -> torch.Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return model(batch).sum()

    found = lr_range_test(model, optimizer, [torch.ones(1, 1)], compute_loss, lr_min=1e-5, lr_max=1e-3, steps=5)
    assert [b for _, b in seen] == found.rates
    assert found.rates == pytest.approx([1e-5, 10**-4.5, 1e-4, 10**-3.5, 1e-3])
    assert [a / b for a, b in seen] == pytest.approx([0.1] * 5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", ["adam", "adagrad", "momentum"])
def test_everything_is_as_it_was(name: str, fails: bool) -> None:
    """Parameters, statistics, gradients, modes, the optimizer in the middle of its run, and all generators."""
    torch.manual_seed(0)
    model = ResNet()
    images, labels = torch.randn(4, 3, 8, 8), torch.randint(3, (4,))

    def compute_loss(_: Any) -> torch.Tensor:
        torch.rand(3), np.random.rand(3), random.random()
        return nn.functional.cross_entropy(model(images), labels)

    optimizer, scheduler, unfreezing = ULMFiTStrategy(1e-2, name).prepare(model, 20)
    unfreezing.start_epoch(0)
    for _ in range(3):
        optimizer.zero_grad()
        compute_loss(None).backward()
        optimizer.step()
        scheduler.step()
    model.layer1.eval()

    def everything() -> dict[str, Any]:
        return {
            "model": checksum(model.state_dict()),
            "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            "trains": [p.requires_grad for p in model.parameters()], "modes": [m.training for m in model.modules()],
            "optimizer": repr(optimizer.state_dict()), "torch": torch.get_rng_state(),
            "numpy": repr(np.random.get_state()), "python": random.getstate(),
        }  # fmt: skip

    before = everything()
    if fails:
        with pytest.raises(ZeroDivisionError):
            lr_range_test(model, optimizer, [0] * 20, lambda _: compute_loss(_) / 1 if random.random() < 0.9 else 1 / 0)
    else:
        lr_range_test(model, optimizer, [0], compute_loss, steps=20)
    after = everything()
    for name, value in before.items():
        if name == "grad":
            assert all(
                (a is None) == (b is None) and (a is None or torch.equal(a, b))
                for a, b in zip(value, after[name], strict=True)
            )
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, after[name]), name
        else:
            assert value == after[name], name


def pretrain(callbacks: list[Any]) -> Any:
    return pretrain_lm(TEXTS, replace(PRETRAIN, optimizer="ntasgd", lr=2.0), valid_texts=TEXTS[:9], callbacks=callbacks)


def tune(callbacks: list[Any]) -> Any:
    config = replace(FINETUNE, unfreezing="gradual", epochs=2, precision="bfloat16")
    return finetune_lm(TEXTS, pretrain_lm(TEXTS, PRETRAIN), config, callbacks=callbacks)


def classify(callbacks: list[Any]) -> Any:
    config = replace(CLASSIFY, epochs=2, drop_mult=0.5, variable_bptt=True, unfreezing="gradual", schedule="one-cycle")
    return finetune_classifier(TEXTS, LABELS, None, config, callbacks=callbacks)


@pytest.mark.parametrize("train", [pretrain, tune, classify])
def test_a_run_ends_with_the_same_bits(train: Callable[[list[Any]], Any]) -> None:
    finder = LRFinder(steps=15, alone=False)
    mine, plain = train([finder]), train([])
    assert finder.finding is not None
    assert len(finder.finding.rates) > 5
    assert checksum(mine.model.state_dict()) == checksum(plain.model.state_dict())
    assert mine.history.records[-1]["loss"] == plain.history.records[-1]["loss"]


def test_of_the_stages() -> None:
    base = pretrain_lm(TEXTS, PRETRAIN)
    before = checksum(base.model.state_dict())
    for found in (
        find_lr(pretrain_lm, TEXTS, PRETRAIN, steps=8),
        find_lr(finetune_lm, TEXTS, base, FINETUNE, steps=8, lr_min=1e-4, lr_max=1e-2),
        find_lr(
            finetune_classifier, TEXTS, LABELS, base, replace(CLASSIFY, unfreezing="gradual", unfreeze_every=2), steps=8
        ),
    ):
        assert len(found.rates) == len(found.losses) >= 5
    assert checksum(base.model.state_dict()) == before


def test_a_step_is_as_many_batches_as_gradients_are_accumulated_of() -> None:
    """A step's loss is the mean over the tokens of its batches."""
    batches: list[tuple[int, float]] = []

    class Losses(LRFinder):
        def on_start(self, trainer: Any) -> None:
            compute = trainer.compute_loss

            def counted(batch: Any) -> Any:
                loss = compute(batch)
                batches.append((loss.tokens, float(loss.minimise.detach())))
                return loss

            trainer.compute_loss = counted
            super().on_start(trainer)

    finder = Losses(steps=4, lr_min=1e-3, lr_max=0.1)
    pretrain_lm(TEXTS, replace(PRETRAIN, accumulate=3), callbacks=[finder])
    assert finder.finding is not None
    assert len(batches) == 12
    steps = [batches[i : i + 3] for i in range(0, 12, 3)]
    means = [sum(n * loss for n, loss in step) / sum(n for n, _ in step) for step in steps]
    assert finder.finding.losses == pytest.approx(means, abs=1e-6)
    assert max(abs(step[2][1] - mean) for step, mean in zip(steps, means, strict=True)) > 1e-3


def test_the_head_alone_is_tested_first() -> None:
    """As the first epoch trains it: with everything frozen but the head the loss falls less."""
    seen = []

    class Watch(LRFinder):
        def _test(self, trainer: Any) -> Any:
            found = super()._test(trainer)
            seen.append([p.requires_grad for p in trainer.model.parameters()])
            return found

    for unfreezing in ("gradual", "all"):
        config = replace(CLASSIFY, unfreezing=unfreezing)
        finetune_classifier(TEXTS, LABELS, None, config, callbacks=[Watch(steps=2)])
    assert not all(seen[0])
    assert any(seen[0])
    assert all(seen[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr_min": 0.0}, "0 < lr_min < lr_max is needed, got 0.0 and 10.0"),
        ({"lr_min": 1.0, "lr_max": 0.1}, "0 < lr_min < lr_max is needed, got 1.0 and 0.1"),
        ({"steps": 1}, "steps must be at least 2, got 1"),
        ({"batches": []}, "no batches, or the first loss is not finite"),
        ({"batches": [float("nan")]}, "no batches, or the first loss is not finite"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    given = {"batches": [1.0], **arguments}
    with pytest.raises(InputError, match=message):
        lr_range_test(model, optimizer, given.pop("batches"), lambda x: model.weight.sum() * x, **given)


def test_no_output() -> None:
    with pytest.raises(InputError, match="output: nothing is trained"):
        find_lr(pretrain_lm, TEXTS, PRETRAIN, output=Path("lm"))
