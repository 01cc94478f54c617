"""A stage's run between its steps: what to average, when to write the checkpoint, and how to go on from it."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ulmfit_fast.core.distributed import Processes
from ulmfit_fast.core.errors import InputError, TrainingInterrupted
from ulmfit_fast.core.interrupt import uninterrupted
from ulmfit_fast.ops import build_info
from ulmfit_fast.storage.run_file import CHECKPOINT, checksum, load_state, save_state
from ulmfit_fast.training.checkpoint_form import check_form, check_heads, check_optimizer, refused_if_odd
from ulmfit_fast.training.history import History
from ulmfit_fast.training.loop import Best, EpochProgress, Loop
from ulmfit_fast.training.optim import NTASGD

if TYPE_CHECKING:
    from ulmfit_fast.training.trainer import Trainer

_POINTS = 200  # of an epoch's loss in the history


@dataclass
class Run:
    """All that changes while a stage runs.

    Args:
        arguments: the stage's name and configuration; a checkpoint of others is refused.
        defaults: the configuration's defaults.
        model, loop, trainer, best, history: what the stage works with; ``resume`` changes them.
        folder: for the checkpoint, or None.
    """

    arguments: dict[str, Any]
    defaults: dict[str, Any]
    model: nn.Module
    loop: Loop
    trainer: Trainer
    best: Best
    history: History
    folder: Path | None
    _epoch: int = field(default=0, init=False)
    _done: EpochProgress = field(default_factory=EpochProgress, init=False)
    _batches_random: dict[str, Any] = field(default_factory=dict, init=False)  # of the task, when the epoch began
    _torch_random: dict[str, Any] = field(default_factory=dict, init=False)  # as of the last step
    _buffers: dict[str, Tensor] = field(default_factory=dict, init=False)  # as of the last step
    _best_before: Any = field(default=None, init=False)  # before the epoch's validation
    _written: float = field(default_factory=time.monotonic, init=False)
    _begun_from: int = field(init=False)  # checksum of the weights before the first step

    def __post_init__(self) -> None:
        self._begun_from = 0 if self.folder is None else checksum(self.model.state_dict())

    @property
    def processes(self) -> Processes:
        return self.trainer.processes

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and steps of it that are done."""
        return self._epoch, self._done.batches

    def start_again(self) -> None:
        """Remove the checkpoint of an earlier run, which a later ``resume`` would take for this one's."""
        if self.folder is not None and self.processes.is_first:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def begin(self, epoch: int, on_step: Callable[[EpochProgress], None]) -> EpochProgress:
        """Start an epoch, or go on in the middle of one; ``on_step`` is called after each step."""
        self._begin_at(epoch)

        def after_step(done: EpochProgress) -> None:
            is_over = self._after_step(done)
            on_step(done)
            if is_over:
                raise KeyboardInterrupt  # ``interrupted`` writes the checkpoint

        self.loop.on_step = after_step
        return self._done

    def end(self, epoch: int, valid_loss: float | None) -> None:
        """Finish an epoch: trigger averaging, write the checkpoint."""
        optimizer = self.loop.optimizer
        if isinstance(optimizer, NTASGD) and valid_loss is not None:
            optimizer.validated(valid_loss)
        self._add_point(self._done)  # of losses read late
        self._done, self.trainer.carried = EpochProgress(), []
        self._begin_at(epoch + 1)
        self._save()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model has the averaged weights, where there are such."""
        optimizer = self.loop.optimizer
        average = optimizer.average if isinstance(optimizer, NTASGD) else self.loop.average
        if average is None:
            yield
            return
        in_place = average.in_place()
        try:
            with uninterrupted():  # a signal that waited comes inside the try: the weights are put back
                in_place.__enter__()
            yield
        finally:
            with uninterrupted():
                in_place.__exit__(None, None, None)

    def interrupted(self, title: str) -> TrainingInterrupted:
        """The error to stop with; the state as of the last whole step is written."""
        if not self._writes or not self._torch_random:  # nothing has begun: what an earlier run wrote still holds
            return TrainingInterrupted(f"{title}: interrupted")
        with uninterrupted():
            self._save()
            self.processes.wait_for_all()  # until the first has written it
        return TrainingInterrupted(
            f"{title}: interrupted after {self._done.tokens} tokens of the epoch; go on with --resume (resume=True), "
            f"from the checkpoint in {self.folder}"
        )

    def resume(self) -> int:
        """Take over the checkpoint's state, if there is one. Returns the epoch to go on with.

        Raises:
            InputError: the checkpoint is damaged, or of a run with other options or another model.
        """
        state = None if self.folder is None else load_state(self.folder)
        if state is None:
            return 0
        with refused_if_odd(self.folder):
            return self._take_over(state)

    def _take_over(self, state: dict[str, Any]) -> int:
        check_heads(state)
        for name, value in self.arguments.items():
            # An option that the checkpoint's version did not have was as it is by default now.
            made_with = state["arguments"].get(name, self.defaults.get(name))
            if name != "checkpoint_minutes" and made_with != value:
                raise InputError(
                    f"{self.folder}: its checkpoint was made with {name}={made_with!r}, not "
                    f"{value!r}; resume with the same options, or start again without --resume"
                )
        if state["data"] != self.trainer.checksum:
            raise InputError(
                f"{self.folder}: its checkpoint was made on other texts, labels or words; resume with the same "
                "files, or start again without --resume"
            )
        if self.folder is not None and state["records"] and (missing := self.best.missing()) is not None:
            raise InputError(
                f"{self.folder}: its checkpoint goes with the best model so far, and "
                f"{missing.relative_to(self.folder)} is missing; bring the whole folder, or start again without "
                "--resume"
            )
        environment = self._environment()
        state["environment"].setdefault("processes", 1)
        # Elsewhere the same beginning may have other bits.
        if environment == state["environment"] and state.get("begun_from", self._begun_from) != self._begun_from:
            raise InputError(
                f"{self.folder}: its checkpoint began from another model; resume with the same one, or start again "
                "without --resume"
            )
        for name, value in environment.items():
            if state["environment"].get(name) != value:
                warnings.warn(
                    f"{self.folder}: its checkpoint was made with {name} {state['environment'].get(name)}, now it is "
                    f"{value}: the run goes on, but not to the same bits",
                    stacklevel=4,
                )
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.folder}: its checkpoint is of another model ({reason})") from None
        check_form(state, self._state([], [self._torch_random]), self.trainer.blank_carried())
        self.loop.optimizer.load_state_dict(state["optimizer"])
        check_optimizer(self.loop.optimizer)
        self.loop.scheduler.load_state_dict(state["scheduler"])
        if self.loop.average is not None:
            self.loop.average.load_state_dict(state["average"])
        self.best.set_state(state["best"])
        self.history.records[:] = state["records"]
        self.history.points[:] = [tuple(point) for point in state["points"]]
        device = self._device
        carried = [tuple(x.to(device) for x in layer) for layer in state["carried"]]
        self.trainer.carried = self.trainer.own_part(carried)
        self.trainer.random.bit_generator.state = state["batches_random"]
        self._epoch, self._done = state["epoch"], EpochProgress(**state["done"])
        drawn = [state["torch_random"], *state.get("torch_random_of_others", ())]
        if len(drawn) == self.processes.size:
            self.trainer.generators.set_state(drawn[self.processes.rank])
        else:  # none of them may repeat what has been drawn
            self.trainer.generators.begin_again(self.processes.rank, *self.position, self.processes.size)
        return self._epoch

    def _environment(self) -> dict[str, Any]:
        return {
            "torch": torch.__version__, "threads": torch.get_num_threads(), "kernels": build_info()["isa"],
            "device": self._device.type, "processes": self.processes.size,
        }  # fmt: skip

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _writes(self) -> bool:
        return self.folder is not None and bool(self.arguments["checkpoint_minutes"])

    def _begin_at(self, epoch: int) -> None:
        self._epoch, self._best_before = epoch, self.best.state()
        self._batches_random = dict(self.trainer.random.bit_generator.state)
        self._remember_step()

    def _remember_step(self) -> None:
        """What the next step's forward changes: it may be interrupted and is then done again."""
        self._torch_random = self.trainer.generators.state()
        self._buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def _after_step(self, done: EpochProgress) -> bool:
        """Whether a signal has asked one of several processes to stop."""
        self.trainer.carry()
        self._add_point(done)
        self._remember_step()
        minutes = self.arguments["checkpoint_minutes"]
        is_due = bool(minutes) and time.monotonic() - self._written >= 60 * minutes
        is_due, is_over = self.processes.any(is_due, self.processes.interrupted)
        if is_due and not is_over:
            self._save()
        return is_over

    def _add_point(self, done: EpochProgress) -> None:
        """Add a point to the loss curve, if enough losses have come for one."""
        if done.window_tokens and done.window_tokens * _POINTS >= self.trainer.tokens:
            mean = done.window_loss / done.window_tokens
            self.history.points.append((self._epoch + done.tokens / self.trainer.tokens, mean))
            done.window_tokens, done.window_loss = 0, 0.0

    def _save(self) -> None:
        if self.folder is None or not self._writes:
            return
        self.loop.read_losses()  # nothing that has diverged is written
        self._written = time.monotonic()
        carried, drawn = self.trainer.gathered(), self._drawn()
        if not self.processes.is_first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_state(self.folder, self._state(carried, drawn))

    def _state(self, carried: list[Any], drawn: list[dict[str, Tensor]]) -> dict[str, Any]:
        """All that the next step depends on; of all processes what they carry, and their generators' states."""
        average = self.loop.average
        return {
            "arguments": self.arguments, "data": self.trainer.checksum, "environment": self._environment(),
            "begun_from": self._begun_from,
            "model": self.model.state_dict() | self._buffers,
            "optimizer": self.loop.optimizer.state_dict(), "scheduler": self.loop.scheduler.state_dict(),
            "average": None if average is None else average.state_dict(), "best": self._best_before,
            "records": self.history.records, "points": self.history.points, "carried": carried,
            "batches_random": self._batches_random, "torch_random": drawn[0], "torch_random_of_others": drawn[1:],
            "epoch": self._epoch, "done": asdict(self._done),
        }  # fmt: skip

    def _drawn(self) -> list[dict[str, Tensor]]:
        """The generators' states of all processes, as of the last step."""
        kinds = sorted(self._torch_random)
        of_each = [self.processes.gather(self._torch_random[kind]) for kind in kinds]
        return [dict(zip(kinds, states, strict=True)) for states in zip(*of_each, strict=True)]
