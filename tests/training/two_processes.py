"""Trainings for test_distributed.py, and the program that runs some of them in one of several processes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import TrainingInterrupted, finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.core.distributed import current, joined
from ulmfit_fast.core.interrupt import terminated_as_interrupted
from ulmfit_fast.nn.dropout import Dropout
from ulmfit_fast.nn.sync_batch_norm import SynchronizedBatchNorm1d
from ulmfit_fast.storage.run_file import checksum
from ulmfit_fast.training import shared_documents
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.loop import EpochProgress, Loop
from ulmfit_fast.training.trainer import Trainer

TEXTS, LABELS = make_task(101)
VALID_TEXTS, VALID_LABELS = make_task(21, seed=5)
WITHOUT_DROPOUT = 0.0
LANGUAGE_MODEL = replace(PRETRAIN, epochs=3, batch_size=5, drop_mult=WITHOUT_DROPOUT, checkpoint_minutes=1e-9)
CLASSIFIER = replace(CLASSIFY, epochs=9, batch_size=9, drop_mult=WITHOUT_DROPOUT, lr=5e-4, checkpoint_minutes=1e-9)


class Steps(Callback):
    """The loss so far at every step, and an end after some of them.

    Args:
        stop_after: steps of the second epoch after which the run is interrupted, as by a signal.
    """

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after = stop_after
        self.sums: list[tuple[int, float]] = []  # tokens and loss of the epoch so far

    def on_start(self, trainer: Trainer) -> None:
        for module in trainer.model.modules():
            if isinstance(module, Dropout) and trainer.config.drop_mult == WITHOUT_DROPOUT:
                module.p = 0.0  # a head's inner one has no option

    def on_step(self, trainer: Trainer, done: EpochProgress) -> None:
        self.sums.append((done.tokens, done.loss))
        if trainer.epoch == 1 and done.batches == self.stop_after:
            if trainer.processes.size == 1:
                raise KeyboardInterrupt
            if trainer.processes.rank == 1:  # the others are not told but by this one
                os.kill(os.getpid(), 15)


def language_model(steps: Steps, **options: Any) -> Any:
    return pretrain_lm(TEXTS, LANGUAGE_MODEL, valid_texts=VALID_TEXTS, callbacks=[steps], **options)


def accumulated(steps: Steps) -> Any:
    config = replace(LANGUAGE_MODEL, accumulate=3, optimizer="sgd", lr=2.0, ema_decay=0.5)
    return pretrain_lm(TEXTS, config, valid_texts=VALID_TEXTS, callbacks=[steps])


def tuned(steps: Steps) -> Any:
    base = pretrain_lm(TEXTS, replace(LANGUAGE_MODEL, epochs=1))
    config = replace(FINETUNE, epochs=3, batch_size=5, drop_mult=WITHOUT_DROPOUT, unfreezing="gradual", l2_sp=0.01)
    return finetune_lm(TEXTS, base, config, valid_texts=VALID_TEXTS, callbacks=[steps])


def classifier(steps: Steps, **options: Any) -> Any:
    """Layer groups unfreeze one an epoch, long documents are recomputed, classes count differently."""
    config = replace(CLASSIFIER, unfreezing="gradual", class_weight="balanced", backprop="exact", memory="recompute")
    return finetune_classifier(
        TEXTS, LABELS, None, config, valid_texts=VALID_TEXTS, valid_labels=VALID_LABELS, callbacks=[steps], **options
    )


def over_language_model(steps: Steps) -> Any:
    """As ``classifier``, but the encoder has learnt something: its features differ from text to text."""
    base = pretrain_lm(TEXTS, replace(LANGUAGE_MODEL, epochs=10))
    config = replace(CLASSIFIER, unfreezing="gradual", class_weight="balanced", backprop="exact", seed=2)
    return finetune_classifier(TEXTS, LABELS, base, config, callbacks=[steps])


def several_labels(steps: Steps) -> Any:
    labels = [[label, "odd"] if i % 3 else [label] for i, label in enumerate(LABELS)]
    config = replace(CLASSIFIER, epochs=2, unfreezing="chain-thaw", accumulate=2, encoder="qrnn")
    return finetune_classifier(TEXTS, labels, None, config, callbacks=[steps])


def attention(steps: Steps) -> Any:
    """Its weights train alone at first, over frozen layers."""
    config = replace(CLASSIFIER, epochs=2, unfreezing="gradual", pooling="attention", attention_heads=2)
    return finetune_classifier(TEXTS, LABELS, None, config, callbacks=[steps])


def one_does_nothing(steps: Steps) -> Any:
    """As where a batch has fewer documents than there are processes."""
    real = shared_documents.share_of_sizes
    shared_documents.share_of_sizes = lambda sizes, parts: [list(range(len(sizes))), *[[]] * (parts - 1)]
    try:
        return finetune_classifier(TEXTS, LABELS, None, replace(CLASSIFIER, epochs=1), callbacks=[steps])
    finally:
        shared_documents.share_of_sizes = real


def with_dropout(steps: Steps, **options: Any) -> Any:
    config = replace(CLASSIFIER, epochs=2, drop_mult=1.0, variable_bptt=True)
    return finetune_classifier(TEXTS, LABELS, None, config, callbacks=[steps], **options)


TRAININGS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        language_model, accumulated, tuned, classifier, over_language_model, several_labels, attention,
        one_does_nothing, with_dropout,
    )
}  # fmt: skip


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Within the block models train in float64, which no option of the package asks for."""
    new_loop = Trainer.new_loop

    def doubled(trainer: Trainer) -> Loop:
        trainer.model.double()
        return new_loop(trainer)

    Trainer.new_loop = doubled  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.new_loop = new_loop  # type: ignore[method-assign]


