"""The learning-rate range test of the three stages: with their data, their loss and their layers' rates."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ulmfit_fast.core.device import autocast
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.gradients import Part
from ulmfit_fast.training.history import History
from ulmfit_fast.training.lr_range import LRFinding, lr_range_test
from ulmfit_fast.training.trainer import Trainer
from ulmfit_fast.training.tuning import param_groups_of
from ulmfit_fast.training.unfreezing import StepwiseUnfreezing, layer_groups


def find_lr(
    stage: Callable[..., Any],
    *arguments: Any,
    lr_min: float = 1e-7,
    lr_max: float = 10.0,
    steps: int = 100,
    **options: Any,
) -> LRFinding:
    """The range test for a stage; nothing is trained, and a model that was given is left as it is.

    >>> find_lr(finetune_classifier, texts, labels, "lm/", ClassifierConfig(unfreezing="all")).valley

    Layers train as in the stage's first epoch: by default a classifier's head alone.

    Args:
        stage: ``pretrain_lm``, ``finetune_lm`` or ``finetune_classifier``.
        arguments, options: its own, without ``output``.
        lr_min, lr_max, steps: as ``lr_range_test``.

    Raises:
        InputError: as the stage and ``lr_range_test``.
    """
    if "output" in options:
        raise InputError("find_lr: output: nothing is trained that could be written; leave it out")
    finder = LRFinder(lr_min, lr_max, steps)
    stage(*arguments, callbacks=[*options.pop("callbacks", ()), finder], **options)
    assert finder.finding is not None
    return finder.finding


class LRFinder(Callback):
    """Runs the range test as a stage begins, and leaves the run as it was: it would end with the same bits.

    Args:
        lr_min, lr_max, steps: as ``lr_range_test``.
        alone: the stage trains nothing after it.

    Attributes:
        finding: what was found, once the stage has begun.
    """

    def __init__(self, lr_min: float = 1e-7, lr_max: float = 10.0, steps: int = 100, alone: bool = True) -> None:
        self.lr_min, self.lr_max, self.steps, self.alone = lr_min, lr_max, steps, alone
        self.finding: LRFinding | None = None

    def on_start(self, trainer: Trainer) -> None:
        if trainer.processes.size > 1:
            raise InputError("find_lr: is for one process; the rate that it finds holds for any number of them")
        order, drawn, carried = trainer.random.bit_generator.state, trainer.generators.state(), trainer.carried
        modes = [(module, module.training) for module in trainer.model.modules()]
        trains = [(parameter, parameter.requires_grad) for parameter in trainer.model.parameters()]
        try:
            self.finding = self._test(trainer)
        finally:
            trainer.random.bit_generator.state = order
            trainer.generators.set_state(drawn)
            trainer.carried = carried
            for module, mode in modes:
                module.training = mode
            for parameter, requires_grad in trains:
                parameter.requires_grad_(requires_grad)

    def _test(self, trainer: Trainer) -> LRFinding:
        model, config = trainer.model, trainer.config
        model.train()
        if isinstance(trainer.unfreezing, StepwiseUnfreezing):
            trainer.unfreezing.start_step(0)
        else:
            trainer.start_epoch(0)
        optimizer, _ = trainer.new_optimizer(param_groups_of(config, layer_groups(model)), self.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]  # the schedule has set that of its first step
        epochs = itertools.chain.from_iterable(trainer.steps(0) for _ in itertools.repeat(None))
        with progress_bar("learning rates", self.steps, "step", trainer.options.progress) as bar:

            def compute_loss(parts: list[Part]) -> Tensor:
                """A step's loss, with the graph of its last batch; gradients of the others are there already."""
                loss: Tensor | float = 0.0
                for place, part in enumerate(parts, start=1):
                    with autocast(model, config.precision):
                        step = trainer.compute_loss(part.batch)
                    trainer.carry()
                    own = step.minimise if part.share == 1 else step.minimise * part.share
                    if place < len(parts):
                        own.backward()
                    loss = (own.detach() if place < len(parts) else own) + loss
                bar.update(1)
                assert isinstance(loss, Tensor)
                return loss

            return lr_range_test(
                model, optimizer, epochs, compute_loss, lr_min=self.lr_min, lr_max=self.lr_max, steps=self.steps,
                clip=config.clip,
            )  # fmt: skip

    def wants_to_stop(self, history: History) -> bool:
        return self.alone
