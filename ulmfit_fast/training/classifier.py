"""Trains a classifier: stage three."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.device import documents_on_device, on_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.random import Generators
from ulmfit_fast.inference.candidates import likely_words, near_words
from ulmfit_fast.inference.prediction import classifier_logits
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.encoder import Encoder
from ulmfit_fast.nn.encoders import DEFAULT_ENCODER, encoder_type
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.stacked import StackedEncoder
from ulmfit_fast.storage.model_folder import save_model
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.metrics import LOSS, METRICS
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.augment import Augmentation, Augmenter, by_place, by_word
from ulmfit_fast.text.batching import group_documents
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import TokenArray
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import warn_of_unknown
from ulmfit_fast.training.config import ClassifierConfig
from ulmfit_fast.training.history import History, Record
from ulmfit_fast.training.loop import Loop, StepLoss, best_record, diverged
from ulmfit_fast.training.shared_documents import SharedBatch, shared_batch
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel
from ulmfit_fast.training.trainer import RunOptions, Trainer

_SAMPLE = 4  # training texts that every epoch is checked with


class ClassifierTrainer(Trainer):
    """Trains ``model`` on a labelled data set.

    Args:
        tokenizer: the model's.
        task: what is predicted.
        data: with labels that the task knows.
        language_model: that the encoder is of, where there is one, for ``config.replace_by``.
    """

    model: TextClassifier
    config: ClassifierConfig

    def __init__(
        self,
        model: TextClassifier,
        tokenizer: Tokenizer,
        task: Task,
        data: Dataset,
        config: ClassifierConfig,
        options: RunOptions,
        generators: Generators,
        language_model: LanguageModel | None = None,
    ) -> None:
        super().__init__("classifier", model, config, options, generators)
        self.tokenizer, self.task, self.random = tokenizer, task, np.random.default_rng(config.seed)
        self._ids = list(tokenizer.encode(data.texts))
        warn_of_unknown("finetune_classifier", tokenizer, self._ids)
        self._targets, self._weights = task.encode(data.labels or [], "labels"), data.weights
        self._class_weight = data.class_weight
        self._valid_ids = self._valid_targets = None
        self.validates = data.valid is not None
        if data.valid is not None:
            self._valid_ids = list(tokenizer.encode(data.valid.texts))
            self._valid_targets = task.encode(data.valid.labels or [], "valid_labels")
        lengths = [len(document) for document in self._ids]
        self.tokens = sum(lengths)
        self.expected_batches = len(self.draw_groups())  # each epoch cuts its own, a few more or less
        self.checksum = self._checksum()
        self._read = self._augmented(language_model)
        # Weights can be finite and yet too large to compute with, which the next batch's loss would tell.
        self._sample = sorted(range(len(lengths)), key=lengths.__getitem__)[:_SAMPLE]

    def batches(self, skip: int) -> Iterator[Any]:
        return map(self.read_batch, self.draw_groups()[skip:])

    def draw_groups(self) -> list[list[int]]:
        """The texts of each batch of an epoch, by their positions."""
        lengths = [len(document) for document in self._ids]
        return group_documents(lengths, self.config.batch_size, self.config.max_tokens, self.random)

    def read_batch(self, group: list[int]) -> SharedBatch:
        """This process's part of the batch of the texts at these positions."""
        return shared_batch(self._ids, group, self._read, self.processes)

    def compute_loss(self, batch: SharedBatch) -> StepLoss:
        documents = documents_on_device(batch.documents, self.device)
        if len(batch.rows) == 0:
            nothing = self.model.classify(self.model.bpt3c(documents)[:0]).float().sum()
            return StepLoss(nothing, nothing, batch.all_tokens)
        logits = self.model(documents)  # float64 in a model of such weights
        logits = logits if logits.dtype == torch.float64 else logits.float()
        targets, weights = self._asked(batch.rows)
        weights = None if weights is None else on_device(weights, self.device)
        loss = self.task.loss(logits, on_device(targets, self.device), weights)
        return StepLoss(loss, loss, batch.all_tokens)

    def weight(self, batch: SharedBatch) -> tuple[float, float]:
        if len(batch.rows) == len(batch.all_rows) and self.config.accumulate == 1:
            return 1.0, 1.0  # and need not be known
        own, whole = (self.task.weight(*self._asked(rows)) for rows in (batch.rows, batch.all_rows))
        return own, whole

    def _asked(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Targets and weights of some texts."""
        chosen = torch.from_numpy(rows)
        return self._targets[chosen], None if self._weights is None else self._weights[chosen]

    def pretrained_parameters(self) -> Iterable[Tensor]:
        return self.model.bpt3c.encoder.parameters()  # type: ignore[attr-defined]

    def validate(self, title: str) -> Record:
        sample = [self._ids[i] for i in self._sample]
        sample_loss = float(self.task.loss(classifier_logits(self.model, sample), self._targets[self._sample]))
        if not math.isfinite(sample_loss):
            raise diverged(title, f"the loss in eval mode became {sample_loss}", self.tokens)
        if self._valid_ids is None or self._valid_targets is None:
            return {}
        task, targets = self.task, self._valid_targets
        logits = classifier_logits(self.model, self._valid_ids, progress=self.shows_progress, processes=self.processes)
        also = () if self.config.metric == LOSS else (self.config.metric,)
        return validation_record(task, logits, targets, self.config.calibrate, also)

    def goal(self, record: Record) -> float | None:
        metric = self.config.metric
        if metric == LOSS or metric not in record:
            return super().goal(record)
        return -record[metric] if METRICS[metric].greater_is_better else record[metric]

    def save(self, folder: Path) -> None:
        save_model(folder, self.model, self.tokenizer, self.task, training_args=self.arguments())

    def arguments(self) -> dict[str, Any]:
        weights: Any = self._class_weight
        if isinstance(weights, Mapping):
            weights = sorted([str(label), float(weight)] for label, weight in weights.items())
        return super().arguments() | {"class_weights": weights}

    def new_loop(self) -> Loop:
        loop = super().new_loop()
        self.model.bpt3c.on_progress = loop.advance
        return loop

    def train(self) -> History:
        try:
            return super().train()
        finally:
            self.model.bpt3c.on_progress = None

    def trained(self) -> TrainedClassifier:
        """Train, and give the model back as users get it."""
        history = self.train()
        best = best_record(history.records, self.goal)
        self.task.adopt({} if best is None else best.get("calibration", {}))
        return TrainedClassifier(self.model, self.tokenizer, self.task, history)

    def _augmented(self, language_model: LanguageModel | None) -> Callable[[int], np.ndarray] | None:
        """How the current epoch reads a text, if not as it is."""
        config, ids = self.config, self._ids
        augmentation = Augmentation(config.word_dropout, config.word_swap, config.word_replace, config.word_noise)
        if not augmentation:
            return None
        candidates, backward = None, self.tokenizer.direction == "backward"
        if config.word_replace and config.replace_by == "embedding":
            encoder = self.model.bpt3c.encoder
            everything = torch.arange(encoder.vocab_size, device=self.device)
            candidates = by_word(near_words(encoder.embed(everything), ids), ids, backward)
        elif config.word_replace and language_model is not None:
            likely = likely_words(language_model, self.device, ids, progress=self.shows_progress)
            candidates = by_place(likely, backward)
        augmenter = Augmenter(self.tokenizer, ids, augmentation, config.seed, candidates)
        return lambda row: augmenter.text(row, self.epoch)

    def _checksum(self) -> int:
        """A checksum of texts, vocabulary, labels and weights."""
        valid = None if self._valid_ids is None else TokenArray(self._valid_ids)
        corpus = Corpus(self.tokenizer, TokenArray(self._ids), valid)
        valid_targets = None if self._valid_targets is None else self._valid_targets.tolist()
        facts: tuple[Any, ...] = (self.task.labels, self._targets.tolist(), valid_targets)
        if self._weights is not None:
            facts = (*facts, self._weights.tolist())
        return zlib.crc32(repr(facts).encode(), corpus.checksum())


def validation_record(
    task: Task, logits: Tensor, targets: Tensor, calibrate: bool, also: tuple[str, ...] = ()
) -> Record:
    """What the validation texts say: loss, scores, and what calibration chose, which the task has from here on.

    A loss that is not finite stands alone, of which no epoch can be the best.
    """
    record: Record = {"valid_loss": float(task.loss(logits, targets))}
    if not math.isfinite(record["valid_loss"]):
        return record
    chosen = task.calibrate(logits, targets) if calibrate else {}
    record |= task.metrics(task.activate(logits).numpy(), targets, also)
    return record | ({"calibration": chosen} if chosen else {})


def with_encoder_of(config: ClassifierConfig, encoder: Encoder | StackedEncoder) -> ClassifierConfig:
    """The configuration with the kind of encoder that is settled, for the record. InputError if it asks for another."""
    kind = encoder_type(encoder)
    if config.encoder not in (kind, DEFAULT_ENCODER):
        raise InputError(f"finetune_classifier: encoder is {config.encoder!r}, but the given model's is {kind!r}")
    return replace(config, encoder=kind)


def check_base(config: ClassifierConfig, base: TrainedLanguageModel | TrainedClassifier | None) -> None:
    """Raises InputError for options that need a pretrained model which is not there."""
    if base is None and config.l2_sp:
        raise InputError(
            f"finetune_classifier: l2_sp={config.l2_sp} pulls towards a pretrained model's weights, and there is none; "
            "give language_model, or leave l2_sp 0"
        )
    by_language_model = config.replace_by == "language-model"
    if config.word_replace and (base is None or (by_language_model and isinstance(base, TrainedClassifier))):
        raise InputError(
            f"finetune_classifier: word_replace={config.word_replace} with replace_by={config.replace_by!r} needs a "
            f"language model{'' if by_language_model else ' or a classifier to go on with'}; give language_model, or "
            "leave word_replace 0"
        )
