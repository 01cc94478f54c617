"""A linear classifier on what a language model has read, fitted in seconds.

With tens or hundreds of labels it is often better than a fine-tuned classifier: the language model stays as it is, so
there is little that could be learned by heart.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError, InputWarning
from ulmfit_fast.few_labels.deviations import deviations
from ulmfit_fast.tasks.task import Task

STRENGTH = 100.0  # of the pull to zero: scikit-learn's C = 0.01, of two classes 0.02, on features of deviation 1
_NEARLY_FLAT = 1e-4  # gradient of the mean loss


class Probe:
    """The linear classifier.

    Args:
        vectors: float32 [n, F], of the texts to learn from.
        targets: their labels, as ``task.encode`` gives them.
        task: says what is fitted.
        weights: what each target counts; None: all alike.
        like: float32 [m, F], vectors of texts like those to predict: features are divided by their deviation there. Few
            labelled texts know it badly.
        emphasis: float [F], by what features of deviation 1 are multiplied; None: by nothing.
        strength: of the pull to zero: ``strength / 2`` times the sum of squares is added to the loss summed over the
            texts.
        rows: int64 [len(targets)], the vector of each target, where a text has several; None: each has its own.

    Attributes:
        task: that it was fitted with.
        mean, scale: float64 [F]; a feature has this mean subtracted and is multiplied by this scale.
        weight, bias: float64 [K, F] and [K], of the features after that.

    Raises:
        InputError: no text counts.
    """

    def __init__(
        self, vectors: np.ndarray, targets: Tensor, task: Task, weights: Tensor | None = None,
        like: np.ndarray | None = None, emphasis: np.ndarray | None = None, strength: float = STRENGTH,
        rows: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.task = task
        everything = vectors if like is None else np.concatenate([vectors, like])
        self.mean = everything.mean(0, dtype=np.float64)
        self.scale = (1.0 if emphasis is None else emphasis) / deviations(everything)
        self.weight, self.bias = self._fit(self._standardized(vectors), targets, weights, strength, rows)

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """What the task activates of these, float32 [n, ...]."""
        return self.task.activate(self.logits(vectors).float()).numpy()

    def logits(self, vectors: np.ndarray) -> Tensor:
        """Float64 [n, K]."""
        return self._standardized(vectors) @ self.weight.T + self.bias

    def _standardized(self, vectors: np.ndarray) -> Tensor:
        return torch.from_numpy((vectors - self.mean) * self.scale)

    def _fit(
        self, x: Tensor, targets: Tensor, weights: Tensor | None, strength: float, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        weight = torch.zeros(self.task.outputs, x.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(self.task.outputs, dtype=torch.float64, requires_grad=True)
        descent = torch.optim.LBFGS(
            [weight, bias], max_iter=1000, line_search_fn="strong_wolfe", tolerance_grad=1e-7, tolerance_change=1e-12
        )
        counted = self.task.weight(targets, weights)
        if not counted > 0:
            raise InputError("the weights of texts and classes leave nothing to learn from: all are 0")
        pull = strength / 2 / counted

        def loss() -> Tensor:
            descent.zero_grad()
            logits = x @ weight.T + bias
            of_targets = logits if rows is None else logits[rows]
            value = self.task.loss(of_targets, targets, weights) + pull * weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            descent.step(loss)
        steepest = max(float(x.grad.abs().max()) for x in (weight, bias) if x.grad is not None)
        if not steepest < _NEARLY_FLAT:
            warnings.warn(
                f"the linear classifier was not fitted to the end (gradient {steepest:.1g}); a larger strength helps",
                InputWarning,
                stacklevel=4,
            )
        return weight.detach(), bias.detach()
