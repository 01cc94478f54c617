"""Callbacks: a run tells them of its steps and epochs. Loggers, history files and early stopping are callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.training.history import History, Record
from ulmfit_fast.training.loop import EpochProgress

if TYPE_CHECKING:
    from ulmfit_fast.training.trainer import Trainer

EpochCallback = Callable[[Record], None]


class Callback:
    """Base of all callbacks. Override the methods that you need.

    A resumed run makes its callbacks anew. What a callback needs of earlier epochs it should therefore read from
    ``trainer.history`` and not keep itself.
    """

    def needs_validation(self) -> bool:
        """Whether this callback means nothing without validation texts. Such a run is then refused."""
        return False

    def on_start(self, trainer: Trainer) -> None:
        """Called before the first step. In a resumed run ``trainer.history`` holds the epochs done before."""

    def on_step(self, trainer: Trainer, done: EpochProgress) -> None:
        """Called after each step, so be quick. ``done`` counts the epoch's steps, tokens and summed loss so far."""

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Called after each epoch, when its record is in ``trainer.history`` and the checkpoint is written."""

    def on_end(self, trainer: Trainer) -> None:
        """Called after the last epoch, but not if an error ended the run."""

    def wants_to_stop(self, history: History) -> bool:
        """Whether to begin no further epoch. Asked before each epoch, in a resumed run, too."""
        return False


class EarlyStopping(Callback):
    """Ends training when the validation loss has not improved for some epochs. It needs validation texts.

    Args:
        patience: number of epochs in a row without a new best one, at least 1.
        goal: what the best epoch has the lowest of, from its record; None: the validation loss.
    """

    def __init__(self, patience: int, goal: Callable[[Record], float | None] | None = None) -> None:
        if patience < 1:
            raise InputError(f"EarlyStopping: patience must be at least 1 epoch, got {patience}")
        self.patience = patience
        self.goal = goal or (lambda record: record.get("valid_loss"))

    def needs_validation(self) -> bool:
        return True

    def wants_to_stop(self, history: History) -> bool:
        losses = [value for value in map(self.goal, history.records) if value is not None]
        if not losses:
            return False
        best = min(range(len(losses)), key=losses.__getitem__)
        return len(losses) - 1 - best >= self.patience


class HistoryFiles(Callback):
    """Keeps ``history.jsonl`` and ``curves.png`` of a folder up to date."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_start(self, trainer: Trainer) -> None:
        if trainer.history.records:
            trainer.history.write(self.folder)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        trainer.history.write(self.folder)


class OnEpoch(Callback):
    """Calls a function with each epoch's record."""

    def __init__(self, function: EpochCallback) -> None:
        self.function = function

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        self.function(record)


class SayDuration(Callback):
    """Says on standard error, some steps after a stage has begun, about how long it will take.

    Args:
        steps: to measure. An epoch that trains fewer layers than a later one is faster: the figure is then too low.
    """

    def __init__(self, steps: int = 5) -> None:
        self.steps = steps

    def on_step(self, trainer: Trainer, done: EpochProgress) -> None:
        if trainer.epoch == 0 and done.batches == self.steps:
            rate = done.tokens / done.seconds
            seconds = trainer.config.epochs * trainer.tokens / rate
            say(
                f"{trainer.name}: {trainer.config.epochs} x {trainer.tokens:,} tokens at {rate:,.0f} a second, about "
                f"{_duration(seconds)}",
                error=True,
            )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1.5:
        return f"{max(2, round(seconds))} seconds"
    return f"{round(minutes)} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


class TensorBoard(Callback):
    """Writes losses, rates and scores as TensorBoard's event files (needs the package ``tensorboard``).

    Args:
        folder: for the event files.
        every: steps between two points of the training loss.

    Raises:
        ImportError: the package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: str | Path, every: int = 50) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard: pip install tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder))
        self.every = every
        self._last = (0, 0.0)  # tokens and summed loss at the last point

    def on_step(self, trainer: Trainer, done: EpochProgress) -> None:
        if done.batches == 1:
            self._last = (0, 0.0)
        tokens, loss = done.tokens - self._last[0], done.loss - self._last[1]
        if done.batches % self.every == 0 and tokens > 0 and math.isfinite(loss):
            step = trainer.epoch * trainer.expected_steps + done.batches
            self._writer.add_scalar(f"{trainer.name}/loss", loss / tokens, step)
            self._last = (done.tokens, done.loss)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        for key, value in record.items():
            if isinstance(value, float) and key != "loss":
                self._writer.add_scalar(f"{trainer.name}/{key}", value, record["epoch"])
        self._writer.flush()

    def on_end(self, trainer: Trainer) -> None:
        self._writer.close()
