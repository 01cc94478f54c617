"""The training loop that the three stages share: optimizer steps, progress, history, the best weights so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ulmfit_fast.core.device import autocast
from ulmfit_fast.core.errors import TrainingDivergedError, shortened
from ulmfit_fast.core.interrupt import uninterrupted
from ulmfit_fast.core.progress import Progress, progress_bar
from ulmfit_fast.storage.tensor_file import read_tensors
from ulmfit_fast.training.history import Record
from ulmfit_fast.training.optim import L2SP, AveragedWeights


@dataclass
class EpochProgress:
    """How far an epoch is: what a run that goes on in the middle of it needs to know."""

    batches: int = 0  # steps; one may be of several batches
    tokens: int = 0
    loss: float = 0.0  # summed over tokens
    seconds: float = 0.0
    window_tokens: int = 0  # since the last point of the history
    window_loss: float = 0.0
    parts: dict[str, list[float]] = field(default_factory=dict)  # tokens and summed loss of each part, where there are


class StepLoss(NamedTuple):
    """What a batch's computation, or that of a step's batches, gives the loop."""

    report: Tensor  # loss to show
    minimise: Tensor  # loss to descend
    tokens: int  # of all processes
    rate: float = 1.0  # of the scheduled learning rate, for this step
    part: str | None = None  # of the training, where its losses are counted apart


ComputeLoss = Callable[[Any], StepLoss]  # from a batch


def gradients_of_batch(compute_loss: ComputeLoss, batch: Any) -> StepLoss:
    """One batch's loss; its gradients are added to the parameters'."""
    loss = compute_loss(batch)
    loss.minimise.backward()
    return loss


class _Unread:
    """Figures of a step that are still on their way from the device.

    Args:
        title: of the epoch, for messages.
        done: how far the epoch is.
        measured: float64 [3]: the loss to report, the loss to descend, the gradient's norm.
        tokens, part: of the step.
    """

    def __init__(self, title: str, done: EpochProgress, measured: Tensor, tokens: int, part: str | None) -> None:
        self.title, self.done, self.tokens, self.part = title, done, tokens, part
        self._values, self._arrived = measured, None
        if measured.is_cuda:
            self._values = torch.empty(measured.shape, dtype=measured.dtype, pin_memory=True)
            self._values.copy_(measured, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> list[float]:
        """The figures. Waits until they have arrived, but not for work that was queued later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()


