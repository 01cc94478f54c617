"""The fine-tuning strategies of ULMFiT in one object, with PaddleHub's names, for any ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.training.optim import L2SP
from ulmfit_fast.training.rates import discriminative_param_groups
from ulmfit_fast.training.schedules import Schedule, ScheduledLR
from ulmfit_fast.training.unfreezing import Unfreezing, depth_blocks, depth_layers, named_unfreezing

# By PaddleHub's names, as far as torch has them, and adamw.
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "sgd": torch.optim.SGD,
}


class Strategy(NamedTuple):
    """What ``ULMFiTStrategy.prepare`` gives: step the scheduler every batch, start each epoch of the unfreezing."""

    optimizer: Optimizer
    scheduler: ScheduledLR
    unfreezing: Unfreezing


@dataclass(frozen=True)
class ULMFiTStrategy:
    """Slanted triangular rates, discriminative fine-tuning and gradual unfreezing for any model.

    >>> optimizer, scheduler, unfreezing = ULMFiTStrategy(learning_rate=5e-5).prepare(model, epochs * len(batches))

    Then ``model.train()`` and ``unfreezing.start_epoch(epoch)`` before each epoch, and ``optimizer.step()`` and
    ``scheduler.step()`` for each batch.

    The first seven arguments are PaddleHub's.

    Args:
        learning_rate: highest rate, of the last block.
        optimizer_name: one of ``OPTIMIZERS``.
        cut_fraction: share of the steps in which the rate rises; 0: the rate is constant.
        ratio: highest rate over lowest.
        dis_blocks: depth blocks for discriminative rates; 0: one rate for all layers.
        factor: rate of a block over that of the one before it.
        frz_blocks: depth blocks for gradual unfreezing, one more each epoch; 0: all layers train from the start.
        schedule: another schedule than the slanted triangular one, for ``cut_fraction`` and ``ratio``.
        unfreezing: how the ``frz_blocks`` join: one of ``UNFREEZING``.
        unfreeze_every: a block every so many steps; 0: every epoch.
        freeze_batch_norm: BatchNorm layers of frozen blocks are frozen, too (see ``Unfreezing``).
        weight_decay: the optimizer's.
        weight_decay_factor: weight decay of a block of ``dis_blocks`` over that of the one before it.
        l2_sp: strength of the pull of all layers but the last, which is taken for new, towards where they started
            (see ``L2SP``); the optimizer adds it in each step.

    Raises:
        InputError: an unknown name, a number outside its range.

    Source: Howard and Ruder, arXiv 1801.06146, section 3; PaddleHub 1.x, ``ULMFiTStrategy``.
    """

    learning_rate: float = 1e-4
    optimizer_name: str = "adam"
    cut_fraction: float = 0.1
    ratio: float = 32.0
    dis_blocks: int = 3
    factor: float = 2.6
    frz_blocks: int = 3
    schedule: Schedule | None = None
    unfreezing: str = "gradual"
    unfreeze_every: int = 0
    freeze_batch_norm: bool = False
    weight_decay: float = 0.0
    weight_decay_factor: float = 1.0
    l2_sp: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer_name not in OPTIMIZERS:
            raise InputError(
                f"ULMFiTStrategy: optimizer_name must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer_name!r}"
            )
        if self.dis_blocks < 0 or self.frz_blocks < 0:
            raise InputError(
                "ULMFiTStrategy: dis_blocks and frz_blocks must not be negative, got "
                f"{self.dis_blocks} and {self.frz_blocks}"
            )
        if self.weight_decay < 0 or self.l2_sp < 0:
            raise InputError(
                f"ULMFiTStrategy: weight_decay and l2_sp must not be negative, got {self.weight_decay} and {self.l2_sp}"
            )
        self.rates()
        # What else is wrong with the arguments is found here, before a model is there.
        one = [nn.Linear(1, 1)]
        self._unfreezing(one)
        self._param_groups(one)

    def rates(self) -> Schedule:
        """The schedule: ``schedule``, or the slanted triangular one, or a constant rate."""
        if self.schedule is not None:
            return self.schedule
        name = "slanted-triangular" if self.cut_fraction else "constant"
        return Schedule(name, self.cut_fraction, self.ratio)

    def prepare(self, model: nn.Module, total_steps: int, layers: Sequence[nn.Module] | None = None) -> Strategy:
        """Optimizer, scheduler and unfreezing for a model.

        Args:
            model: whose parameters train.
            total_steps: of the whole run.
            layers: by depth, first to last; None: ``depth_layers(model)``.

        Raises:
            InputError: as ``depth_layers``; total_steps below 1; layers that lack a parameter of the model.
        """
        own = depth_layers(model) if layers is None else list(layers)
        covered = {id(parameter) for layer in own for parameter in layer.parameters()}
        missing = [name for name, parameter in model.named_parameters() if id(parameter) not in covered]
        if missing:
            raise InputError(f"ULMFiTStrategy.prepare: layers lack {', '.join(missing)} of the model")
        optimizer = OPTIMIZERS[self.optimizer_name](self._param_groups(own), lr=self.learning_rate)
        if self.l2_sp:
            pull = L2SP((parameter for layer in own[:-1] for parameter in layer.parameters()), self.l2_sp)
            optimizer.register_step_pre_hook(lambda *_: pull.add_gradients())
        return Strategy(optimizer, ScheduledLR(optimizer, total_steps, self.rates()), self._unfreezing(own))

    def with_schedule(self, name: str, end_frac: float = 0.0) -> ULMFiTStrategy:
        """The same with another schedule, by its name, for ``cut_fraction`` and ``ratio``."""
        return replace(self, schedule=Schedule(name, self.cut_fraction, self.ratio, end_frac))

    def _param_groups(self, layers: Sequence[nn.Module]) -> list[dict[str, Any]]:
        return discriminative_param_groups(
            layers, self.learning_rate, self.factor, blocks=self.dis_blocks, weight_decay=self.weight_decay,
            weight_decay_factor=self.weight_decay_factor,
        )  # fmt: skip

    def _unfreezing(self, layers: Sequence[nn.Module]) -> Unfreezing:
        if not self.frz_blocks:
            return named_unfreezing("all", layers, 0, self.freeze_batch_norm)
        blocks = depth_blocks(layers, self.frz_blocks)
        return named_unfreezing(self.unfreezing, blocks, self.unfreeze_every, self.freeze_batch_norm)
