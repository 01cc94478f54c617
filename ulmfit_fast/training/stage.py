"""How one stage runs: epochs, validation, checkpoints, history; for language models and for classifiers."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.interrupt import uninterrupted
from ulmfit_fast.inference.prediction import evaluate_classifier, evaluate_language_model
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel, language_model_loss
from ulmfit_fast.storage.model_folder import load_language_model, save_model
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.text.batching import LanguageModelStream, document_batches, group_documents
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import TokenArray
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import warn_of_unknown
from ulmfit_fast.training.config import ClassifierConfig, LanguageModelConfig, TrainingConfig
from ulmfit_fast.training.history import History, Record
from ulmfit_fast.training.loop import BestWeights, Loop, StepLoss, diverged
from ulmfit_fast.training.optim import NTASGD, AveragedWeights
from ulmfit_fast.training.run import Run, Task
from ulmfit_fast.training.schedules import SlantedTriangularLR
from ulmfit_fast.training.unfreezing import (
    ChainThaw,
    GradualUnfreezing,
    discriminative_param_groups,
    layer_groups,
    train_only,
)

_SAMPLE = 4  # training texts that every epoch is checked with

# What ``ClassifierConfig.unfreezing`` does to the layer groups as an epoch starts; returns how many train.
_START_EPOCH: dict[str, Callable[[list[nn.Module], int], int]] = {
    "gradual": lambda groups, epoch: GradualUnfreezing(groups).start_epoch(epoch),
    "chain-thaw": lambda groups, epoch: ChainThaw(groups).start_epoch(epoch),
    "last": lambda groups, _: train_only(groups, [len(groups) - 1]),
    "all": lambda groups, _: train_only(groups, range(len(groups))),
}

EpochCallback = Callable[[Record], None]


@dataclass
class TrainedLanguageModel:
    """What ``pretrain_lm`` and ``finetune_lm`` return."""

    model: LanguageModel
    tokenizer: Tokenizer
    history: History

    @classmethod
    def load(cls, folder: str | Path) -> TrainedLanguageModel:
        return cls(*load_language_model(folder), History())


@dataclass
class TrainedClassifier:
    """What ``finetune_classifier`` returns; ``labels`` in the order of the model's outputs."""

    model: TextClassifier
    tokenizer: Tokenizer
    labels: list[Label]
    history: History


