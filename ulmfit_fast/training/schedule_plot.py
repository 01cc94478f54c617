"""Draws what a strategy does: each layer group's learning rate, and the momentum, over the steps. For any model."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.training.schedules import momentum_of
from ulmfit_fast.training.strategy import Strategy
from ulmfit_fast.training.unfreezing import StepwiseUnfreezing

Prepare = Callable[[nn.Module, int], Strategy]  # of a model and the number of all steps


class RateCurves(NamedTuple):
    """What every step has.

    Attributes:
        rates: a list a layer group, first to last; 0 in steps where the group is frozen.
        momentum: of the optimizer; empty where the schedule leaves it alone.
    """

    rates: list[list[float]]
    momentum: list[float]


def rate_curves(prepare: Prepare, epochs: int, steps_per_epoch: int, layers: int) -> RateCurves:
    """Rates and momentum of a run, found by running optimizer, scheduler and unfreezing on a stand-in model.

    Args:
        prepare: such as ``ULMFiTStrategy().prepare``.
        epochs, steps_per_epoch: of the run, at least 1.
        layers: of the model.

    Raises:
        InputError: a number below 1.
    """
    for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch), ("layers", layers)):
        if value < 1:
            raise InputError(f"rate_curves: {name} must be at least 1, got {value}")
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(layers)))
    optimizer, scheduler, unfreezing = prepare(model, epochs * steps_per_epoch)
    rates: list[list[float]] = [[] for _ in range(layers)]
    momentum: list[float] = []
    for step in range(epochs * steps_per_epoch):
        if isinstance(unfreezing, StepwiseUnfreezing):
            unfreezing.start_step(step)
        elif step % steps_per_epoch == 0:
            unfreezing.start_epoch(step // steps_per_epoch)
        for own, group in zip(rates, optimizer.param_groups, strict=True):
            own.append(float(group["lr"]) if group["params"][0].requires_grad else 0.0)
        found = momentum_of(optimizer.param_groups[-1])
        if found is not None and scheduler.schedule.momentum(step, scheduler.total_steps) is not None:
            momentum.append(found)
        optimizer.step()  # without gradients: nothing moves
        scheduler.step()
    return RateCurves(rates, momentum)


def plot_schedule(prepare: Prepare, epochs: int, steps_per_epoch: int, layers: int | Sequence[str]) -> bytes:
    """Rates and momentum of a run as a PNG image: a line a layer group, with gaps where it is frozen.

    Args:
        prepare: such as ``ULMFiTStrategy().prepare``; for a stage's configuration ``partial(prepare_config, config)``.
        epochs, steps_per_epoch: of the run.
        layers: their number or their names, first to last.

    Raises:
        InputError: a number below 1.
        ImportError: matplotlib is not installed.
    """
    names = [f"layer {i}" for i in range(1, layers + 1)] if isinstance(layers, int) else list(layers)
    return draw_curves(rate_curves(prepare, epochs, steps_per_epoch, len(names)), names, steps_per_epoch)


def draw_curves(curves: RateCurves, names: Sequence[str], steps_per_epoch: int) -> bytes:
    """``plot_schedule`` from curves that are known."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot_schedule: pip install matplotlib") from error
    figure = Figure(figsize=(7, 6 if curves.momentum else 4), layout="constrained")
    plots = figure.subplots(2 if curves.momentum else 1, 1, sharex=True, squeeze=False)[:, 0]
    steps = range(len(curves.rates[0]))
    # Later lines are thinner: of two with the same rates both are seen.
    for depth, (name, own) in enumerate(reversed(list(zip(names, curves.rates, strict=True)))):
        shown = [rate if rate > 0 else math.nan for rate in own]
        dot = {"marker": "o"} if len(own) == 1 else {}
        plots[0].plot(steps, shown, label=name, color=f"C{depth % 10}", linewidth=1 + len(names) - depth, **dot)
    plots[0].set_yscale("log")
    plots[0].set_ylabel("learning rate")
    plots[0].legend(fontsize="small")
    if curves.momentum:
        plots[1].plot(steps, curves.momentum, color="k")
        plots[1].set_ylabel("momentum")
    for plot in plots:
        for start in steps[steps_per_epoch::steps_per_epoch]:
            plot.axvline(start, color="0.85", linewidth=0.8, zorder=0)
    plots[-1].set_xlabel(f"step (lines: epochs of {steps_per_epoch:,} steps)")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
