"""How a stage trains its model: epochs, validation, checkpoints, history. What it trains on is a subclass's matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ulmfit_fast.core import distributed
from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.interrupt import uninterrupted
from ulmfit_fast.core.random import Generators, drawing_from
from ulmfit_fast.nn.sync_batch_norm import synchronized
from ulmfit_fast.training.callbacks import Callback, EarlyStopping, HistoryFiles
from ulmfit_fast.training.config import FinetuningConfig, TrainingConfig
from ulmfit_fast.training.gradients import Part, SharedGradients
from ulmfit_fast.training.history import History, Record
from ulmfit_fast.training.loop import Best, BestWeights, EpochProgress, Loop, StepLoss
from ulmfit_fast.training.run import Run
from ulmfit_fast.training.schedules import ScheduledLR
from ulmfit_fast.training.tuning import BETAS, param_groups_of, pull_of, schedule_of, unfreezing_of
from ulmfit_fast.training.unfreezing import StepwiseUnfreezing, layer_groups


@dataclass(frozen=True)
class RunOptions:
    """How a stage is run, whatever it trains.

    Args:
        output: model folder for the best model, the history and the checkpoint, or None.
        resume: go on from the checkpoint in ``output``, if there is one.
        progress: show bars on a terminal.
        callbacks: told of steps and epochs, in this order.
    """

    output: Path | None = None
    resume: bool = False
    progress: bool = True
    callbacks: Sequence[Callback] = ()


class Trainer(ABC):
    """Trains one model by one configuration, epoch by epoch.

    Subclasses say what a batch is, what its loss is and how to validate. They set

    - ``random``, which draws the order of the batches. Its state when an epoch begins determines the epoch's batches;
    - ``tokens`` and ``expected_batches``, the numbers of an epoch, of all processes;
    - ``checksum``, of texts, labels and vocabulary;
    - ``validates``, whether there is something to validate on.

    Where several processes train (``core.distributed``), every one draws the same order of the same batches, and
    computes its own part of each. So the number of processes changes neither the batches nor the steps.

    Args:
        name: the stage's name, for records and bars.
        model: to train, in place.
        config: the stage's configuration.
        options: how it is run.
        generators: of the run, which have drawn a new model's weights.
    """

    random: np.random.Generator
    tokens: int
    expected_batches: int
    checksum: int
    validates: bool
    shows_perplexity = False

    def __init__(
        self, name: str, model: nn.Module, config: TrainingConfig, options: RunOptions, generators: Generators
    ) -> None:
        self.name, self.model, self.config, self.options = name, model, config, options
        self.device = choose_device(config.device)
        model.to(self.device)
        self.processes = distributed.current()
        self.generators = generators
        if self.processes.rank:  # weights were drawn alike; masks are not
            generators.begin_again(self.processes.rank)
        tunes = isinstance(config, FinetuningConfig)
        self.unfreezing = unfreezing_of(config, layer_groups(model)) if tunes else None
        self.history = History()
        self.epoch = 0
        self.carried: list[Any] = []  # what goes on from batch to batch, as of the last step
        self.callbacks: list[Callback] = [*options.callbacks]
        writes = options.output is not None and self.processes.is_first
        self._files = [HistoryFiles(options.output)] if writes and options.output is not None else []
        if config.early_stopping:
            self.callbacks.append(self.early_stopping(config.early_stopping))

    def _check_callbacks(self) -> None:
        needing = [callback for callback in self.callbacks if callback.needs_validation()]
        if needing and not self.validates:
            what = "early stopping" if isinstance(needing[0], EarlyStopping) else type(needing[0]).__name__.strip("_")
            raise InputError(
                f"{self.name}: {what} goes by the validation loss, and there are no validation texts; give some"
            )

    @abstractmethod
    def batches(self, skip: int) -> Iterator[Any]:
        """The epoch's batches, or this process's part of each, the first so many left out."""

    @abstractmethod
    def weight(self, batch: Any) -> tuple[float, float]:
        """What a batch's mean loss counts in a step: this process's part of the batch, and the whole."""

    @property
    def expected_steps(self) -> int:
        """Number of steps of an epoch, on average."""
        return -(-self.expected_batches // self.config.accumulate)

    def steps(self, skip: int) -> Iterator[list[Part]]:
        """The epoch's steps, the first so many left out: each so many batches as gradients are accumulated of."""
        batches = self.batches(skip * self.config.accumulate)
        while step := list(islice(batches, self.config.accumulate)):
            weights = [self.weight(batch) for batch in step]
            whole = sum(all_processes for _, all_processes in weights)
            yield [Part(b, own / whole if whole else 0.0) for b, (own, _) in zip(step, weights, strict=True)]

    @property
    def shows_progress(self) -> bool:
        return self.options.progress and self.processes.is_first

    @abstractmethod
    def compute_loss(self, batch: Any) -> StepLoss:
        """The loss of one batch, with its graph."""

    @abstractmethod
    def validate(self, title: str) -> Record:
        """Measures the model: a record with valid_loss, if there is something to validate on."""

    def goal(self, record: Record) -> float | None:
        """What the best epoch has the lowest of; None where nothing was validated."""
        return record.get("valid_loss")

    def early_stopping(self, patience: int) -> EarlyStopping:
        """What ends training after so many epochs without a new best one."""
        return EarlyStopping(patience, self.goal)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes a model folder."""

    def new_best(self) -> Best:
        """What remembers the best weights."""
        return BestWeights(self.model, self.options.output)

    def keep_best(self, best: Any, record: Record) -> None:
        """Saves the model where the epoch of this record is the best so far. ``best`` is what ``new_best`` gave."""
        if best.offer(self.goal(record)) and self.options.output is not None and self.processes.is_first:
            self.save(self.options.output)

    def start_epoch(self, epoch: int) -> Record:
        """Prepares the model, which is in training mode, for an epoch. Returns what to record of it."""
        if self.unfreezing is None or isinstance(self.unfreezing, StepwiseUnfreezing):
            return {}
        return {"trainable_groups": self.unfreezing.start_epoch(epoch)}

    def pretrained_parameters(self) -> Iterable[Tensor]:
        """Those that were trained before: what ``l2_sp`` pulls."""
        return self.model.parameters()

    def carry(self) -> None:
        """Takes over into ``carried`` what the last computed batch leaves behind."""
        self.carried = []

    def blank_carried(self) -> list[Any]:
        """The form of ``carried``."""
        return []

    def new_optimizer(self, groups: list[dict[str, Any]], total_steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimizer of the layer groups, whose rates are set, and its schedule."""
        config = self.config
        optimizer = AdamW(groups, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay, fused=True)
        return optimizer, self.scheduler(optimizer, total_steps)

    def scheduler(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """The schedule, the same for all rates, stepped after every batch."""
        return ScheduledLR(optimizer, total_steps, schedule_of(self.config))

    def new_loop(self) -> Loop:
        """The loop with the optimizer and the schedule that the configuration asks for."""
        config = self.config
        groups = param_groups_of(config, layer_groups(self.model))
        optimizer, scheduler = self.new_optimizer(groups, config.epochs * self.expected_steps)
        loop = Loop(
            self.model, optimizer, scheduler, config.clip, config.precision, self.shows_progress,
            self.shows_perplexity, pull=pull_of(config, self.pretrained_parameters()),
        )  # fmt: skip
        loop.gradients = gradients = SharedGradients(self.model, self.processes)
        loop.reduced = gradients.reduced
        if isinstance(self.unfreezing, StepwiseUnfreezing):
            loop.before_step = self.unfreezing.start_step
        return loop

    def arguments(self) -> dict[str, Any]:
        """The stage's name and configuration; a checkpoint of others is refused."""
        return {"stage": self.name} | asdict(self.config)

    def train(self) -> History:
        """Run all epochs. The model ends with its best weights, in eval mode.

        Raises:
            TrainingInterrupted: Ctrl-C or SIGTERM; a checkpoint is written.
            TrainingDivergedError: the loss became NaN or infinite.
            ProcessLostError: another process has ended.
        """
        self._check_callbacks()
        processes = self.processes
        try:
            with (
                drawing_from(self.generators), synchronized(self.model, processes), processes.noting_signals(),
                processes.naming_losses(),
            ):  # fmt: skip
                return self._train()
        finally:
            if self.unfreezing is not None:
                self.model.requires_grad_(True)

    def _train(self) -> History:
        folder, loop, history = self.options.output, self.new_loop(), self.history
        best = self.new_best()
        run = Run(self.arguments(), asdict(type(self.config)()), self.model, loop, self, best, history, folder)
        first_epoch = 0
        if self.options.resume:
            first_epoch = run.resume()
        else:
            run.start_again()
        self._check_agreement(run)
        for callback in (*self._files, *self.callbacks):
            callback.on_start(self)
        for epoch in range(first_epoch, self.config.epochs):
            if any(callback.wants_to_stop(history) for callback in self.callbacks):
                break
            self._train_epoch(epoch, run, loop, best)
        self.processes.wait_for_all()  # until the first has written the model
        best.restore()
        self.model.zero_grad(set_to_none=True)
        self.model.eval()
        for callback in self.callbacks:
            callback.on_end(self)
        return history

    def gathered(self) -> list[Any]:
        """``carried`` of all processes."""
        return self.carried

    def own_part(self, carried: list[Any]) -> list[Any]:
        """This process's part of what ``gathered`` gave."""
        return carried

    def _check_agreement(self, run: Run) -> None:
        """Raises InputError where processes would train on different things."""
        if not self.processes.agree(self.checksum):
            raise InputError(f"{self.name}: the processes read other texts than each other; give all the same files")
        if not self.processes.agree(*run.position):
            raise InputError(
                f"{self.name}: not all processes see the checkpoint in {self.options.output}; the output folder must "
                "lie where all of them can read it"
            )

    def _train_epoch(self, epoch: int, run: Run, loop: Loop, best: Best) -> None:
        self.epoch, title = epoch, f"{self.name} {epoch + 1}/{self.config.epochs}"
        try:
            self.model.train()
            started = self.start_epoch(epoch)
            done = run.begin(epoch, self._tell_of_step)
            record = loop.train_epoch(title, self.steps(done.batches), self.tokens, self.compute_loss, done)
            if isinstance(self.unfreezing, StepwiseUnfreezing):  # as of the epoch's last step
                record["trainable_groups"] = len(self.unfreezing.positions_at(loop.scheduler.last_epoch - 1))
            with run.averaged():
                record |= started | self.validate(title)
                record = {"stage": self.name, "epoch": epoch + 1, **record}
                self.keep_best(best, record)
            with uninterrupted():
                self.history.records.append(record)
                run.end(epoch, record.get("valid_loss"))
                for files in self._files:
                    files.on_epoch(self, record)
            for callback in self.callbacks:
                callback.on_epoch(self, record)
        except KeyboardInterrupt:
            raise run.interrupted(title) from None

    def _tell_of_step(self, done: EpochProgress) -> None:
        for callback in self.callbacks:
            callback.on_step(self, done)
