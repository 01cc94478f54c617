"""How fast each layer group trains: discriminative learning rates and weight decay. For any ``nn.Module``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.training.unfreezing import block_numbers


def discriminative_param_groups(
    groups: Sequence[nn.Module],
    lr: float,
    factor: float = 2.6,
    *,
    lr_lowest: float | None = None,
    blocks: int | None = None,
    weight_decay_factor: float = 1.0,
    **options: Any,
) -> list[dict[str, Any]]:
    """Optimizer parameter groups whose rate falls by ``factor`` from each layer group to the one before it.

    Args:
        groups: first to last, as ``layer_groups`` gives them.
        lr: rate of the last group.
        factor: at least 1; 1 gives all groups the same rate. FitLaM's 0.3 is a factor of 1 / 0.3.
        lr_lowest: rate of the first group, at most ``lr``: takes the place of ``factor``, the rates between being a
            geometric series.
        blocks: the groups make so many depth blocks (``block_numbers``), of one rate each. None: each group is one;
            0: all groups have ``lr``.
        weight_decay_factor: at least 1; the option ``weight_decay`` falls by it as the rate falls by ``factor``.
        options: taken over into every group, such as ``weight_decay``.

    Returns:
        One dict a group with parameters, in the same order. A parameter shared by two groups goes with the later one.

    Raises:
        InputError: no groups, lr not positive, factor below 1, lr_lowest outside (0, lr], blocks negative.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.2 (factor 2.6).
    """
    name = "discriminative_param_groups"
    if not groups:
        raise InputError(f"{name}: groups is empty")
    if lr <= 0:
        raise InputError(f"{name}: lr must be positive, got {lr}")
    for argument, value in (("factor", factor), ("weight_decay_factor", weight_decay_factor)):
        if value < 1:
            raise InputError(f"{name}: {argument} must be at least 1, got {value}")
    if lr_lowest is not None and not 0 < lr_lowest <= lr:
        raise InputError(f"{name}: lr_lowest must be above 0 and at most lr ({lr}), got {lr_lowest}")
    if blocks is not None and blocks < 0:
        raise InputError(f"{name}: blocks must not be negative, got {blocks}")
    if weight_decay_factor != 1 and "weight_decay" not in options:
        raise InputError(f"{name}: weight_decay_factor={weight_decay_factor} needs a weight_decay to divide")
    depths = depths_of(len(groups), blocks)
    deepest = max(depths)
    if lr_lowest is not None:
        factor = (lr / lr_lowest) ** (1 / deepest) if deepest else 1.0
    seen: set[int] = set()
    result: list[dict[str, Any]] = []
    for depth, group in zip(reversed(depths), reversed(groups), strict=True):
        parameters = [p for p in group.parameters() if id(p) not in seen]
        seen.update(id(p) for p in parameters)
        if parameters:
            own = options if weight_decay_factor == 1 else _decayed(options, weight_decay_factor**depth)
            result.append({"params": parameters, "lr": lr / factor**depth, **own})
    return result[::-1]


def depths_of(count: int, blocks: int | None) -> list[int]:
    """How often the rate of each of ``count`` groups is divided, first to last; the last group's is not."""
    return [0] * count if blocks == 0 else block_numbers(count, count if blocks is None else blocks)


def _decayed(options: dict[str, Any], by: float) -> dict[str, Any]:
    return options | {"weight_decay": options["weight_decay"] / by}
