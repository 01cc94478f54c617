"""The mask of DropConnect as a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast.ops.shared import native, register_fake


def dropconnect_mask(seed: Tensor, rows: int, columns: int, p: float) -> Tensor:
    """Which elements of a [rows, columns] weight DropConnect keeps.

    The mask that ``lstm`` applies to ``weight_hh`` for the same seed; the same bits on every device.

    Args:
        seed: int64, one element.
        rows: 4H for an LSTM's ``weight_hh``.
        columns: H (with a projection: P).
        p: probability of dropping an element, in [0, 1).

    Returns:
        bool [rows, columns], True where the element is kept (and scaled by 1 / (1 - p)).

    Raises:
        ValueError: p outside [0, 1), or a negative size.
        TypeError: seed is not int64.
    """
    return native.dropconnect_mask(seed, rows, columns, p)


@register_fake("dropconnect_mask")
def _(seed: Tensor, rows: int, columns: int, p: float) -> Tensor:
    return seed.new_empty((rows, columns), dtype=torch.bool)
