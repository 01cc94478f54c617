"""Learning-rate schedules: pure functions of the step, and a thin torch scheduler around them. For any model.

All count steps from 0, take the rate of the highest step as ``lr_max``, and answer for steps beyond the last one as for
the end of the run. None divides by zero for short runs, and none has a rate of zero within the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ulmfit_fast.core.errors import InputError


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
        InputError: an argument outside its range.

    Source: Howard and Ruder, arXiv 1801.06146, equation 3.
    """
    _check("slanted_triangular", step, total_steps, cut_frac=cut_frac)
    if ratio < 1:
        raise InputError(f"slanted_triangular: ratio must be at least 1, got {ratio}")
    cut = max(1, int(total_steps * cut_frac))
    p = step / cut if step < cut else 1 - (step - cut) / max(1, total_steps - cut)
    return lr_max * (1 + max(0.0, p) * (ratio - 1)) / ratio


def linear_decay(
    step: int, total_steps: int, lr_max: float = 0.01, cut_frac: float = 0.1, end_frac: float = 0.0
) -> float:
    """Linear warm-up to ``lr_max``, then a linear fall to ``end_frac * lr_max`` at ``total_steps``.

    With ``cut = floor(total_steps * cut_frac)`` the rate of step t is ``lr_max * (t + 1) / (cut + 1)`` before the cut:
    the first step trains, too, and step ``cut`` has ``lr_max``. ``cut_frac`` 0 is linear decay alone.

    Args:
        step, total_steps, lr_max: as ``slanted_triangular``.
        cut_frac: share of the steps of the warm-up, in [0, 1].
        end_frac: rate at the end over the highest, in [0, 1]; 1 / 32 is where slanted triangular rates end.

    Raises:
        InputError: an argument outside its range.
    """
    _check("linear_decay", step, total_steps, cut_frac=cut_frac, end_frac=end_frac)
    cut = int(total_steps * cut_frac)
    return lr_max * (_risen(step, cut) if step < cut else _between(1, end_frac, _fallen(step, cut, total_steps)))


def cosine_annealing(step: int, total_steps: int, lr_max: float = 0.01, end_frac: float = 0.0) -> float:
    """From ``lr_max`` down along half a cosine, over one run: ``lr_max * (1 + cos(pi * step / total_steps)) / 2``.

    Args:
        step, total_steps, lr_max: as ``slanted_triangular``.
        end_frac: rate at the end over the highest, in [0, 1].

    Raises:
        InputError: an argument outside its range.

    Source: Howard and Ruder, arXiv 1801.06146, first version (FitLaM).
    """
    return reverse_annealing(step, total_steps, lr_max, 0.0, end_frac)


def reverse_annealing(
    step: int, total_steps: int, lr_max: float = 0.01, cut_frac: float = 0.1, end_frac: float = 0.0
) -> float:
    """Warm-up by annealing in reverse: up along half a cosine, then down along another.

    With ``cut = floor(total_steps * cut_frac)`` the rate of step t is ``lr_max * (1 - cos(pi * (t + 1) / (cut + 1))) /
    2`` before the cut; from there on ``cosine_annealing`` over the steps that are left. ``cut_frac`` 1 rises all along.

    Args:
        step, total_steps, lr_max: as ``slanted_triangular``.
        cut_frac: share of the steps that rise, in [0, 1].
        end_frac: rate at the end over the highest, in [0, 1].

    Raises:
        InputError: an argument outside its range.

    Source: Howard and Ruder, arXiv 1801.06146, first version (FitLaM).
    """
    _check("reverse_annealing", step, total_steps, cut_frac=cut_frac, end_frac=end_frac)
    cut = int(total_steps * cut_frac)
    if step < cut:
        return lr_max * _along_cosine(0, 1, _risen(step, cut))
    return lr_max * _along_cosine(1, end_frac, _fallen(step, cut, total_steps))


def inverse_square_root(step: int, total_steps: int, lr_max: float = 0.01, cut_frac: float = 0.1) -> float:
    """Linear warm-up to ``lr_max``, then a fall with one over the square root of the step.

    With ``cut = floor(total_steps * cut_frac)`` and steps n = ``step`` + 1 counted from one:
    ``lr_max * min(n / (cut + 1), sqrt((cut + 1) / n))``.

    Args:
        step, total_steps, lr_max: as ``slanted_triangular``.
        cut_frac: share of the steps of the warm-up, in [0, 1].

    Raises:
        InputError: an argument outside its range.

    Source: Vaswani et al., arXiv 1706.03762, section 5.3.
    """
    _check("inverse_square_root", step, total_steps, cut_frac=cut_frac)
    cut = int(total_steps * cut_frac)
    return lr_max * (_risen(step, cut) if step < cut else math.sqrt((cut + 1) / (step + 1)))


