"""Which layers train, and how fast: layer groups, discriminative rates, unfreezing. For any ``nn.Module``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def layer_groups(model: nn.Module) -> list[nn.Module]:
    """A model's layer groups, first (most general) to last (most specific).

    What the model's own ``layer_groups()`` says; for a model without one, its direct children that hold parameters, and
    for a model without children the model itself.

    Raises:
        ValueError: a parameter of the model is in none of its groups.
    """
    own = getattr(model, "layer_groups", None)
    if callable(own):
        groups = list(own())
    else:
        groups = [child for child in model.children() if any(True for _ in child.parameters())] or [model]
    covered = {id(p) for group in groups for p in group.parameters()}
    missing = [name for name, p in model.named_parameters() if id(p) not in covered]
    if missing:
        raise ValueError(
            f"layer_groups: {type(model).__name__} has parameters outside its groups: {', '.join(missing)}; give the "
            "model a layer_groups() method that covers them"
        )
    return groups


def discriminative_param_groups(
    groups: Sequence[nn.Module], lr: float, factor: float = 2.6, **options: Any
) -> list[dict[str, Any]]:
    """Optimizer parameter groups whose rate falls by ``factor`` from each layer group to the one before it.

    Args:
        groups: first to last, as ``layer_groups`` gives them.
        lr: rate of the last group.
        factor: at least 1; 1 gives all groups the same rate.
        options: taken over into every group, such as ``weight_decay``.

    Returns:
        One dict a group with parameters, in the same order. A parameter shared by two groups goes with the later one.

    Raises:
        ValueError: no groups, lr not positive, factor below 1.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.2 (factor 2.6).
    """
    if not groups:
        raise ValueError("discriminative_param_groups: groups is empty")
    if lr <= 0:
        raise ValueError(f"discriminative_param_groups: lr must be positive, got {lr}")
    if factor < 1:
        raise ValueError(f"discriminative_param_groups: factor must be at least 1, got {factor}")
    seen: set[int] = set()
    result: list[dict[str, Any]] = []
    for depth, group in enumerate(reversed(groups)):
        parameters = [p for p in group.parameters() if id(p) not in seen]
        seen.update(id(p) for p in parameters)
        if parameters:
            result.append({"params": parameters, "lr": lr / factor**depth, **options})
    return result[::-1]


class GradualUnfreezing:
    """Trains the last layer group first and one more with each epoch.

    Every parameter belongs to the optimizer from the start; a frozen one gets no gradient and is left alone. BatchNorm
    layers stay trainable. Call ``start_epoch`` before each epoch.

    Args:
        groups: first to last, as ``layer_groups`` gives them.
        groups_per_epoch: groups that join with each epoch.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3.
    """

    def __init__(self, groups: Sequence[nn.Module], groups_per_epoch: int = 1) -> None:
        if not groups:
            raise ValueError("GradualUnfreezing: groups is empty")
        if groups_per_epoch < 1:
            raise ValueError(f"GradualUnfreezing: groups_per_epoch must be at least 1, got {groups_per_epoch}")
        self.groups = list(groups)
        self.groups_per_epoch = groups_per_epoch

    def trainable_groups(self, epoch: int) -> int:
        """How many of the last groups train in ``epoch``, counted from 0."""
        return min(len(self.groups), 1 + epoch * self.groups_per_epoch)

    def start_epoch(self, epoch: int) -> int:
        """Freeze and unfreeze for ``epoch``, counted from 0; returns how many groups train."""
        first = len(self.groups) - self.trainable_groups(epoch)
        return train_only(self.groups, range(first, len(self.groups)))


class ChainThaw:
    """Trains one layer group at a time: the last, the first, the second and so on; then all of them together.

    With n groups the first n epochs train one each. Otherwise as ``GradualUnfreezing``.

    Args:
        groups: first to last, as ``layer_groups`` gives them.

    Source: Felbo et al., arXiv 1708.00524, section 3.3, in the order of its authors' code; beside gradual unfreezing
    in arXiv 1801.06146, section 5.
    """

    def __init__(self, groups: Sequence[nn.Module]) -> None:
        if not groups:
            raise ValueError("ChainThaw: groups is empty")
        self.groups = list(groups)

    def trainable_groups(self, epoch: int) -> range:
        """Which groups train in ``epoch``, counted from 0."""
        count = len(self.groups)
        if epoch >= count:
            return range(count)
        alone = count - 1 if epoch == 0 else epoch - 1
        return range(alone, alone + 1)

    def start_epoch(self, epoch: int) -> int:
        """Freeze and unfreeze for ``epoch``, counted from 0; returns how many groups train."""
        return train_only(self.groups, self.trainable_groups(epoch))


def train_only(groups: Sequence[nn.Module], trainable: Sequence[int]) -> int:
    """Freeze all groups but these, by their positions; returns how many train."""
    for position, group in enumerate(groups):
        if position not in trainable:
            set_trainable(group, False)
    for position in trainable:  # last: a parameter shared with a frozen group trains
        set_trainable(groups[position], True)
    return len(trainable)


def set_trainable(group: nn.Module, trainable: bool) -> None:
    """Freeze or unfreeze a group's parameters; BatchNorm stays trainable either way."""
    group.requires_grad_(trainable)
    for module in group.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(True)
