"""Two classifiers on the same texts: which is better, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ulmfit_fast.inference.intervals import Interval, McNemar, bootstrap, mcnemar
from ulmfit_fast.tasks.task import Task


class Comparison(NamedTuple):
    """Attributes:
    texts: how many.
    scores: of each model, by name.
    differences: the second's less the first's, with intervals that pair the texts.
    test: McNemar's, of right and wrong; of numbers which model is nearer.
    """

    texts: int
    scores: tuple[dict[str, float], dict[str, float]]
    differences: dict[str, Interval]
    test: McNemar

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what the texts cannot tell is None."""
        known = [{k: v if math.isfinite(v) else None for k, v in each.items()} for each in self.scores]
        return {
            "texts": self.texts,
            "scores": known,
            "differences": {
                name: {k: v if math.isfinite(v) else None for k, v in each._asdict().items()}
                for name, each in self.differences.items()
            },
            "mcnemar": self.test._asdict(),
        }


def compare(task: Task, first: np.ndarray, second: np.ndarray, targets: Tensor) -> Comparison:
    """Of two models' predictions, as ``Task.activate`` gives them, of the same texts."""
    names = tuple(task.known_scores)

    def differences(places: np.ndarray) -> dict[str, float]:
        one, other = (task.metrics(each[places], targets[places], names) for each in (first, second))
        return {name: other[name] - one[name] for name in one}

    found = [task.findings(each, targets) for each in (first, second)]
    right = [each.right for each in found]
    if right[0] is None or right[1] is None:
        right = [found[0].badness < found[1].badness, found[1].badness < found[0].badness]
    scores = (task.metrics(first, targets, names), task.metrics(second, targets, names))
    assert right[0] is not None
    assert right[1] is not None
    return Comparison(len(targets), scores, bootstrap(len(targets), differences), mcnemar(right[0], right[1]))


def comparison_lines(found: Comparison, numbers: bool) -> Iterator[str]:
    """For people to read. ``numbers``: the models predict numbers."""
    yield f"{'score':<20} {'first':>9} {'second':>9}  second - first (95 % interval)"
    for name, difference in found.differences.items():
        between = f"({difference.low:+.4f} to {difference.high:+.4f})" if math.isfinite(difference.low) else ""
        one, other = (each[name] for each in found.scores)
        yield f"{name:<20} {one:>9.4f} {other:>9.4f}  {difference.value:+.4f} {between}".rstrip()
    what = "nearer" if numbers else "right"
    a, b, p = found.test
    yield (
        f"{'sign test' if numbers else 'McNemar'}: of {found.texts:,} texts the first alone is {what} on {a:,}, the "
        f"second alone on {b:,}; p = {p:.3g}, exact, two-sided"
    )
    yield "the models differ by more than chance" if p < 0.05 else "the difference could be chance"
