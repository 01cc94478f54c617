"""Trains several classifiers over one encoder: a batch of one table, a batch of another."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.random import Generators
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.multi_task import MultiTaskClassifier
from ulmfit_fast.storage.several_tables import join_tables
from ulmfit_fast.training.callbacks import EarlyStopping, HistoryFiles
from ulmfit_fast.training.classifier import ClassifierTrainer
from ulmfit_fast.training.config import ClassifierConfig
from ulmfit_fast.training.history import History, Record
from ulmfit_fast.training.loop import BestWeights, Loop, StepLoss, best_record
from ulmfit_fast.training.trained import TrainedClassifier
from ulmfit_fast.training.trainer import RunOptions, Trainer

# A table's share of an epoch's batches goes by its number of batches to this power.
SAMPLING = {"proportional": 1.0, "square-root": 0.5, "uniform": 0.0}


def shares_of(batches: Mapping[str, int], sampling: str) -> dict[str, int]:
    """How many batches of each table an epoch has: in all about as many as there are, of each at least one.

    Args:
        batches: that each table has.
        sampling: one of ``SAMPLING``.

    Raises:
        InputError: an unknown sampling.
    """
    if sampling not in SAMPLING:
        raise InputError(f"sampling must be one of {', '.join(SAMPLING)}, got {sampling!r}")
    weights = {name: count ** SAMPLING[sampling] for name, count in batches.items()}
    scale = sum(batches.values()) / sum(weights.values())
    return {name: max(1, round(weight * scale)) for name, weight in weights.items()}


class MultiTaskTrainer(Trainer):
    """Trains the models of several ``ClassifierTrainer``, which share an encoder, in turn.

    Each table keeps the weights of its own best epoch, the encoder's included, in a folder of its own below the output.

    Args:
        members: by the name of their table; each trains on its data by its configuration, which says what is its own:
            task, loss, metric. They are not run.
        config: what they have in common.
        options: how the run is done; the output is the folder above the tables' folders.
        generators: of the run, which have drawn the weights.
        sampling: how often a table is drawn, one of ``SAMPLING``. With "proportional" every text of every table is read
            once an epoch. Else an epoch has as many batches, of small tables more: they are read again and again, of
            large ones a part is read, each epoch another.

    Raises:
        InputError: an unknown sampling; several processes, or several batches a step.
    """

    config: ClassifierConfig
    model: MultiTaskClassifier
    best: BestOfEach

    def __init__(
        self,
        members: Mapping[str, ClassifierTrainer],
        config: ClassifierConfig,
        options: RunOptions,
        generators: Generators,
        sampling: str = "proportional",
    ) -> None:
        self.members, self.sampling = dict(members), sampling
        model = MultiTaskClassifier({name: member.model for name, member in members.items()})
        super().__init__("multi-task", model, config, options, generators)
        if self.processes.size > 1:
            raise InputError("several tables train in one process; start without torchrun")
        if config.accumulate > 1:
            raise InputError("several tables train with a step for each batch; leave out accumulate")
        if options.output is not None:
            self._files = [*self._files, _HistoriesOfTables(options.output)]
        self.random = np.random.default_rng(config.seed)
        for member in members.values():
            member.random = self.random
        there = {name: member.expected_batches for name, member in members.items()}
        self.shares = shares_of(there, sampling)
        self.expected_batches = sum(self.shares.values())
        self.tokens = sum(round(member.tokens * self.shares[name] / there[name]) for name, member in members.items())
        self.validates = any(member.validates for member in members.values())
        self.checksum = zlib.crc32(repr([(name, member.checksum) for name, member in members.items()]).encode())

    def batches(self, skip: int) -> Iterator[tuple[str, Any]]:
        for name, reading, group in self._order()[skip:]:
            member = self.members[name]
            # Words are augmented anew each time that a table is read.
            member.epoch = self.epoch * (2 + self.shares[name] // member.expected_batches) + reading
            yield name, member.read_batch(group)

    def _order(self) -> list[tuple[str, int, list[int]]]:
        """An epoch's batches: of which table, how often that was read before in the epoch, positions of the texts."""
        drawn: list[tuple[str, int, list[int]]] = []
        for name, member in self.members.items():
            groups = [(name, 0, group) for group in member.draw_groups()]
            if self.sampling != "proportional":
                while len(groups) < self.shares[name]:
                    groups += [(name, groups[-1][1] + 1, group) for group in member.draw_groups()]
                groups = groups[: self.shares[name]]
            drawn += groups
        return [drawn[i] for i in self.random.permutation(len(drawn)).tolist()]

    def compute_loss(self, batch: tuple[str, Any]) -> StepLoss:
        name, own = batch
        return self.members[name].compute_loss(own)._replace(part=name)

    def weight(self, batch: tuple[str, Any]) -> tuple[float, float]:
        name, own = batch
        return self.members[name].weight(own)

    def pretrained_parameters(self) -> Iterable[Tensor]:
        return self.model.encoder.parameters()

    def validate(self, title: str) -> Record:
        tables = {name: member.validate(f"{title}, {name}") for name, member in self.members.items()}
        losses = [record["valid_loss"] for record in tables.values() if "valid_loss" in record]
        return {"tables": tables} | ({"valid_loss": fmean(losses)} if losses else {})

    def early_stopping(self, patience: int) -> EarlyStopping:
        return _WhenAllStop(patience, self.members)

    def new_best(self) -> BestOfEach:
        models = {name: member.model for name, member in self.members.items()}
        self.best = BestOfEach(models, self.options.output)
        return self.best

    def keep_best(self, best: Any, record: Record) -> None:
        folder = self.options.output
        for name, member in self.members.items():
            if best.of[name].offer(member.goal(record_of(record, name))) and folder is not None:
                member.save(folder / name)
        if folder is not None:
            join_tables(folder, list(self.members))

    def save(self, folder: Path) -> None:
        for name, member in self.members.items():
            member.save(folder / name)

    def arguments(self) -> dict[str, Any]:
        own = ("task", "metric", "class_weight", "head_size", "pooling", "attention_heads")
        tables = {
            name: {"task_type": member.task.type}
            | {field: getattr(member.config, field) for field in own}
            | {"class_weights": member.arguments()["class_weights"]}
            for name, member in self.members.items()
        }
        return super().arguments() | {"sampling": self.sampling, "tables": tables}

    def new_loop(self) -> Loop:
        loop = super().new_loop()
        for member in self.members.values():
            member.model.bpt3c.on_progress = loop.advance
        return loop

    def trained(self) -> dict[str, TrainedClassifier]:
        """Train, and give the models back as users get them, each with an encoder of its own."""
        try:
            records = self.train().records
        finally:
            for member in self.members.values():
                member.model.bpt3c.on_progress = None
        return {name: self._trained(name, [record_of(record, name) for record in records]) for name in self.members}

    def _trained(self, name: str, records: list[Record]) -> TrainedClassifier:
        member = self.members[name]
        best = best_record(records, member.goal)
        member.task.adopt({} if best is None else best.get("calibration", {}))
        return TrainedClassifier(
            cast(TextClassifier, self.best.of[name].model), member.tokenizer, member.task, History(records)
        )


