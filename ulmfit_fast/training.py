"""The training loop that the three stages share: optimizer steps, progress, history, the best weights so far."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from ulmfit_fast.atomic_write import write_atomically
from ulmfit_fast.errors import TrainingDivergedError

Record = dict[str, Any]  # stage, epoch, loss, tokens_per_s, ...
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class History:
    """One record an epoch, of one or several stages; as a JSON-lines file and as curves."""

    records: list[Record] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write ``history.jsonl`` and ``curves.png``."""
        write_atomically(folder / "history.jsonl", "".join(json.dumps(record) + "\n" for record in self.records))
        write_atomically(folder / "curves.png", plot_curves(self.records))


def plot_curves(records: list[Record]) -> bytes:
    """Loss and score over the epochs as a PNG image."""
    import io

    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(records) + 1)
    for key, label in (("loss", "training loss"), ("valid_loss", "validation loss")):
        if any(key in record for record in records):
            axes.plot(epochs, [record.get(key, math.nan) for record in records], marker="o", label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes.get_legend_handles_labels()
    if any("accuracy" in record for record in records):
        score = axes.twinx()
        score.plot(epochs, [record.get("accuracy", math.nan) for record in records], "k--", label="validation accuracy")
        score.set_ylim(0, 1)
        score.set_ylabel("accuracy")
        more_handles, more_labels = score.get_legend_handles_labels()
        handles, labels = handles + more_handles, labels + more_labels
    axes.legend(handles, labels, loc="center right")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


@dataclass
class Loop:
    """What an epoch of training needs besides the batches.

    Args:
        model: being trained.
        optimizer, scheduler: the scheduler steps every batch.
        clip: largest gradient norm.
        precision: "float32", or "bfloat16" for autocast.
        progress: show a bar, if standard error is a terminal.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    clip: float
    precision: str = "float32"
    progress: bool = True
    _bar: tqdm | None = field(default=None, init=False)
    _advanced: float = field(default=0.0, init=False)

    def advance(self, tokens: float) -> None:
        """Move the bar within a batch: some more of its tokens are done."""
        self._advanced += tokens
        if self._bar is not None:
            self._bar.update(tokens)

    def train_epoch(
        self, title: str, batches: Iterable[Any], tokens: int, compute_loss: Callable[[Any], tuple[Tensor, Tensor, int]]
    ) -> Record:
        """Train on every batch once.

        Args:
            title: before the progress bar.
            batches: of any kind.
            tokens: in all of them, for the bar.
            compute_loss: a batch to (loss to report, loss to minimise, tokens of the batch).

        Returns:
            Record with loss (mean a token-weighted batch), lr (at the end), seconds and tokens_per_s.

        Raises:
            TrainingDivergedError: the loss, a gradient or a weight became NaN or infinite.
        """
        self.model.train()
        self._advanced = 0.0
        start = time.perf_counter()
        total_loss, seen = 0.0, 0
        with progress_bar(title, tokens, "tok", self.progress) as bar:
            self._bar = bar
            for batch in batches:
                self.optimizer.zero_grad(set_to_none=True)
                with autocast(self.model, self.precision):
                    reported, loss, count = compute_loss(batch)
                value = float(reported.detach())
                if not math.isfinite(float(loss.detach())):
                    raise diverged(title, f"the loss became {float(loss.detach())}", seen)
                loss.backward()
                trained = [p for p in self.model.parameters() if p.grad is not None]
                norm = float(nn.utils.clip_grad_norm_(trained, self.clip))
                if not math.isfinite(norm):
                    raise diverged(title, f"the gradient's norm became {norm}", seen)
                self.optimizer.step()
                self.scheduler.step()
                total_loss += value * count
                seen += count
                self.advance(count - self._advanced)
                self._advanced = 0.0
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise diverged(title, "a weight became NaN or infinite", seen)
        seconds = time.perf_counter() - start
        return {
            "loss": total_loss / max(1, seen),
            "lr": self.scheduler.get_last_lr()[-1],
            "seconds": seconds,
            "tokens_per_s": seen / seconds,
        }


def diverged(title: str, what: str, tokens: int) -> TrainingDivergedError:
    """The error to stop training with."""
    return TrainingDivergedError(
        f"{title}: {what} after {tokens} tokens of the epoch; training stopped, the last good checkpoint is kept; try "
        "a lower lr"
    )


class BestWeights:
    """Keeps a copy of the weights with the lowest loss, to end with."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
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
        if loss is not None:
            self.loss = loss
            self._weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return True

    def restore(self) -> None:
        if self._weights is not None:
            self.model.load_state_dict(self._weights)


def progress_bar(title: str, total: int, unit: str, enabled: bool = True) -> tqdm:
    """A bar with rate and time left on standard error; silent where that is not a terminal."""
    return tqdm(
        total=total, desc=title, unit=unit, unit_scale=True, leave=False, disable=None if enabled else True,
        dynamic_ncols=True,
    )  # fmt: skip


def autocast(model: nn.Module, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast for one of ``PRECISIONS``."""
    dtype = PRECISIONS[precision]
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=dtype)
