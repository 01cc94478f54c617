"""What a configuration says of schedule, rates, unfreezing and L2-SP, for given layer groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, AdamW

from ulmfit_fast.training.config import FinetuningConfig, TrainingConfig
from ulmfit_fast.training.optim import L2SP
from ulmfit_fast.training.rates import discriminative_param_groups
from ulmfit_fast.training.schedules import NUMBERS, Schedule, ScheduledLR
from ulmfit_fast.training.strategy import Strategy
from ulmfit_fast.training.unfreezing import Unfreezing, depth_blocks, layer_groups, named_unfreezing

BETAS = (0.7, 0.99)  # of AdamW


def schedule_of(config: TrainingConfig) -> Schedule:
    """The schedule of the learning rate."""
    if getattr(config, "optimizer", None) == "ntasgd":
        return Schedule("constant")
    return Schedule(config.schedule, **{name: getattr(config, name) for name in NUMBERS})


def param_groups_of(config: TrainingConfig, groups: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """The optimizer's parameter groups with their highest rates, one a layer group."""
    if not isinstance(config, FinetuningConfig):
        return discriminative_param_groups(groups, config.lr, 1.0)
    decay = {} if config.weight_decay_factor == 1 else {"weight_decay": config.weight_decay}
    return discriminative_param_groups(
        groups, config.lr, config.discriminative_factor, lr_lowest=config.lr_lowest or None,
        blocks=None if config.dis_blocks < 0 else config.dis_blocks,
        weight_decay_factor=config.weight_decay_factor, **decay,
    )  # fmt: skip


def unfreezing_of(config: TrainingConfig, groups: Sequence[nn.Module]) -> Unfreezing:
    """Which of the layer groups, or of the blocks that they make, train when."""
    if not isinstance(config, FinetuningConfig):
        return named_unfreezing("all", groups)
    frozen = bool(getattr(config, "freeze_batch_norm", False))  # a language model has no BatchNorm
    if config.frz_blocks == 0:
        return named_unfreezing("all", groups, 0, frozen)
    blocks = groups if config.frz_blocks < 0 else depth_blocks(groups, config.frz_blocks)
    return named_unfreezing(config.unfreezing, blocks, config.unfreeze_every, frozen)


def pull_of(config: TrainingConfig, pretrained: Iterable[Tensor]) -> L2SP | None:
    """The pull of pretrained parameters towards where they are now, if the configuration asks for one."""
    strength = getattr(config, "l2_sp", 0.0)
    return L2SP(pretrained, strength) if strength else None


def prepare_config(config: TrainingConfig, model: nn.Module, total_steps: int) -> Strategy:
    """Optimizer, scheduler and unfreezing of a stage, for a model of one's own (``layer_groups``)."""
    groups = layer_groups(model)
    own = param_groups_of(config, groups)
    if getattr(config, "optimizer", "adamw") == "adamw":
        optimizer: Any = AdamW(own, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay)
    else:
        optimizer = SGD(own, lr=config.lr, weight_decay=config.weight_decay)
    return Strategy(optimizer, ScheduledLR(optimizer, total_steps, schedule_of(config)), unfreezing_of(config, groups))
