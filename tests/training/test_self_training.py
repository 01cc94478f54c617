"""Which labels a round takes, and what the rounds do; trained models come in ``tests/few_labels``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ulmfit_fast import InputError, SelfTrainingConfig
from ulmfit_fast.tasks.regression import Regression
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.training.self_training import Chosen, Round, SelfTraining, choose_confident

TASK = SingleLabel(["a", "b"])
EVEN = {"a": 0.5, "b": 0.5}
ALL = SelfTrainingConfig(threshold=0.0, share=1.0, per_class=0, balance=False)


def of_first(*probabilities: float) -> np.ndarray:
    """Activated rows with these probabilities of "a"."""
    return np.array([[p, 1 - p] for p in probabilities])


def test_the_threshold() -> None:
    activated = of_first(0.95, 0.9, 0.85, 0.2, 0.05)
    chosen = choose_confident(activated, TASK, EVEN, SelfTrainingConfig(threshold=0.9, share=1.0, balance=False))
    assert chosen.rows.tolist() == [0, 1, 4]
    assert chosen.labels == ["a", "a", "b"]
    assert chosen.confidence == pytest.approx([0.95, 0.9, 0.95])
    assert chosen.by_label() == {"a": 2, "b": 1}


def test_the_share_and_the_most_of_a_class_take_the_surest() -> None:
    activated = of_first(0.6, 0.9, 0.7, 0.8, 0.4, 0.3)
    half = choose_confident(activated, TASK, EVEN, SelfTrainingConfig(threshold=0, share=0.5, balance=False))
    assert half.rows.tolist() == [1, 3, 5]
    one = choose_confident(activated, TASK, EVEN, SelfTrainingConfig(threshold=0, share=1, per_class=1, balance=False))
    assert one.rows.tolist() == [1, 5]


def test_the_balance_keeps_the_shares_of_the_labelled_texts() -> None:
    activated = of_first(*np.linspace(0.6, 0.99, 30), *np.linspace(0.01, 0.3, 10))
    config = SelfTrainingConfig(threshold=0, share=1, per_class=0)
    assert choose_confident(activated, TASK, EVEN, config).by_label() == {"a": 10, "b": 10}
    assert choose_confident(activated, TASK, {"a": 0.2, "b": 0.8}, config).by_label() == {"a": 3, "b": 10}
    kept = choose_confident(activated, TASK, EVEN, config)
    assert set(kept.rows.tolist()) == {*range(20, 30), *range(30, 40)}  # the surest of "a"
    assert choose_confident(of_first(0.9, 0.8), TASK, EVEN, config).by_label() == {}  # of one class alone


def test_one_rare_class_does_not_bound_all() -> None:
    task, shares = SingleLabel(["a", "b", "c"]), {"a": 0.4, "b": 0.4, "c": 0.2}
    activated = np.repeat(np.eye(3), [40, 40, 1], axis=0)
    taken = choose_confident(activated, task, shares, SelfTrainingConfig(share=1, per_class=0)).by_label()
    assert taken == {"a": 40, "b": 40, "c": 1}


class Rounds:
    """A model is the list of what it was trained on; it predicts fixed rows and scores as told."""

    def __init__(self, activated: list[np.ndarray], scores: list[float] | None = None) -> None:
        self.activated, self.scores, self.trained = activated, scores, []
        self.told: list[Round] = []

    def run(self, config: SelfTrainingConfig, models: int = 1, task: Any = TASK) -> tuple[list[Any], list[Round]]:
        def train(place: int, number: int, chosen: Chosen | None) -> Any:
            self.trained.append((place, number, chosen))
            return place, number

        def predict(model: tuple[int, int], rows: np.ndarray) -> np.ndarray:
            assert model[1] + 1 == self.trained[-1][1] + 1  # the last round's
            return self.activated[min(model[0] + model[1], len(self.activated) - 1)][rows]

        def score(found: Any) -> float:
            assert self.scores is not None
            return self.scores[found[0][1]]

        return SelfTraining(
            train, predict, lambda _: task, score if self.scores else None, config, models=models,
            texts=len(self.activated[0]), shares=EVEN, on_round=self.told.append,
        ).run()  # fmt: skip


def test_labels_are_chosen_anew_each_round_until_they_stay() -> None:
    first, second = of_first(0.99, 0.98, 0.01, 0.02), of_first(0.98, 0.03, 0.04, 0.97)
    rounds = Rounds([first, second])
    models, done = rounds.run(SelfTrainingConfig(rounds=9, share=1))
    assert [chosen and chosen.labels for *_, chosen in rounds.trained] == [
        None,
        ["a", "a", "b", "b"],
        ["a", "b", "b", "a"],
    ]
    assert models == [(0, 2)]
    assert [each.number for each in done] == [0, 1, 2]
    assert rounds.told == done


def test_nothing_sure_ends_it() -> None:
    rounds = Rounds([of_first(0.6, 0.5)])
    models, done = rounds.run(SelfTrainingConfig())
    assert models == [(0, 0)]
    assert len(done) == 1


def test_the_best_round_counts() -> None:
    several = [of_first(0.99, 0.99, 0.01, 0.01), of_first(0.01, 0.99, 0.01, 0.99), of_first(0.99, 0.01, 0.99, 0.01)]
    models, done = Rounds(several, scores=[0.5, 0.7, 0.7, 0.6]).run(SelfTrainingConfig(rounds=3, share=1))
    assert models == [(0, 1)]  # of equal ones the first
    assert [each.score for each in done] == [0.5, 0.7, 0.7, 0.6]


def test_co_training_and_the_mean() -> None:
    one, other = of_first(0.99, 0.99, 0.4), of_first(0.99, 0.01, 0.01)
    together = Rounds([one, other])
    together.run(SelfTrainingConfig(rounds=1, share=1, threshold=0.6, balance=False), models=2)
    taken = [chosen for *_, chosen in together.trained if chosen is not None]
    assert taken[0].same_as(taken[1])
    assert taken[0].rows.tolist() == [0, 2]  # of the other text the mean is 0.5
    apart = Rounds([one, other])
    apart.run(SelfTrainingConfig(rounds=1, share=1, threshold=0.6, balance=False, teacher="others"), models=2)
    labels = [chosen.labels for *_, chosen in apart.trained if chosen is not None]
    assert labels == [["a", "b", "b"], ["a", "a", "b"]]
    with pytest.raises(InputError, match="needs two models or more"):
        Rounds([one]).run(SelfTrainingConfig(teacher="others"))


def test_a_pool_is_drawn_anew() -> None:
    rounds = Rounds([of_first(*np.linspace(0.95, 0.99, 50))])
    rounds.run(SelfTrainingConfig(rounds=2, pool=10, share=1, balance=False))
    drawn = [chosen.rows.tolist() for *_, chosen in rounds.trained if chosen is not None]
    assert [len(rows) for rows in drawn] == [10, 10]
    assert drawn[0] != drawn[1]


def test_bad_configurations() -> None:
    for name, value, message in (
        ("rounds", 0, "at least 1"), ("threshold", 1.5, "at most 1"), ("share", 0, "above 0"),
        ("teacher", "self", "one of mean, others"), ("balance", 1, "True or False"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"SelfTrainingConfig: {name} must be {message}"):
            SelfTrainingConfig(**{name: value})
    assert Regression([]).confidence(np.zeros((2, 1))) is None  # what self_train refuses by
