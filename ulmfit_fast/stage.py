"""How one stage runs: epochs, validation, checkpoints, history; for language models and for classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler

from ulmfit_fast.checkpoint import Label, load_language_model, save_model
from ulmfit_fast.classifier import TextClassifier
from ulmfit_fast.config import ClassifierConfig, TrainingConfig
from ulmfit_fast.errors import TrainingInterrupted
from ulmfit_fast.language_model import LanguageModel, language_model_loss
from ulmfit_fast.prediction import evaluate_classifier, evaluate_language_model
from ulmfit_fast.schedules import SlantedTriangularLR
from ulmfit_fast.text.batching import LanguageModelStream, document_batches, group_documents
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training import BestWeights, History, Loop, Record, diverged
from ulmfit_fast.unfreezing import GradualUnfreezing, discriminative_param_groups, layer_groups

_SAMPLE = 4  # training texts that every epoch is checked with

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
    """One stage's run: epochs, validation, checkpoints, history."""

    name: str
    config: TrainingConfig
    output: str | Path | None
    progress: bool
    on_epoch: EpochCallback | None

    def train_language_model(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        texts: Sequence[str],
        valid_texts: Sequence[str] | None,
        factor: float,
        alpha: float,
        beta: float,
    ) -> TrainedLanguageModel:
        config = self.config
        ids = list(tokenizer.encode(texts))
        stream = LanguageModelStream(ids, config.batch_size, config.bptt, True, True, config.seed)
        valid_ids = None if valid_texts is None else list(tokenizer.encode(valid_texts))
        loop = self._loop(model, factor, stream.expected_batches())

        def run_epoch(title: str, _: int) -> Record:
            state: list[tuple[Tensor, Tensor]] | None = None

            def compute_loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, int]:
                nonlocal state
                tokens, targets = batch
                output = model(tokens, state)
                state = [(h.detach(), c.detach()) for h, c in output.state]
                cross_entropy, loss = language_model_loss(model, output, targets, alpha, beta)
                return cross_entropy, loss, targets.numel()

            record = loop.train_epoch(title, stream.epoch(), stream.tokens, compute_loss)
            if valid_ids is not None:
                valid_loss = evaluate_language_model(model, valid_ids, config.bptt, progress=self.progress)
                record |= {"valid_loss": valid_loss, "perplexity": math.exp(min(valid_loss, 50))}
            return record

        save = partial(save_model, model=model, tokenizer=tokenizer)
        return TrainedLanguageModel(model, tokenizer, self._run(model, run_epoch, save))

    def train_classifier(
        self,
        model: TextClassifier,
        tokenizer: Tokenizer,
        classes: list[Label],
        texts: Sequence[str],
        targets: Tensor,
        valid: tuple[Sequence[str], Tensor] | None,
    ) -> TrainedClassifier:
        config = self.config
        assert isinstance(config, ClassifierConfig)
        ids = list(tokenizer.encode(texts))
        valid_ids = None if valid is None else list(tokenizer.encode(valid[0]))
        random = np.random.default_rng(config.seed)
        # Each epoch cuts its own batches, of which there may be a few more or less.
        batches_per_epoch = len(
            group_documents([len(document) for document in ids], config.batch_size, config.max_tokens, random)
        )
        loop = self._loop(model, config.discriminative_factor, batches_per_epoch)
        model.bpt3c.on_progress = loop.advance
        unfreezing = GradualUnfreezing(layer_groups(model)) if config.gradual_unfreezing else None

        def compute_loss(batch: tuple[Any, np.ndarray]) -> tuple[Tensor, Tensor, int]:
            documents, rows = batch
            loss = F.cross_entropy(model(documents).float(), targets[torch.from_numpy(rows)])
            return loss, loss, len(documents.data)

        def run_epoch(title: str, epoch: int) -> Record:
            trainable = {} if unfreezing is None else {"trainable_groups": unfreezing.start_epoch(epoch)}
            batches = document_batches(ids, config.batch_size, config.max_tokens, random)
            record = loop.train_epoch(title, batches, sum(map(len, ids)), compute_loss) | trainable
            # Weights can be finite and yet too large to compute with, which the next batch's loss would tell.
            sample = sorted(range(len(ids)), key=lambda i: len(ids[i]))[:_SAMPLE]
            sample_loss, _ = evaluate_classifier(model, [ids[i] for i in sample], targets[sample])
            if not math.isfinite(sample_loss):
                raise diverged(title, f"the loss in eval mode became {sample_loss}", sum(map(len, ids)))
            if valid is not None and valid_ids is not None:
                loss, accuracy = evaluate_classifier(model, valid_ids, valid[1], progress=self.progress)
                record |= {"valid_loss": loss, "accuracy": accuracy}
            return record

        save = partial(save_model, model=model, tokenizer=tokenizer, labels=classes)
        try:
            history = self._run(model, run_epoch, save)
        finally:
            model.bpt3c.on_progress = None
            model.requires_grad_(True)
        return TrainedClassifier(model, tokenizer, classes, history)

    def _loop(self, model: Any, factor: float, batches_per_epoch: int) -> Loop:
        config = self.config
        groups = discriminative_param_groups(layer_groups(model), config.lr, factor)
        optimizer = AdamW(groups, lr=config.lr, betas=(0.7, 0.99), weight_decay=config.weight_decay, fused=True)
        total_steps = config.epochs * batches_per_epoch
        scheduler: LRScheduler = SlantedTriangularLR(optimizer, total_steps, config.cut_frac, config.ratio)
        return Loop(model, optimizer, scheduler, config.clip, config.precision, self.progress)

    def _run(self, model: Any, run_epoch: Callable[[str, int], Record], save: Callable[..., None]) -> History:
        history, best = History(), BestWeights(model)
        for epoch in range(self.config.epochs):
            title = f"{self.name} {epoch + 1}/{self.config.epochs}"
            try:
                record = {"stage": self.name, "epoch": epoch + 1, **run_epoch(title, epoch)}
            except KeyboardInterrupt:
                raise self._interrupted(title, save) from None
            history.records.append(record)
            if best.offer(record.get("valid_loss")) and self.output is not None:
                save(Path(self.output), training_args=self._arguments())
            if self.output is not None:
                history.write(Path(self.output))
            if self.on_epoch is not None:
                self.on_epoch(record)
        best.restore()
        model.zero_grad(set_to_none=True)
        model.eval()
        return history

    def _interrupted(self, title: str, save: Callable[..., None]) -> TrainingInterrupted:
        """Saves the model as it is, beside the best one so far."""
        if self.output is None:
            return TrainingInterrupted(f"{title}: interrupted")
        folder = Path(self.output) / "interrupted"
        save(folder, training_args=self._arguments())
        return TrainingInterrupted(f"{title}: interrupted; the model as of the last step is in {folder}")

    def _arguments(self) -> dict[str, Any]:
        return {"stage": self.name} | asdict(self.config)