def run(name: str, stop_after: int = 0, double: bool = False, **options: Any) -> dict[str, Any]:
    """What a training saw, and what came of it."""
    steps = Steps(stop_after)
    try:
        with in_float64() if double else contextlib.nullcontext():
            trained = TRAININGS[name](steps, **options)
    except TrainingInterrupted as error:
        return {"sums": steps.sums, "interrupted": str(error)}
    records = [{k: v for k, v in r.items() if isinstance(v, float) and k[:2] != "to"} for r in trained.history.records]
    return {"sums": steps.sums, "records": records, "weights": checksum(trained.model.state_dict())}


def losses(sums: list[Any]) -> list[float]:
    """Of each step, from sums that begin with a first epoch."""
    found, before = [], (0, 0.0)
    for tokens, loss in sums:
        tokens_before, loss_before = before if tokens > before[0] else (0, 0.0)
        found.append((loss - loss_before) / (tokens - tokens_before))
        before = (tokens, loss)
    return found


def batch_norm() -> dict[str, Any]:
    """Outputs, gradients and statistics of rows that the processes have unequal parts of."""
    processes = current()
    torch.manual_seed(3)
    x, dy = 5 + 2 * torch.randn(9, 4), torch.randn(9, 4)
    own = [slice(0, 7), slice(7, 9)][processes.rank] if processes.size > 1 else slice(0, 9)
    layer = SynchronizedBatchNorm1d(4)
    input = x[own].clone().requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 5.0))
    output = layer(input)
    output.backward(dy[own])
    found = (output, input.grad, layer.running_mean, layer.running_var, layer.weight.grad, layer.bias.grad)
    return {"batch_norm": [tensor.tolist() for tensor in found if tensor is not None]}


def start(tasks: list[dict[str, Any]], folder: Path, size: int = 2) -> list[list[dict[str, Any]]]:
    """Runs tasks (arguments of ``run``, or the name of a function here) in processes; what each of them found."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost",
        "MASTER_PORT": port, "WORLD_SIZE": str(size),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.training.two_processes", json.dumps(tasks), str(folder)]
    started = [subprocess.Popen(command, env=shared | {"RANK": str(rank)}) for rank in range(size)]
    assert [process.wait(600) for process in started] == [0] * size
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(size)]


def main() -> None:
    tasks, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    found = []
    with terminated_as_interrupted(), joined() as processes:
        for task in tasks:
            found.append(globals()[task["call"]]() if "call" in task else run(**task))
        (folder / f"found-{processes.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