def record_of(record: Record, name: str) -> Record:
    """What an epoch's record says of one table, as the record of its training alone would say it."""
    shared = {key: value for key, value in record.items() if key not in ("losses", "tables", "valid_loss", "loss")}
    return shared | {"loss": record["losses"][name]} | record["tables"][name]


class BestOfEach:
    """``BestWeights`` of several models that share an encoder.

    Args:
        models: by name.
        folder: that has a model folder below it for each name; None: the weights are kept in memory.
    """

    def __init__(self, models: Mapping[str, TextClassifier], folder: Path | None) -> None:
        self.of = {
            name: BestWeights(model, None if folder is None else folder / name) for name, model in models.items()
        }

    def state(self) -> dict[str, Any]:
        return {name: best.state() for name, best in self.of.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, best in self.of.items():
            best.set_state(state[name])

    def missing(self) -> Path | None:
        return next((path for best in self.of.values() if (path := best.missing()) is not None), None)

    def restore(self) -> None:
        """Give each name a model of its own, with its best weights: the encoder's are not the same for all."""
        for best in self.of.values():
            best.model.bpt3c.on_progress = None  # type: ignore[union-attr]
            best.model = copy.deepcopy(best.model).requires_grad_(True).eval()
            best.restore()


class _WhenAllStop(EarlyStopping):
    """Ends training when it would end for every table that has validation texts."""

    def __init__(self, patience: int, members: Mapping[str, ClassifierTrainer]) -> None:
        super().__init__(patience)
        self._members = members

    def wants_to_stop(self, history: History) -> bool:
        return all(
            EarlyStopping(self.patience, member.goal).wants_to_stop(
                History([record_of(record, name) for record in history.records])
            )
            for name, member in self._members.items()
            if member.validates
        )


class _HistoriesOfTables(HistoryFiles):
    """Keeps ``history.jsonl`` and ``curves.png`` in each table's folder."""

    def on_start(self, trainer: Trainer) -> None:
        if trainer.history.records:
            self.on_epoch(trainer, trainer.history.records[-1])

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        for name in record["tables"]:
            History([record_of(each, name) for each in trainer.history.records]).write(self.folder / name)
