"""Ours: classifiers on one or several language models, whose probabilities are averaged."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.label_words import template_of, words_of
from benchmarks.accuracy.models import Options, Probabilities
from benchmarks.accuracy.runs import weights_checksum
from ulmfit_fast import (
    ClassifierConfig,
    FinetuneLMConfig,
    SelfTrainingConfig,
    finetune_classifier,
    finetune_lm,
    self_train,
)
from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.tasks.hold_out import hold_out
from ulmfit_fast.training.trained import TrainedClassifier

OF_A_RUN = ("seed", "embedding_size", "hidden_size", "num_layers", "tokenizer", "vocab_size", "direction")


class Ours:
    """Settings: any field of ClassifierConfig; members (trainings on each language model, each with a seed of its own);
    valid_fraction (share of the labelled texts that choose the best epoch; 0: the last epoch counts); int8 (1: predict
    by the quantized model, which takes a third of the time).
    """

    def __init__(self, options: Options) -> None:
        self.folders: Sequence[Path] = options.lm
        names = [f.name for f in fields(ClassifierConfig) if f.name not in OF_A_RUN]
        known = {**dict.fromkeys(names), "members": 1, "valid_fraction": 0.0, "int8": 0}
        given = options.given(**known)
        self.members, self.valid_fraction = given.pop("members"), given.pop("valid_fraction")
        self.int8 = bool(given.pop("int8"))
        self.config = {name: value for name, value in given.items() if name in options.settings}
        self.waived_seconds = 0.0

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        kept, held_out = list(range(len(texts))), []
        if self.valid_fraction:
            kept, held_out = (rows.tolist() for rows in hold_out(len(texts), self.valid_fraction, seed, labels))
        valid: dict[str, Any] = {}
        if held_out:
            valid = {"valid_texts": [texts[i] for i in held_out], "valid_labels": [labels[i] for i in held_out]}
        self.trained: list[TrainedClassifier] = [
            finetune_classifier(
                [texts[i] for i in kept], [labels[i] for i in kept], folder,
                ClassifierConfig(**self.config, seed=seed * 100 + member), progress=False, **valid,
            )
            for folder in self.folders for member in range(self.members)
        ]  # fmt: skip
        self.classes = [str(label) for label in self.trained[0].labels]

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        precision = "float32" if self.int8 else self.config.get("precision", "float32")
        documents = texts if isinstance(texts, list) else list(texts)
        found = [
            predict_probabilities(
                c.model.quantize() if self.int8 else c.model, c.tokenizer, c.task, documents, precision=precision
            )
            for c in self.trained
        ]
        mean: Probabilities = np.mean(found, axis=0)
        return mean


def _settings_of(prefix: str, options: Options) -> tuple[dict[str, Any], Options]:
    """The settings with a prefix, without it; and the options with the others."""
    own = {name.removeprefix(prefix): value for name, value in options.settings.items() if name.startswith(prefix)}
    rest = {name: value for name, value in options.settings.items() if not name.startswith(prefix)}
    return own, replace(options, settings=rest)


class OursSelfTrained(Ours):
    """With ``self_train``: all language models label together, and ``members`` means nothing.

    Settings: those of ``Ours``; any field of SelfTrainingConfig with "self." before it; words (1: the probe that labels
    first knows how much the language model expects each label's words after a text).
    """

    def __init__(self, options: Options) -> None:
        own, rest = _settings_of("self.", options)
        self.words = bool(rest.settings.pop("words", 0))
        self.data_set = options.data_set
        super().__init__(rest)
        self.self_training = SelfTrainingConfig(**own)

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        known = set(texts)
        more = [text for text in unlabeled() if text not in known]
        config = ClassifierConfig(**self.config, seed=seed * 100)
        by_words: dict[str, Any] = {}
        if self.words:
            by_words = {"label_words": words_of(self.data_set, labels), "templates": template_of(self.data_set)}
        self.trained = self_train(
            texts, labels, more, list(self.folders), self.self_training, config, progress=False, **by_words
        ).models
        self.classes = [str(label) for label in self.trained[0].labels]


class OursPretrained(Ours):
    """The same after ``finetune_lm`` on the unlabelled texts, done once for all draws.

    Settings: those of ``Ours``, and any field of FinetuneLMConfig with "lm." before it.
    """

    def __init__(self, options: Options) -> None:
        own, rest = _settings_of("lm.", options)
        super().__init__(rest)
        self.pretrained, self.cache = options.pretrained, options.cache / "language-models"
        self.lm_config = FinetuneLMConfig(**own)

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        corpus = unlabeled()
        self.folders = [self._finetuned(folder, corpus) for folder in self.pretrained]
        super().fit(texts, labels, unlabeled, seed)

    def _finetuned(self, folder: Path, corpus: list[str]) -> Path:
        """The folder of the fine-tuned model, made where there is none; an interrupted training goes on."""
        content = hashlib.sha256(json.dumps([weights_checksum(folder), asdict(self.lm_config)]).encode())
        for text in corpus:
            content.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
        output = self.cache / content.hexdigest()[:24]
        finished = output / "seconds.json"
        if not finished.exists():
            start = time.perf_counter()
            output.parent.mkdir(parents=True, exist_ok=True)
            finetune_lm(corpus, folder, self.lm_config, output=output, resume=True, progress=False)
            write_atomically(finished, json.dumps(time.perf_counter() - start))
        else:
            self.waived_seconds += json.loads(finished.read_text())
        return output
