"""Model folders: damaged JSON, headers, tensors, tokenizers; what loads must predict or say why it cannot."""

from __future__ import annotations

import functools
import json
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from tests.fuzz.mutations import any_text, damaged, damaged_json
from tests.fuzz.surface import Case, Surface
from tests.tiny import make_task
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.prediction import evaluate_language_model
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.qrnn import QRNN, QRNNConfig
from ulmfit_fast.storage.model_folder import load_language_model, read_training_args, save_model
from ulmfit_fast.tasks.task import task_of
from ulmfit_fast.text import spacy_tokenizer
from ulmfit_fast.text.spacy_tokenizer import SpacyTokenizer
from ulmfit_fast.text.tokenizer import Tokenizer

TEXTS = ["the film was really great", "", "Dull, POOR and weak!!! <br /> 12 13 14", "\ud83d x\u00a0y\n\nz " * 3]
Files = dict[str, bytes]


def write_anew(folder: Path, files: Files) -> int:
    """A folder with these files alone. Returns their bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return sum(map(len, files.values()))


def files_of(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def damaged_tensors(random: Random, data: bytes) -> bytes:
    """A safetensors file whose header is other JSON, its length true or not; or one with random damage."""
    if random.random() < 0.4:
        return damaged(random, data)
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(damaged_json(random, header)).encode()
    if random.random() < 0.1:
        text = damaged(random, text)
    told = len(text) if random.random() < 0.9 else random.choice((0, 1, len(text) + 1, 1 << 40, (1 << 64) - 1))
    return struct.pack("<Q", told) + text + data[8 + length :]


def damaged_file(random: Random, name: str, data: bytes) -> bytes:
    if name.endswith(".json") and random.random() < 0.8:
        try:
            return json.dumps(damaged_json(random, json.loads(data))).encode()
        except ValueError:  # it was damaged before
            pass
    if name.endswith(".safetensors") and len(data) > 8:
        try:
            return damaged_tensors(random, data)
        except (ValueError, struct.error):
            pass
    return damaged(random, data)


class Models(Surface):
    name = "models"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        spacy_tokenizer._blank = functools.cache(spacy_tokenizer._blank)  # a quarter of all cases' time
        torch.manual_seed(0)
        texts, _ = make_task(60)
        words = Tokenizer.train_words(texts, min_frequency=1)
        tokenizers = {
            "word": words, "backward": words.reading("backward"), "subword": Tokenizer.train_subwords(texts, 60),
            "whitespace": Tokenizer.train_whitespace(texts), "spacy": SpacyTokenizer.of_texts(texts, 60, 1),
        }  # fmt: skip
        self.bases: list[tuple[str, Files]] = []
        for kind, tokenizer in tokenizers.items():
            encoder = AWDLSTM(AWDLSTMConfig(len(tokenizer), 6, 8, 2, pad_id=tokenizer.pad_id))
            self._keep("language_model", LanguageModel(encoder), tokenizer, None)
            task = {
                "word": task_of("single_label", ["bad", "good"], {}), "backward": task_of("multi_label", ["a", "b"]),
                "subword": task_of("regression", []), "whitespace": task_of("ordinal", [1, 2, 3]),
                "spacy": task_of("binary", ["no", "yes"]),
            }[kind]  # fmt: skip
            model = TextClassifier(encoder, task.outputs).eval()
            self._keep("classifier", model, tokenizer, task, stored_as(kind))
            if kind == "word":
                self._keep("classifier", model.quantize(), tokenizer, task)
        encoder = QRNN(QRNNConfig(len(words), 6, 8, 2, pad_id=words.pad_id))
        self._keep("classifier", TextClassifier(encoder, 2).eval(), words, task_of("single_label", ["bad", "good"]))
        self._keep("language_model", LanguageModel(encoder), words, None)
        self.place = folder / "model"

    def _keep(self, kind: str, model: Any, tokenizer: Tokenizer, task: Any, weights: str = "float32") -> None:
        place = self.folder / "base"
        save_model(place, model, tokenizer, task, {"stage": "classifier", "epochs": 3, "lr": 0.01}, weights)
        self.bases.append((kind, files_of(place)))
        shutil.rmtree(place)

    def case(self, random: Random) -> Case:
        kind, base = random.choice(self.bases)
        files = dict(base)
        for _ in range(1 + (random.random() < 0.2)):
            name = random.choice(sorted(files))
            match random.randrange(30):
                case 0:
                    del files[name]
                case 1:
                    files[name] = random.choice(self.bases)[1].get(name, b"")
                case 2:
                    files[name] = b""
                case _:
                    files[name] = damaged_file(random, name, files[name])
        self.size = write_anew(self.place, files)
        texts = [*TEXTS, any_text(random)]
        if kind == "language_model":
            return lambda: self._language_model(texts)
        as_estimator = random.random() < 0.3
        return lambda: self._classifier(texts, as_estimator)

    def _language_model(self, texts: list[str]) -> None:
        model, tokenizer = load_language_model(self.place)
        read_training_args(self.place)
        loss = evaluate_language_model(model, list(tokenizer.encode(texts)), 10, 2)
        tokenizer.decode([0, 5, len(tokenizer) - 1])
        assert isinstance(loss, float)

    def _classifier(self, texts: list[str], as_estimator: bool) -> None:
        if as_estimator:
            clf = ULMFiTClassifier.load(self.place, "cpu")
            predicted: Any = clf.predict(texts)
        else:
            classifiers = Classifiers.load([self.place], "cpu")
            predicted = classifiers.activated(texts)
            classifiers.task.decode(predicted)
            classifiers.task.confidence(predicted)
            assert np.isfinite(predicted).all()
            try:
                stream = classifiers.stream()
            except ValueError:
                stream = None
            if stream is not None:
                stream.feed(texts[2])
                stream.predict_proba()
        assert len(predicted) == len(texts)


def stored_as(kind: str) -> str:
    """How a base's weights are stored: each form once."""
    return {"backward": "float16", "subword": "int8"}.get(kind, "float32")
