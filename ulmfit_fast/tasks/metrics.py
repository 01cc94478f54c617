"""The scores that tasks measure, by the names that records, curves and options give them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a score is read.

    Args:
        greater_is_better: whether a higher one is a better one.
        is_share: whether it lies between 0 and 1.
    """

    greater_is_better: bool = True
    is_share: bool = True


METRICS: dict[str, Metric] = {"accuracy": Metric()}
