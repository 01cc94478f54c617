"""Trains a language model: stages one and two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ulmfit_fast.core.device import on_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.random import Generators
from ulmfit_fast.inference.prediction import evaluate_language_model
from ulmfit_fast.nn.encoder import LayerState
from ulmfit_fast.nn.language_model import LanguageModel, language_model_loss
from ulmfit_fast.nn.sampled_softmax import SampledSoftmax
from ulmfit_fast.storage.model_folder import save_model
from ulmfit_fast.text.batching import LanguageModelStream
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import token_counts
from ulmfit_fast.training.config import FinetuneLMConfig, LanguageModelConfig
from ulmfit_fast.training.history import Record
from ulmfit_fast.training.loop import Loop, StepLoss
from ulmfit_fast.training.optim import NTASGD, AveragedWeights
from ulmfit_fast.training.trained import TrainedLanguageModel
from ulmfit_fast.training.trainer import RunOptions, Trainer


class LanguageModelTrainer(Trainer):
    """Trains ``model`` to predict the next token of a corpus, whose tokenizer is the model's.

    Raises:
        InputError: NT-ASGD without validation texts; too few tokens for the lanes.
    """

    model: LanguageModel
    config: LanguageModelConfig
    shows_perplexity = True

    def __init__(
        self,
        name: str,
        model: LanguageModel,
        corpus: Corpus,
        config: LanguageModelConfig,
        options: RunOptions,
        generators: Generators,
    ) -> None:
        if corpus.valid is None and config.optimizer == "ntasgd":
            raise InputError(
                "the optimizer ntasgd averages once the validation loss no longer falls, and there are no validation "
                "texts; give some, or at least 20 texts of which some are held out, or choose sgd"
            )
        super().__init__(name, model, config, options, generators)
        if isinstance(config, FinetuneLMConfig) and config.unfreezing == "all":
            self.unfreezing = None  # nothing to freeze, nothing to record
        self.corpus, self.validates = corpus, corpus.valid is not None
        lanes = self.processes.share(config.batch_size)
        if not lanes:
            raise InputError(
                f"{name}: {self.processes.size} processes divide the {config.batch_size} lanes of a batch among them; "
                "start fewer, or give a larger batch_size"
            )
        self._stream = LanguageModelStream(corpus.train, config.batch_size, config.bptt, True, True, config.seed, lanes)
        self.random, self.tokens = self._stream.random, self._stream.tokens
        self.expected_batches, self.checksum = self._stream.expected_batches(), corpus.checksum()
        self.sampled = self._sampled_softmax() if config.sampled_softmax else None
        self._next_state: list[LayerState] | None = None  # as of the last batch; None: as of the last step

    def _sampled_softmax(self) -> SampledSoftmax:
        words = self.config.sampled_softmax
        counts = torch.from_numpy(token_counts(self.corpus.train, self.model.encoder.config.vocab_size))
        return SampledSoftmax(counts, frequent=words - words // 2, drawn=words // 2)

    def batches(self, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self._stream.epoch(skip)

    def compute_loss(self, batch: tuple[Tensor, Tensor]) -> StepLoss:
        tokens, targets = (on_device(x, self.device) for x in batch)
        before = self.carried if self._next_state is None else self._next_state
        config, output = self.config, self.model(tokens, before or None)
        self._next_state = [tuple(x.detach() for x in layer) for layer in output.state]
        cross_entropy, loss = language_model_loss(
            self.model, output, targets, config.alpha, config.beta, config.gradient_threshold, self.sampled
        )
        return StepLoss(cross_entropy, loss, len(tokens) * config.batch_size, len(tokens) / config.bptt)

    def weight(self, batch: tuple[Tensor, Tensor]) -> tuple[float, float]:
        _, targets = batch
        return targets.numel(), len(targets) * self.config.batch_size

    def carry(self) -> None:
        self.carried, self._next_state = self._next_state or [], None

    def gathered(self) -> list[Any]:
        processes, lanes = self.processes, self._stream.lanes
        return [tuple(processes.gather_rows(x, lanes, self.config.batch_size) for x in layer) for layer in self.carried]

    def own_part(self, carried: list[Any]) -> list[Any]:
        lanes = self._stream.lanes
        return [tuple(x[lanes.start : lanes.stop] for x in layer) for layer in carried]

    def blank_carried(self) -> list[Any]:
        return self.model.encoder.initial_state(self._stream.batch_size)

    def validate(self, title: str) -> Record:
        if self.corpus.valid is None:
            return {}
        loss = evaluate_language_model(
            self.model, self.corpus.valid, self.config.bptt, progress=self.shows_progress, processes=self.processes
        )
        return {"valid_loss": loss, "perplexity": math.exp(min(loss, 50))}

    def save(self, folder: Path) -> None:
        save_model(folder, self.model, self.corpus.tokenizer, training_args=self.arguments())

    def new_optimizer(self, groups: list[dict[str, Any]], total_steps: int) -> tuple[Optimizer, LRScheduler]:
        config = self.config
        if config.optimizer == "ntasgd":
            optimizer: Optimizer = NTASGD(groups, config.lr, weight_decay=config.weight_decay, patience=config.patience)
            return optimizer, LambdaLR(optimizer, lambda _: 1.0)
        if config.optimizer == "sgd":
            optimizer = SGD(groups, lr=config.lr, weight_decay=config.weight_decay, foreach=True)
            return optimizer, self.scheduler(optimizer, total_steps)
        return super().new_optimizer(groups, total_steps)

    def new_loop(self) -> Loop:
        loop = super().new_loop()
        if self.config.ema_decay:
            loop.average = AveragedWeights(self.model.parameters(), self.config.ema_decay)
        return loop

    def trained(self) -> TrainedLanguageModel:
        """Train, and give the model back as users get it."""
        history = self.train()
        return TrainedLanguageModel(self.model, self.corpus.tokenizer, history)
