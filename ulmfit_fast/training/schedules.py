"""Learning-rate schedules: pure functions of the step, and thin torch schedulers around them. For any model."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def slanted_triangular(
    step: int, total_steps: int, lr_max: float = 0.01, cut_frac: float = 0.1, ratio: float = 32.0
) -> float:
    """The slanted triangular learning rate: a short linear rise to ``lr_max``, a long linear fall.

    ``lr_max * (1 + p * (ratio - 1)) / ratio`` where p rises from 0 to 1 over the first ``cut = floor(total_steps *
    cut_frac)`` steps and falls back to 0 at ``total_steps``. Two corners of the printed formula are mended: a cut of
    zero (few steps, small cut_frac) counts as one instead of dividing by it, and the fall ends at ``total_steps`` also
    where ``total_steps * cut_frac`` is not whole (as printed the rate could then turn negative).

    Args:
        step: from 0.
        total_steps: steps of the whole run, at least 1.
        lr_max: the highest rate.
        cut_frac: share of the steps spent rising, in [0, 1].
        ratio: how much smaller the lowest rate is, at least 1.

    Raises:
        ValueError: an argument outside its range.

    Source: Howard and Ruder, arXiv 1801.06146, equation 3.
    """
    if total_steps < 1:
        raise ValueError(f"slanted_triangular: total_steps must be at least 1, got {total_steps}")
    if step < 0:
        raise ValueError(f"slanted_triangular: step must not be negative, got {step}")
    if not 0 <= cut_frac <= 1:
        raise ValueError(f"slanted_triangular: cut_frac must be in [0, 1], got {cut_frac}")
    if ratio < 1:
        raise ValueError(f"slanted_triangular: ratio must be at least 1, got {ratio}")
    cut = max(1, int(total_steps * cut_frac))
    p = step / cut if step < cut else 1 - (step - cut) / max(1, total_steps - cut)
    return lr_max * (1 + max(0.0, p) * (ratio - 1)) / ratio


class SlantedTriangularLR(LambdaLR):
    """``slanted_triangular`` for an optimizer: each parameter group's own rate is its ``lr_max``. Step it every batch.

    Args:
        optimizer: its groups' rates are the maxima.
        total_steps, cut_frac, ratio: as in ``slanted_triangular``.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, cut_frac: float = 0.1, ratio: float = 32.0, last_epoch: int = -1
    ) -> None:
        slanted_triangular(0, total_steps, 1.0, cut_frac, ratio)  # a wrong argument fails here, not in a step
        super().__init__(
            optimizer, lambda step: slanted_triangular(step, total_steps, 1.0, cut_frac, ratio), last_epoch
        )
