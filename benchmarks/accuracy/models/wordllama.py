"""wordllama's static vectors (256 numbers a token, taken from large models' embeddings) and a logistic regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import safetensors.numpy
from tokenizers import Tokenizer

from benchmarks.accuracy.embeddings import Vectors
from benchmarks.accuracy.models import Options, Probabilities
from benchmarks.accuracy.models.logistic import fit_logistic
from benchmarks.accuracy.models.minilm import package_folder

WEIGHTS, TOKENIZER = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"


class WordLlama:
    """A text is the mean of its tokens' vectors. Its files are read here, as 0.4.0 looks for one in a wrong folder."""

    def __init__(self, options: Options) -> None:
        options.given()
        folder = package_folder("wordllama")
        self.embedding = safetensors.numpy.load_file(folder / WEIGHTS)["embedding.weight"].astype(np.float32)
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.waived_seconds = 0.0

    def vectors(self, texts: Sequence[str]) -> Vectors:
        found = np.zeros((len(texts), self.embedding.shape[1]), dtype=np.float32)
        for start in range(0, len(texts), 1_000):
            encoded = self.tokenizer.encode_batch(list(texts[start : start + 1_000]), add_special_tokens=False)
            for row, one in enumerate(encoded, start):
                if one.ids:
                    found[row] = self.embedding[np.minimum(one.ids, len(self.embedding) - 1)].mean(0)
        return found

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        self.regression, _ = fit_logistic(self.vectors(texts), labels, seed, standardize=True)
        self.classes = list(self.regression.classes_)

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        found: Probabilities = self.regression.predict_proba(self.vectors(texts))
        return found