@dataclass(frozen=True)
class OneCycle:
    """The numbers of a one-cycle policy. ``FASTAI_CYCLE`` and ``TORCH_CYCLE`` are those two libraries' defaults.

    Args:
        pct_start: share of the steps in which the rate rises.
        div: highest rate over the first.
        div_final: highest rate over the lowest, at the end.
        momentum: at the beginning, at the highest rate, at the end.
        lowest_at_last_step: the last step has the lowest rate, as torch counts; False: the step after it would, as
            fastai counts.

    Raises:
        InputError: pct_start outside [0, 1], div or div_final below 1.
    """

    pct_start: float = 0.25
    div: float = 25.0
    div_final: float = 1e5
    momentum: tuple[float, float, float] = (0.95, 0.85, 0.95)
    lowest_at_last_step: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.pct_start <= 1:
            raise InputError(f"OneCycle: pct_start must be in [0, 1], got {self.pct_start}")
        if self.div < 1 or self.div_final < 1:
            raise InputError(f"OneCycle: div and div_final must be at least 1, got {self.div} and {self.div_final}")


FASTAI_CYCLE = OneCycle()
TORCH_CYCLE = OneCycle(pct_start=0.3, div_final=25 * 1e4, lowest_at_last_step=True)


def one_cycle(step: int, total_steps: int, lr_max: float = 0.01, cycle: OneCycle = FASTAI_CYCLE) -> float:
    """The rate of a one-cycle policy: up along half a cosine, then further down along another.

    With ``TORCH_CYCLE`` equal to ``torch.optim.lr_scheduler.OneCycleLR`` wherever a step or more rises there. A run too
    short for that begins with ``lr_max``.

    Raises:
        InputError: an argument outside its range.

    Source: Smith and Topin, arXiv 1708.07120; fastai's ``fit_one_cycle``.
    """
    return lr_max * _of_cycle("one_cycle", step, total_steps, cycle, (1 / cycle.div, 1.0, 1 / cycle.div_final))


def one_cycle_momentum(step: int, total_steps: int, cycle: OneCycle = FASTAI_CYCLE) -> float:
    """The momentum (Adam: the first beta) that goes with ``one_cycle``: low where the rate is high."""
    return _of_cycle("one_cycle_momentum", step, total_steps, cycle, cycle.momentum)


def _of_cycle(function: str, step: int, total_steps: int, cycle: OneCycle, values: tuple[float, float, float]) -> float:
    _check(function, step, total_steps)
    last = 1 if cycle.lowest_at_last_step else 0
    peak, end = max(0.0, total_steps * cycle.pct_start - last), total_steps - last
    if step < peak:
        return _along_cosine(values[0], values[1], step / peak)
    return _along_cosine(values[1], values[2], min(1.0, (step - peak) / (end - peak)) if end > peak else 0.0)


def _check(function: str, step: int, total_steps: int, **shares: float) -> None:
    if total_steps < 1:
        raise InputError(f"{function}: total_steps must be at least 1, got {total_steps}")
    if step < 0:
        raise InputError(f"{function}: step must not be negative, got {step}")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"{function}: {name} must be in [0, 1], got {share}")


def _risen(step: int, cut: int) -> float:
    """How far a warm-up of ``cut`` steps has come: above 0 at the first step, 1 at step ``cut``."""
    return (step + 1) / (cut + 1)


def _fallen(step: int, cut: int, total_steps: int) -> float:
    """How far the fall from step ``cut`` to the end has come, 0 to 1."""
    return min(1.0, (step - cut) / max(1, total_steps - cut))


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Schedule:
    """A schedule by its name, as the configurations have it.

    Args:
        name: one of ``SCHEDULES``.
        cut_frac: share of the steps in which the rate rises (slanted-triangular, linear, reverse-annealing,
            inverse-sqrt).
        ratio: highest rate over lowest (slanted-triangular).
        end_frac: rate at the end over the highest (linear, cosine, reverse-annealing).

    Raises:
        InputError: an unknown name, a number outside its range.
    """

    name: str = "slanted-triangular"
    cut_frac: float = 0.1
    ratio: float = 32.0
    end_frac: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise InputError(f"Schedule: name must be one of {', '.join(SCHEDULES)}, got {self.name!r}")
        self.rate(0, 1)

    def rate(self, step: int, total_steps: int) -> float:
        """The rate of a step, as a share of the highest."""
        return _RATES[self.name](self, step, total_steps)

    def momentum(self, step: int, total_steps: int) -> float | None:
        """The momentum of a step; None where the schedule leaves it as it is."""
        cycle = _CYCLES.get(self.name)
        return None if cycle is None else one_cycle_momentum(step, total_steps, cycle)


