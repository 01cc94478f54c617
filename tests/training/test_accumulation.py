"""A step of several batches descends the mean over all of them, and its run goes on to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import InputError, TrainingInterrupted, finetune_classifier, pretrain_lm
from ulmfit_fast.core.distributed import ALONE
from ulmfit_fast.storage.run_file import checksum
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.task import TASKS
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.gradients import Part, SharedGradients
from ulmfit_fast.training.loop import EpochProgress, StepLoss
from ulmfit_fast.training.trainer import Trainer

TEXTS, LABELS = make_task(60)


def test_gradients_of_parts_are_those_of_the_whole() -> None:
    model = nn.Linear(3, 1).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)

    def compute_loss(rows: slice) -> StepLoss:
        loss = (model(x[rows]) - y[rows]).square().mean()
        return StepLoss(loss, 2 * loss, len(x[rows]), rate=len(x[rows]) / 4)

    (2 * (model(x) - y).square().mean()).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    parts = [Part(slice(0, 2), 0.25), Part(slice(2, 8), 0.75)]
    step = SharedGradients(model, ALONE)(compute_loss, parts)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], expected)
    torch.testing.assert_close(step.report, (model(x) - y).square().mean().detach())
    torch.testing.assert_close(step.minimise, 2 * step.report)
    assert (step.tokens, step.rate) == (8, 1.0)


LABELS_OF: dict[str, tuple[list[Any], TaskOptions]] = {
    "single_label": (["a", "b", "b", "c", "b"], TaskOptions("balanced", label_smoothing=0.1, focal_gamma=1.0)),
    "binary": (["a", "b", "b", "a", "b"], TaskOptions("balanced")),
    "multi_label": ([["a"], ["b"], ["a", "b"], [], ["b"]], TaskOptions("balanced")),
    "regression": ([1.0, 2.5, 3.0, 0.5, 9.0], TaskOptions()),
    "ordinal": ([1, 2, 3, 2, 1], TaskOptions("balanced")),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_losses_of_parts_by_their_weights_are_the_loss_of_the_whole(name: str, weighted: bool) -> None:
    labels, options = LABELS_OF[name]
    task = TASKS[name].made_for(TASKS[name].read(labels), options, "labels")
    targets, logits = task.encode(labels, "labels"), torch.randn(5, task.outputs, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0]) if weighted else None

    def of(rows: slice) -> tuple[Tensor, float]:
        own = None if weights is None else weights[rows]
        return task.loss(logits[rows], targets[rows], own), task.weight(targets[rows], own)

    (first, a), (second, b) = of(slice(0, 2)), of(slice(2, 5))
    whole, all_of_it = of(slice(0, 5))
    torch.testing.assert_close((a * first + b * second) / (a + b), whole)
    assert a + b == pytest.approx(all_of_it)


class Counted(Callback):
    def __init__(self, stop_after: int = 0) -> None:
        self.steps: list[int] = []  # tokens of the epoch so far
        self.stop_after, self.rates = stop_after, 0

    def on_step(self, trainer: Trainer, done: EpochProgress) -> None:
        self.steps.append(done.tokens)
        if trainer.epoch == 1 and done.batches == self.stop_after:
            raise KeyboardInterrupt


def language_model(watching: Counted, accumulate: int = 3, **options: Any) -> Any:
    config = replace(PRETRAIN, epochs=2, accumulate=accumulate, checkpoint_minutes=1e-9)
    return pretrain_lm(TEXTS, config, callbacks=[watching], **options)


def classifier(watching: Counted, accumulate: int = 3, **options: Any) -> Any:
    config = replace(CLASSIFY, epochs=2, batch_size=4, accumulate=accumulate, drop_mult=0.5, checkpoint_minutes=1e-9)
    return finetune_classifier(TEXTS, LABELS, None, config, callbacks=[watching], **options)


@pytest.mark.parametrize("train", [language_model, classifier])
def test_a_step_has_so_many_batches_and_a_run_goes_on(train: Any, tmp_path: Path) -> None:
    whole, single = Counted(), Counted()
    expected = train(whole)
    train(single, accumulate=1)
    first_epoch = single.steps[: single.steps.index(max(single.steps)) + 1]  # ends with all tokens
    assert (
        whole.steps[: -(-len(first_epoch) // 3)] == [*first_epoch[2::3], first_epoch[-1]][: -(-len(first_epoch) // 3)]
    )
    before, after = Counted(stop_after=2), Counted()
    with pytest.raises(TrainingInterrupted):
        train(before, output=tmp_path / "out")
    gone_on = train(after, output=tmp_path / "out", resume=True)
    assert before.steps + after.steps == whole.steps
    assert checksum(gone_on.model.state_dict()) == checksum(expected.model.state_dict())


def test_another_number_of_batches_is_another_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        language_model(Counted(stop_after=1), output=tmp_path / "out")
    with pytest.raises(InputError, match="made with accumulate=3, not 2"):
        language_model(Counted(), accumulate=2, output=tmp_path / "out", resume=True)