@dataclass
class Loop:
    """What an epoch of training needs besides the batches.

    Args:
        model: being trained.
        optimizer, scheduler: the scheduler steps every batch.
        clip: largest gradient norm.
        precision: "float32", or "bfloat16" for autocast.
        progress: show a bar, if standard error is a terminal.
        perplexity: show the loss's exponential, too.
        average: of the weights, updated every step.
        pull: of the weights towards where they started, added to every step's gradients.
        before_step: called before every step with its number, counted from 0 over all epochs.
        on_step: called after every step, when all state is that of whole steps.
        gradients: computes a step's loss and gradients from what ``batches`` has for it (``training.gradients``).
        reduced: makes of a step's figures in this process those of all processes.
        late: read a step's loss after the next step has been queued, so that it is not waited for; None: where
            the model is on a GPU. A step is then taken before it is known that its loss is finite.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    clip: float
    precision: str = "float32"
    progress: bool = True
    perplexity: bool = False
    average: AveragedWeights | None = None
    pull: L2SP | None = None
    before_step: Callable[[int], object] | None = None
    on_step: Callable[[EpochProgress], None] | None = None
    gradients: Callable[[ComputeLoss, Any], StepLoss] = gradients_of_batch
    reduced: Callable[[Tensor], Tensor] = lambda figures: figures
    late: bool | None = None
    _unread: _Unread | None = field(default=None, init=False)
    _bar: Progress | None = field(default=None, init=False)
    _advanced: float = field(default=0.0, init=False)

    def advance(self, tokens: float) -> None:
        """Move the bar within a batch: some more of its tokens are done."""
        self._advanced += tokens
        if self._bar is not None:
            self._bar.update(tokens)

    def train_epoch(
        self,
        title: str,
        batches: Iterable[Any],
        tokens: int,
        compute_loss: ComputeLoss,
        done: EpochProgress | None = None,
    ) -> Record:
        """Train on every batch once, in the modes that the model's modules have.

        Args:
            title: before the progress bar.
            batches: those that are left, one a step, of any kind that ``gradients`` takes.
            tokens: in all of them, for the bar.
            compute_loss: from a batch.
            done: what of this epoch was done before; it is counted on.

        Returns:
            Record with loss (mean a token-weighted batch), lr (at the end), seconds and tokens_per_s; losses of parts
            by their names, where there are parts.

        Raises:
            TrainingDivergedError: the loss, a gradient or a weight became NaN or infinite.
        """
        self._advanced, self._unread = 0.0, None
        done = EpochProgress() if done is None else done
        late = next(self.model.parameters()).is_cuda if self.late is None else self.late

        def compute(batch: Any) -> StepLoss:
            with autocast(self.model, self.precision):
                return compute_loss(batch)

        clock = time.perf_counter()
        with progress_bar(title, tokens, "tok", self.progress, done.tokens) as bar:
            self._bar = bar
            for batch in batches:
                if self.before_step is not None:
                    self.before_step(self.scheduler.last_epoch)
                self.optimizer.zero_grad(set_to_none=True)
                step = self.gradients(compute, batch)
                if self.pull is not None:
                    self.pull.add_gradients()
                trained = [p for p in self.model.parameters() if p.grad is not None]
                norm = nn.utils.clip_grad_norm_(trained, self.clip)
                losses = [x.detach().double().to(step.minimise.device) for x in (step.report, step.minimise)]
                measured = torch.cat([self.reduced(torch.stack(losses)), norm.double().reshape(1).to(losses[0].device)])
                now = time.perf_counter()
                with uninterrupted():
                    self.read_losses()
                    self._unread = _Unread(title, done, measured, step.tokens, step.part)
                    if not late:
                        self.read_losses()
                    self._update(step.rate)
                    done.batches, done.tokens = done.batches + 1, done.tokens + step.tokens
                    done.seconds, clock = done.seconds + now - clock, now
                    if self.on_step is not None:
                        self.on_step(done)
                bar.figures["step"] = f"{done.batches:,}"
                self.advance(step.tokens - self._advanced)
                self._advanced = 0.0
            with uninterrupted():
                self.read_losses()
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise diverged(title, "a weight became NaN or infinite", done.tokens)
        done.seconds += time.perf_counter() - clock
        return {
            "loss": done.loss / max(1, done.tokens),
            "lr": self.scheduler.get_last_lr()[-1],
            "seconds": done.seconds,
            "tokens_per_s": done.tokens / done.seconds,
            **({"losses": {name: loss / tokens for name, (tokens, loss) in done.parts.items()}} if done.parts else {}),
        }

    def read_losses(self) -> None:
        """Count the loss of the last step, if that has not been done.

        Raises:
            TrainingDivergedError: it or the gradient's norm is NaN or infinite.
        """
        if self._unread is None:
            return
        done, tokens, part = self._unread.done, self._unread.tokens, self._unread.part
        loss, minimised, norm = self._unread.wait()
        for what, value in (("loss", minimised), ("gradient's norm", norm)):
            if not math.isfinite(value):
                raise diverged(self._unread.title, f"the {what} became {value}", done.tokens)
        self._unread = None
        done.loss += loss * tokens
        if part is not None:
            before = done.parts.get(part, [0, 0.0])
            done.parts[part] = [before[0] + tokens, before[1] + loss * tokens]
        done.window_tokens, done.window_loss = done.window_tokens + tokens, done.window_loss + loss * tokens
        if self._bar is not None:
            shown = {"perplexity": f"{math.exp(min(loss, 50)):.1f}"} if self.perplexity else {}
            self._bar.figures |= {"loss": f"{loss:.3f}", **shown}

    def _update(self, rate: float) -> None:
        scheduled = [group["lr"] for group in self.optimizer.param_groups]
        for group, lr in zip(self.optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr * rate
        self.optimizer.step()
        for group, lr in zip(self.optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr
        self.scheduler.step()
        if self.average is not None:
            self.average.update()


def diverged(title: str, what: str, tokens: int) -> TrainingDivergedError:
    """The error to stop training with."""
    return TrainingDivergedError(
        f"{title}: {what} after {tokens} tokens of the epoch; training stopped, the last good checkpoint is kept; try "
        "a lower lr"
    )


def best_record(records: Sequence[Record], goal: Callable[[Record], float | None]) -> Record | None:
    """The first record with the lowest ``goal``, which is that of ``BestWeights``; None where none has one."""
    measured = [(value, place) for place, value in enumerate(map(goal, records)) if value is not None]
    return records[min(measured)[1]] if measured else None


class Best(Protocol):
    """What a run knows of the best weights so far."""

    def state(self) -> Any:
        """For ``set_state``, as JSON can hold it."""

    def set_state(self, state: Any) -> None: ...

    def missing(self) -> Path | None:
        """A file with best weights that should be there and is not."""

    def restore(self) -> None:
        """End with them."""


class BestWeights:
    """Remembers the weights with the lowest loss, to end with: in the model folder they were saved to, or in memory.

    Args:
        model: whose weights.
        folder: where every best model is saved by the caller; None: a copy is kept here.
    """

    def __init__(self, model: nn.Module, folder: Path | None) -> None:
        self.model = model
        self.folder = folder
        self.loss = math.inf
        self._weights: dict[str, Tensor] | None = None

    def offer(self, loss: float | None) -> bool:
        """Whether this loss is the best so far; None (nothing to compare by) always is."""
        if loss is not None and not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the validation loss became {loss}; training stopped, the last good checkpoint is kept; try a lower lr"
            )
        if loss is not None and loss >= self.loss:
            return False
        self.loss = math.inf if loss is None else loss
        if self.folder is None:
            self._weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return True

    def state(self) -> float:
        return self.loss

    def set_state(self, state: float) -> None:
        if type(state) not in (int, float):
            raise ValueError(f"best is {shortened(repr(state), 40)}")
        self.loss = state

    def missing(self) -> Path | None:
        path = None if self.folder is None else self.folder / "model.safetensors"
        return None if path is None or path.exists() else path

    def restore(self) -> None:
        weights = self._weights
        if self.folder is not None:
            weights, _ = read_tensors(self.folder / "model.safetensors")
        if weights is not None:
            self.model.load_state_dict(weights)