_CYCLES = {"one-cycle": FASTAI_CYCLE, "one-cycle-torch": TORCH_CYCLE}
_RATES: dict[str, Callable[[Schedule, int, int], float]] = {
    "slanted-triangular": lambda s, step, total: slanted_triangular(step, total, 1.0, s.cut_frac, s.ratio),
    "linear": lambda s, step, total: linear_decay(step, total, 1.0, s.cut_frac, s.end_frac),
    "cosine": lambda s, step, total: cosine_annealing(step, total, 1.0, s.end_frac),
    "reverse-annealing": lambda s, step, total: reverse_annealing(step, total, 1.0, s.cut_frac, s.end_frac),
    "one-cycle": lambda s, step, total: one_cycle(step, total, 1.0, FASTAI_CYCLE),
    "one-cycle-torch": lambda s, step, total: one_cycle(step, total, 1.0, TORCH_CYCLE),
    "inverse-sqrt": lambda s, step, total: inverse_square_root(step, total, 1.0, s.cut_frac),
    "constant": lambda s, step, total: 1.0,
}
SCHEDULES = tuple(_RATES)
# A schedule's numbers, each a field of the configurations, too; and which of them each schedule uses.
NUMBERS = tuple(f.name for f in fields(Schedule) if f.name != "name")
USES = {
    "slanted-triangular": ("cut_frac", "ratio"), "linear": ("cut_frac", "end_frac"), "cosine": ("end_frac",),
    "reverse-annealing": ("cut_frac", "end_frac"), "one-cycle": (), "one-cycle-torch": (),
    "inverse-sqrt": ("cut_frac",), "constant": (),
}  # fmt: skip


class ScheduledLR(LambdaLR):
    """A ``Schedule`` for an optimizer: each parameter group's own rate is its highest. Step it every batch.

    Where the schedule has a momentum, that of every group follows it: Adam's first beta, SGD's momentum. Other
    optimizers keep what they have.

    Args:
        optimizer: its groups' rates are the maxima.
        total_steps: of the whole run.
        schedule: which.
        last_epoch: as torch's schedulers have it.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, schedule: Schedule | None = None, last_epoch: int = -1
    ) -> None:
        own = Schedule() if schedule is None else schedule
        own.rate(0, total_steps)  # a wrong argument fails here, not in a step
        self.schedule, self.total_steps = own, total_steps
        super().__init__(optimizer, lambda step: own.rate(step, total_steps), last_epoch)

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        momentum = self.schedule.momentum(self.last_epoch, self.total_steps)
        if momentum is not None:
            set_momentum(self.optimizer, momentum)

    def state_dict(self) -> dict[str, Any]:
        """Numbers alone: the schedule itself is an argument, not a state."""
        return {name: value for name, value in super().state_dict().items() if name not in ("schedule", "total_steps")}


class SlantedTriangularLR(ScheduledLR):
    """``slanted_triangular`` for an optimizer: each parameter group's own rate is its ``lr_max``. Step it every batch.

    Args:
        optimizer: its groups' rates are the maxima.
        total_steps, cut_frac, ratio: as in ``slanted_triangular``.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, cut_frac: float = 0.1, ratio: float = 32.0, last_epoch: int = -1
    ) -> None:
        super().__init__(optimizer, total_steps, Schedule("slanted-triangular", cut_frac, ratio), last_epoch)


def momentum_of(group: dict[str, Any]) -> float | None:
    """A parameter group's momentum: Adam's first beta, SGD's momentum; None where its optimizer has neither."""
    if "betas" in group:
        return float(group["betas"][0])
    return float(group["momentum"]) if "momentum" in group else None


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Set the momentum of all parameter groups that have one."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        elif "momentum" in group:
            group["momentum"] = momentum
