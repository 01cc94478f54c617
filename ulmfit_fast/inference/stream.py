"""A prediction of a text that still comes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.token_stream import TokenStream
from ulmfit_fast.text.tokenizer import Tokenizer


class TextStream:
    """One text as it comes: pieces in, the prediction so far at any moment, in memory that does not grow.

    The prediction is ``ULMFiTClassifier``'s on all the text so far (in float32), wherever it was cut into pieces.
    ``ULMFiTClassifier.stream`` makes one.
    """

    def __init__(self, model: TextClassifier, tokenizer: Tokenizer, task: Task) -> None:
        self.classes_ = np.asarray(task.labels)
        self._task, self._document, self._tokens = task, model.stream(), TokenStream(tokenizer)

    def feed(self, text: str) -> None:
        """Read more of the text."""
        self._document.feed(self._tokens.feed(text))

    def predict_proba(self) -> np.ndarray:
        """Probability of each class so far, [len(classes_)]; with the task "regression" the number, [1]."""
        logits = self._document.logits(and_then=self._tokens.rest())
        return self._task.activate(logits.float().unsqueeze(0))[0].cpu().numpy()

    def predict(self) -> Any:
        """The prediction so far, as ``ULMFiTClassifier.predict`` says it of a whole text."""
        return self._task.decode(self.predict_proba()[None]).tolist()[0]
