"""Self-training and co-training: models label texts that have no label, and learn from the labels they are sure of.

Round 0 trains on the labelled texts. Each further round predicts the unlabelled texts, takes the labels that it is
sure of, class by class, and trains new models on these and the labelled texts. Labels are chosen anew each round, so an
early mistake need not stay. This file chooses and repeats; how a model is trained is given to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.training.settings import check_settings, documented, setting

MEAN, OTHERS = "mean", "others"
AUTO, PROBE, CLASSIFIER, BOTH = "auto", "probe", "classifier", "both"


@documented
@dataclass(frozen=True)
class SelfTrainingConfig:
    """How unlabelled texts get labels in ``self_train``."""

    rounds: int = setting(2, "trainings on labels that were taken, each with labels chosen anew", at_least=1)
    first: str = setting(
        AUTO, "what labels first: probe: a linear classifier on what the language model has read, fitted in seconds; "
        "classifier: one that is trained as those of the rounds are; both: together, however sure each is of itself; "
        "auto: a probe where words stand for the labels, a classifier where there is no language model or where there "
        "are weak labels, else both. A probe labels in later rounds, too, together with the newest classifier",
        choices=(AUTO, PROBE, CLASSIFIER, BOTH),
    )  # fmt: skip
    threshold: float = setting(0.0, "smallest confidence of a label that is taken", at_least=0, at_most=1)
    share: float = setting(
        0.3, "largest share of the texts predicted as a class that are taken, the surest ones; so a class that is hard "
        "is not left out",
        above=0, at_most=1,
    )  # fmt: skip
    per_class: int = setting(0, "most texts of a class that are taken; 0: any number", at_least=0)
    balance: bool = setting(
        True, "keep the classes' shares among the labelled texts; without it, what is predicted more is taken more"
    )
    labeled_weight: float = setting(
        3.0, "what a labelled text counts, over one with a taken label; that counts as it is sure", above=0
    )
    pool: int = setting(7_000, "unlabelled texts that a round labels, drawn anew each round; 0: all", at_least=0)
    round_epochs: int = setting(
        2, "passes of a round over labelled texts and those taken, with all layers at once, unless the classifier's "
        "epochs are given; 0: as the classifier's epochs and unfreezing say",
        at_least=0,
    )  # fmt: skip
    teacher: str = setting(
        MEAN, "of several models: mean: all label by their mean; others: each learns from the mean of the others alone "
        "(co-training)",
        choices=(MEAN, OTHERS),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Chosen:
    """Texts that a round takes, with their labels.

    Args:
        rows: int64 [n], ascending, among the unlabelled texts.
        labels: of each.
        confidence: float [n], of each label.
    """

    rows: np.ndarray
    labels: list[Label]
    confidence: np.ndarray

    def by_label(self) -> dict[Label, int]:
        """How many texts of each label."""
        return dict(sorted(Counter(self.labels).items()))

    def same_as(self, other: Chosen) -> bool:
        return np.array_equal(self.rows, other.rows) and self.labels == other.labels


@dataclass(frozen=True)
class Round:
    """What a round did.

    Args:
        number: 0 is the training without taken labels.
        taken: of each model, how many texts of each label it learned from.
        score: on validation texts, of the models' mean; an error is negative, so that higher is better. None where
            there are none.
    """

    number: int
    taken: list[dict[Label, int]] = field(default_factory=list)
    score: float | None = None


def choose_confident(
    activated: np.ndarray, task: Task, shares: dict[Label, float], config: SelfTrainingConfig
) -> Chosen:
    """The texts whose label is taken: of each class the surest ones.

    Args:
        activated: [texts, ...], what the teacher computes.
        task: which has a confidence.
        shares: of each label among the labelled texts, which ``config.balance`` keeps. The number of texts is bounded
            by the median class, so that one rare class of many does not bound all, and a teacher that says one label
            alone teaches nothing.
        config: what is taken.
    """
    confidence = task.confidence(activated)
    assert confidence is not None
    predicted = task.decode(activated).tolist()
    order = np.argsort(-confidence, kind="stable")
    of_label: dict[Label, list[int]] = {label: [] for label in task.labels}
    for row in order.tolist():
        of_label[predicted[row]].append(row)
    for label, rows in of_label.items():
        most = int(np.ceil(len(rows) * config.share))
        most = min(most, config.per_class) if config.per_class else most
        of_label[label] = [row for row in rows[:most] if confidence[row] >= config.threshold]
    if config.balance:
        per_share = sorted(len(rows) / shares[label] for label, rows in of_label.items() if shares.get(label))
        bound = per_share[(len(per_share) - 1) // 2] if per_share else 0.0
        for label, rows in of_label.items():
            of_label[label] = rows[: int(np.ceil(round(bound * shares.get(label, 0.0), 6)))]
    taken = sorted(row for rows in of_label.values() for row in rows)
    return Chosen(np.array(taken, dtype=np.int64), [predicted[row] for row in taken], confidence[taken])


class SelfTraining:
    """The rounds.

    Args:
        train: gets a model's place, the round's number, and the texts taken (None in round 0); returns a trained model.
        predict: gets a trained model and the places of unlabelled texts, int64; returns what is activated of them.
        task_of: the task of a trained model.
        score: of the models' mean on validation texts, higher is better; None, or where it gives None: not known, and
            the last round counts.
        config: how labels are taken.
        models: how many.
        texts: how many unlabelled texts there are.
        shares: as in ``choose_confident``.
        seed: draws the pools.
        on_round: told of each round.

    Raises:
        InputError: the task has no confidence; co-training with one model.
    """

    def __init__(
        self,
        train: Callable[[int, int, Chosen | None], Any],
        predict: Callable[[Any, np.ndarray], np.ndarray],
        task_of: Callable[[Any], Task],
        score: Callable[[Sequence[Any]], float | None] | None,
        config: SelfTrainingConfig,
        *,
        models: int,
        texts: int,
        shares: dict[Label, float],
        seed: int = 0,
        on_round: Callable[[Round], None] | None = None,
    ) -> None:
        if config.teacher == OTHERS and models < 2:
            raise InputError("self_train: teacher 'others' (co-training) needs two models or more; give another one")
        self.train, self.predict, self.task_of, self.score = train, predict, task_of, score
        self.config, self.models, self.texts, self.shares = config, models, texts, shares
        self.random, self.on_round = np.random.default_rng(seed), on_round

    def run(self) -> tuple[list[Any], list[Round]]:
        """Train; returns the models of the best round, or of the last one without validation, and all rounds.

        It ends early where no text is sure enough, or where the same labels were taken as in the round before.
        """
        best = models = [self.train(place, 0, None) for place in range(self.models)]
        rounds = [self._told(Round(0, [], self._score(models)))]
        before: list[Chosen] = []
        for number in range(1, self.config.rounds + 1):
            chosen = self._choose(models)
            if not any(len(each.rows) for each in chosen):
                break
            if before and all(one.same_as(other) for one, other in zip(chosen, before, strict=True)):
                break
            models = [self.train(place, number, each) for place, each in enumerate(chosen)]
            rounds.append(self._told(Round(number, [each.by_label() for each in chosen], self._score(models))))
            scores = [each.score for each in rounds[:-1] if each.score is not None]
            last = rounds[-1].score
            if last is None or not scores or last > max(scores):
                best = models
            before = chosen
        return best, rounds

    def _choose(self, models: Sequence[Any]) -> list[Chosen]:
        """What each model learns from in the next round."""
        config = self.config
        pool = np.arange(self.texts)
        if config.pool and config.pool < self.texts:
            pool = np.sort(self.random.permutation(self.texts)[: config.pool])
        found = [self.predict(model, pool) for model in models]
        chosen = []
        for place in range(len(models)):
            others = [each for other, each in enumerate(found) if config.teacher == MEAN or other != place]
            taken = choose_confident(np.mean(others, axis=0), self.task_of(models[place]), self.shares, config)
            chosen.append(Chosen(pool[taken.rows], taken.labels, taken.confidence))
        return chosen

    def _score(self, models: Sequence[Any]) -> float | None:
        return None if self.score is None else self.score(models)

    def _told(self, done: Round) -> Round:
        if self.on_round is not None:
            self.on_round(done)
        return done
