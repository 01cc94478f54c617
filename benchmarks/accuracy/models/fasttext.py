"""fastText's supervised classifier with pairs of words; Chinese texts as one character a word."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.models import Options, Probabilities

_WORD = re.compile(r"\w+|[^\w\s]")


class FastText:
    """Settings: epoch, lr, wordNgrams, dim of fastText; its tutorial's values but for the epochs, as texts are few."""

    def __init__(self, options: Options) -> None:
        self.settings = options.given(epoch=50, lr=0.5, wordNgrams=2, dim=100)
        self.by_character = options.language == "zh"
        self.waived_seconds = 0.0

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        import fasttext  # type: ignore[import-untyped]

        self.classes = sorted(set(labels))
        number = {label: i for i, label in enumerate(self.classes)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.txt"
            lines = (f"__label__{number[y]} {self._line(text)}\n" for text, y in zip(texts, labels, strict=True))
            path.write_text("".join(lines), encoding="utf-8")
            # One thread: several update the weights without locks, and no seed repeats that.
            self.model: Any = fasttext.train_supervised(
                str(path), seed=seed, thread=1, verbose=0, bucket=500_000, **self.settings
            )

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        found = np.zeros((len(texts), len(self.classes)))
        names, values = self.model.predict([self._line(text) for text in texts], k=-1)
        for row, (own, probabilities) in enumerate(zip(names, values, strict=True)):
            for name, probability in zip(own, probabilities, strict=True):
                found[row, int(name.removeprefix("__label__"))] = probability
        return found

    def _line(self, text: str) -> str:
        words = [character for character in text if not character.isspace()] if self.by_character else (
            _WORD.findall(text.lower())
        )  # fmt: skip
        return " ".join(words) or "empty"