@dataclass
class Stage:
    """One stage's run: epochs, validation, checkpoints, history.

    Args:
        name: for records and bars.
        config: of the stage.
        output: model folder for the best model, the history and the checkpoint, or None.
        progress: show bars on a terminal.
        on_epoch: called with each epoch's record.
        resume: go on from the checkpoint in ``output``, if there is one.
    """

    name: str
    config: TrainingConfig
    output: str | Path | None
    progress: bool
    on_epoch: EpochCallback | None
    resume: bool = False

    def train_language_model(
        self,
        model: LanguageModel,
        corpus: Corpus,
        factor: float,
        alpha: float,
        beta: float,
    ) -> TrainedLanguageModel:
        config, device = self.config, choose_device(self.config.device)
        if corpus.valid is None and isinstance(config, LanguageModelConfig) and config.optimizer == "ntasgd":
            raise InputError(
                "the optimizer ntasgd averages once the validation loss no longer falls, and there are no validation "
                "texts; give some, or at least 20 texts of which some are held out, or choose sgd"
            )
        model.to(device)
        stream = LanguageModelStream(corpus.train, config.batch_size, config.bptt, True, True, config.seed)
        next_state: list[tuple[Tensor, Tensor]] = []

        def compute_loss(batch: tuple[Tensor, Tensor]) -> StepLoss:
            nonlocal next_state
            tokens, targets = (x.to(device, non_blocking=True) for x in batch)
            output = model(tokens, task.carried or None)
            next_state = [(h.detach(), c.detach()) for h, c in output.state]
            cross_entropy, loss = language_model_loss(model, output, targets, alpha, beta)
            return StepLoss(cross_entropy, loss, targets.numel(), len(tokens) / config.bptt)

        def carry() -> None:
            task.carried = next_state

        def validate(_: str) -> Record:
            if corpus.valid is None:
                return {}
            loss = evaluate_language_model(model, corpus.valid, config.bptt, progress=self.progress)
            return {"valid_loss": loss, "perplexity": math.exp(min(loss, 50))}

        task = Task(
            stream.random, stream.epoch, stream.tokens, stream.expected_batches(), corpus.checksum(), compute_loss,
            validate, partial(save_model, model=model, tokenizer=corpus.tokenizer), carry=carry,
        )  # fmt: skip
        return TrainedLanguageModel(model, corpus.tokenizer, self._run(model, task, factor))

    def train_classifier(
        self,
        model: TextClassifier,
        tokenizer: Tokenizer,
        classes: list[Label],
        texts: Sequence[str],
        targets: Tensor,
        valid: tuple[Sequence[str], Tensor] | None,
    ) -> TrainedClassifier:
        config, device = self.config, choose_device(self.config.device)
        assert isinstance(config, ClassifierConfig)
        model.to(device)
        ids = list(tokenizer.encode(texts))
        warn_of_unknown("finetune_classifier", tokenizer, ids)
        valid_ids = None if valid is None else list(tokenizer.encode(valid[0]))
        random = np.random.default_rng(config.seed)
        # Each epoch cuts its own batches, of which there may be a few more or less.
        expected_batches = len(
            group_documents([len(document) for document in ids], config.batch_size, config.max_tokens, random)
        )
        corpus = Corpus(tokenizer, TokenArray(ids), None if valid_ids is None else TokenArray(valid_ids))
        checksum = zlib.crc32(
            repr((classes, targets.tolist(), valid and valid[1].tolist())).encode(), corpus.checksum()
        )
        groups = layer_groups(model)
        # Weights can be finite and yet too large to compute with, which the next batch's loss would tell.
        sample = sorted(range(len(ids)), key=lambda i: len(ids[i]))[:_SAMPLE]

        def batches(skip: int) -> Iterator[Any]:
            return islice(document_batches(ids, config.batch_size, config.max_tokens, random), skip, None)

        def compute_loss(batch: tuple[Any, np.ndarray]) -> StepLoss:
            documents, rows = batch
            logits = model(documents.to(device, non_blocking=True)).float()
            loss = F.cross_entropy(logits, targets[torch.from_numpy(rows)].to(device, non_blocking=True))
            return StepLoss(loss, loss, len(documents.data))

        def start_epoch(epoch: int) -> Record:
            return {"trainable_groups": _START_EPOCH[config.unfreezing](groups, epoch)}

        def validate(title: str) -> Record:
            sample_loss, _ = evaluate_classifier(model, [ids[i] for i in sample], targets[sample])
            if not math.isfinite(sample_loss):
                raise diverged(title, f"the loss in eval mode became {sample_loss}", sum(map(len, ids)))
            if valid is None or valid_ids is None:
                return {}
            loss, accuracy = evaluate_classifier(model, valid_ids, valid[1], progress=self.progress)
            return {"valid_loss": loss, "accuracy": accuracy}

        task = Task(
            random, batches, sum(map(len, ids)), expected_batches, checksum, compute_loss, validate,
            partial(save_model, model=model, tokenizer=tokenizer, labels=classes), start_epoch,
        )  # fmt: skip
        try:
            history = self._run(model, task, config.discriminative_factor)
        finally:
            model.bpt3c.on_progress = None
            model.requires_grad_(True)
        return TrainedClassifier(model, tokenizer, classes, history)

    def _run(self, model: Any, task: Task, factor: float) -> History:
        config = self.config
        folder = None if self.output is None else Path(self.output)
        loop = new_loop(model, config, factor, config.epochs * task.expected_batches, self.progress)
        if isinstance(model, TextClassifier):
            model.bpt3c.on_progress = loop.advance
        history, best = History(), BestWeights(model, folder)
        run = Run(self._arguments(), model, loop, task, best, history, folder)
        first_epoch = 0
        if self.resume:
            first_epoch = run.resume()
        else:
            run.start_again()
        if folder is not None and history.records:
            history.write(folder)
        for epoch in range(first_epoch, config.epochs):
            title = f"{self.name} {epoch + 1}/{config.epochs}"
            try:
                started = task.start_epoch(epoch)
                done = run.begin(epoch)
                record = loop.train_epoch(title, task.batches(done.batches), task.tokens, task.compute_loss, done)
                with run.averaged():
                    record |= started | task.validate(title)
                    record = {"stage": self.name, "epoch": epoch + 1, **record}
                    if best.offer(record.get("valid_loss")) and folder is not None:
                        task.save(folder, training_args=self._arguments())
            except KeyboardInterrupt:
                raise run.interrupted(title) from None
            with uninterrupted():
                history.records.append(record)
                run.end(epoch, record.get("valid_loss"))
                if folder is not None:
                    history.write(folder)
            if self.on_epoch is not None:
                self.on_epoch(record)
        best.restore()
        model.zero_grad(set_to_none=True)
        model.eval()
        return history

    def _arguments(self) -> dict[str, Any]:
        return {"stage": self.name} | asdict(self.config)


def new_loop(model: Any, config: TrainingConfig, factor: float, total_steps: int, progress: bool) -> Loop:
    """The loop with the optimizer, schedule and average that the configuration asks for."""
    groups = discriminative_param_groups(layer_groups(model), config.lr, factor)
    language_model = config if isinstance(config, LanguageModelConfig) else None
    optimizer: Optimizer
    scheduler: LRScheduler
    if language_model is not None and language_model.optimizer == "ntasgd":
        optimizer = NTASGD(groups, config.lr, weight_decay=config.weight_decay, patience=language_model.patience)
    elif language_model is not None and language_model.optimizer == "sgd":
        optimizer = SGD(groups, lr=config.lr, weight_decay=config.weight_decay, foreach=True)
    else:
        optimizer = AdamW(groups, lr=config.lr, betas=(0.7, 0.99), weight_decay=config.weight_decay, fused=True)
    if isinstance(optimizer, NTASGD):
        scheduler = LambdaLR(optimizer, lambda _: 1.0)
    else:
        scheduler = SlantedTriangularLR(optimizer, total_steps, config.cut_frac, config.ratio)
    loop = Loop(model, optimizer, scheduler, config.clip, config.precision, progress, language_model is not None)
    if language_model is not None and language_model.ema_decay:
        loop.average = AveragedWeights(model.parameters(), language_model.ema_decay)
    return loop
