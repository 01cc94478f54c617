"""What a task is made with besides the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label


@dataclass(frozen=True)
class TaskOptions:
    """How the loss is formed, and how several labels are written.

    Args:
        class_weight: as in ``class_weights``; or "none".
        label_smoothing: in [0, 1), this share of a target's probability goes evenly to all classes.
        focal_gamma: from 0 on; a text counts (1 - p)^gamma, where p is the probability of what it is (Lin et al., arXiv
            1708.02002).
        label_delimiter: between the labels of a text, where they are written as one.
    """

    class_weight: str | Mapping[Label, float] | None = None
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    label_delimiter: str = ";"

    def refuse(self, task: str, *names: str) -> None:
        """Raises InputError where one of these is set, which would do nothing for the task."""
        for name in names:
            if getattr(self, name) not in (None, "none", 0.0):
                raise InputError(f"{name} means nothing for the task {task}; leave it out")
