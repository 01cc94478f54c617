"""The models of a server, by name, each with its batcher; and whether the server is stopping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.explain import methods_of
from ulmfit_fast.inference.serve.batcher import Batcher, Batching
from ulmfit_fast.inference.serve.limits import Limits, RefusedError
from ulmfit_fast.inference.serve.metrics import Metrics
from ulmfit_fast.inference.stream import TextStream


class ServedModel:
    """One model of a server."""

    def __init__(self, name: str, classifiers: Classifiers, service: Service, batching: Batching) -> None:
        self.name, self.classifiers = name, classifiers
        limits, metrics = service.limits, service.metrics
        self.batcher = Batcher(classifiers.activated, batching, limits.queue_texts, metrics.observer(name))
        metrics.of_model(name, lambda: self.batcher.waiting)
        self.no_stream = _why_no_stream(classifiers)

    @property
    def explains(self) -> list[str]:
        """The methods that explain it."""
        return methods_of(self.classifiers.members)

    def description(self) -> dict[str, Any]:
        """As ``schema.ModelAnswer``."""
        task = self.classifiers.task
        return {
            "name": self.name, "task": task.type, "labels": task.labels, "precision": self.classifiers.computes_in,
            "streams": self.no_stream is None, "explains": self.explains,
        }  # fmt: skip

    def stream(self) -> TextStream:
        """Raises RefusedError where the model cannot read piece by piece."""
        if self.no_stream is not None:
            raise RefusedError(422, f"model {self.name}: {self.no_stream}")
        return self.classifiers.stream()

    def predictions(self, activated: np.ndarray, probabilities: bool) -> list[dict[str, Any]]:
        """Each row as ``schema.Prediction``; what is a number in float32 is that number, to the bit."""
        task = self.classifiers.task
        found = [{"prediction": value} for value in task.decode(activated).tolist()]
        confidence = task.confidence(activated)
        if confidence is not None:
            for prediction, value in zip(found, confidence.tolist(), strict=True):
                prediction["confidence"] = value
        if probabilities and task.labels:
            names = [str(label) for label in task.labels]
            for prediction, row in zip(found, activated.tolist(), strict=True):
                prediction["probabilities"] = dict(zip(names, row, strict=True))
        return found


class Service:
    """What the endpoints share.

    Args:
        models: at least one, by name; the first is that of requests that name none.
        limits, batching: of the server, and of each model.
    """

    def __init__(
        self, models: Mapping[str, Classifiers], limits: Limits | None = None, batching: Batching | None = None
    ) -> None:
        self.limits, self.metrics = limits or Limits(), Metrics()
        self.stopping = False
        self.streaming = 0  # texts that are predicted piece by piece now
        self.models = {
            name: ServedModel(name, each, self, batching or Batching()) for name, each in models.items()
        }  # fmt: skip

    def model(self, name: str | None) -> ServedModel:
        """Raises RefusedError where there is none of that name."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RefusedError(404, f"no model {name[:100]!r}; there are {', '.join(self.models)}")
        return self.models[name]

    def check_texts(self, texts: Sequence[str], field: str = "") -> None:
        """Raises RefusedError where there are too many, none, or one that is too long; ``field`` is that of one."""
        if not texts:
            raise RefusedError(422, "texts is empty; give at least one text")
        if len(texts) > self.limits.texts:
            raise RefusedError(413, f"{len(texts):,} texts in a request, at most {self.limits.texts:,}; send several")
        place = max(range(len(texts)), key=lambda place: len(texts[place]))
        size, most = len(texts[place]), self.limits.text_characters
        if size > most:
            raise RefusedError(
                413,
                f"{field or f'texts[{place}]'} has {size:,} characters, at most {most:,}; shorten it, or predict such "
                "texts with the command predict",
            )

    def close(self) -> None:
        for model in self.models.values():
            model.batcher.close()


def _why_no_stream(classifiers: Classifiers) -> str | None:
    """Why a model cannot read piece by piece; None where it can."""
    try:
        classifiers.stream()
    except ValueError as error:
        return str(error)
    return None
