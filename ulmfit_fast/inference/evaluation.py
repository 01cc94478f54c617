"""Everything that evaluating a classifier on a table finds out: what JSON has, and what a report shows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.intervals import Interval, bootstrap
from ulmfit_fast.tasks.findings import Findings
from ulmfit_fast.tasks.task import Task

_LONGEST, _DRAWN = 6, 14  # texts that are timed: the longest, and others by chance
_TIMED_TOKENS = 200_000  # longer texts take minutes: they are listed without a time
ERRORS = 10  # that are told


class Timed(NamedTuple):
    """One text predicted alone; ``seconds`` None where it was not timed."""

    place: int
    characters: int
    tokens: int
    seconds: float | None


@dataclass(frozen=True)
class Evaluation:
    """A classifier on a table.

    Attributes:
        model, table: as the user names them.
        task: the classifier's.
        texts, expected: and their labels, as the table has them.
        rows: of the table, from 1, for each text.
        activated: [texts, ...], as ``Task.activate``.
        scores: by name, with intervals.
        findings: of the task.
        timed: the longest texts and some others, the slowest first.
    """

    model: str
    table: str
    task: Task
    texts: Sequence[str]
    expected: Sequence[Any]
    rows: Sequence[int]
    activated: np.ndarray
    scores: dict[str, Interval]
    findings: Findings
    timed: list[Timed]

    def worst(self, count: int = ERRORS) -> list[int]:
        """Places of the worst errors, the worst first."""
        right, badness = self.findings.right, self.findings.badness
        order = np.argsort(-badness, kind="stable").tolist()
        return [place for place in order if right is None or not right[place]][:count]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what the texts cannot tell is None."""
        found = self.findings
        confidence = self.task.confidence(self.activated)
        return {
            "ulmfit_fast": package_version(),
            "model": self.model,
            "table": self.table,
            "task": self.task.type,
            "labels": self.task.labels,
            "texts": len(self.texts),
            "scores": {
                name: {"value": _known(s.value), "low": _known(s.low), "high": _known(s.high)}
                for name, s in self.scores.items()
            },
            "classes": [each._asdict() for each in found.classes],
            "confusion": None if found.confusion is None else found.confusion.tolist(),
            "calibration": [each._asdict() for each in found.bins],
            "worst_errors": [
                {
                    "row": int(self.rows[place]),
                    "expected": self.expected[place], "predicted": found.predicted[place],
                    "confidence": None if confidence is None else float(confidence[place]),
                }
                for place in self.worst()
            ],
            "timed": [each._asdict() for each in self.timed],
        }  # fmt: skip


def evaluation_of(
    classifiers: Classifiers, model: str, table: str, texts: Sequence[str], expected: Sequence[Any],
    rows: Sequence[int], activated: np.ndarray, targets: Tensor,
) -> Evaluation:  # fmt: skip
    """What there is to say, given the predictions: intervals are drawn, and some texts are predicted alone for time."""
    task = classifiers.task
    names = tuple(task.known_scores)

    def scores(places: np.ndarray) -> dict[str, float]:
        return task.metrics(activated[places], targets[places], names)

    return Evaluation(
        model, table, task, texts, expected, rows, activated, bootstrap(len(texts), scores),
        task.findings(activated, targets), _timed(classifiers, texts),
    )  # fmt: skip


def _timed(classifiers: Classifiers, texts: Sequence[str]) -> list[Timed]:
    by_length = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    others = np.random.default_rng(0).permutation(np.array(by_length[_LONGEST:], dtype=np.int64))[:_DRAWN].tolist()
    found = []
    for place in [*by_length[:_LONGEST], *others]:
        tokens = sum(len(next(iter(tokenizer.encode([texts[place]])))) for _, tokenizer, _ in classifiers.members)
        seconds = None
        if tokens <= _TIMED_TOKENS:
            start = time.perf_counter()
            classifiers.activated([texts[place]])
            seconds = time.perf_counter() - start
        found.append(Timed(place, len(texts[place]), tokens, seconds))
    return sorted(found, key=lambda each: -math.inf if each.seconds is None else -each.seconds)


def package_version() -> str:
    """Of this package; "unknown" where it is used without being installed."""
    try:
        return version("ulmfit_fast")
    except PackageNotFoundError:
        return "unknown"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
