"""What the benchmarks of serving and of bulk prediction compute with: a classifier with random weights, and texts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.conftest import SMOKE
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.storage.model_folder import load_classifier, save_model
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.text.tokenizer import Tokenizer

VOCABULARY = 300 if SMOKE else 30_000
PAPER = (16, 24, 2) if SMOKE else (400, 1152, 3)  # embedding, units, layers
SMALL = (16, 24, 2) if SMOKE else (100, 200, 2)
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


@cache
def words() -> list[str]:
    """Words of a made-up language, all different."""
    random = np.random.default_rng(0)
    return ["".join(random.choice(_LETTERS, random.integers(2, 10))) + f"{i:x}" for i in range(VOCABULARY)]


def write_model(folder: Path, sizes: tuple[int, int, int]) -> Path:
    """A classifier's folder; its predictions have no sense, but take as long as any."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_vocabulary(words())
    embedding, units, layers = sizes
    encoder = AWDLSTM(AWDLSTMConfig(len(tokenizer), embedding, units, layers, pad_id=tokenizer.pad_id))
    save_model(folder, TextClassifier(encoder, 2).eval(), tokenizer, SingleLabel(["no", "yes"]))
    return folder


def made_texts(count: int, seed: int = 0, shortest: int = 5, longest: int = 25) -> list[str]:
    """Texts of so many words, by the frequencies that words have."""
    random, vocabulary = np.random.default_rng(seed), np.array(words(), dtype=object)
    lengths = random.integers(shortest, longest + 1, count)
    ranks = np.minimum(random.zipf(1.3, int(lengths.sum())) - 1, VOCABULARY - 1)
    parts = np.split(vocabulary[ranks], np.cumsum(lengths)[:-1])
    return [" ".join(part) for part in parts]


class PlainClassifier(nn.Module):
    """The same model of torch's own layers, for one document: nn.Embedding, nn.LSTM, concat pooling, the head."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        model, self.tokenizer, self.task = load_classifier(folder)
        encoder = model.bpt3c.encoder
        self.embedding = nn.Embedding.from_pretrained(encoder.encoder.weight.detach())  # type: ignore[union-attr,operator]
        self.layers = nn.ModuleList(nn.LSTM(rnn.input_size, rnn.hidden_size) for rnn in encoder.rnns)  # type: ignore[union-attr]
        self.layers.load_state_dict(encoder.rnns.state_dict())  # type: ignore[union-attr,operator]
        self.head = model.head
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).unsqueeze(1)
        for layer in self.layers:
            x = layer(x)[0]
        return self.head(torch.cat([x[-1], x.amax(0), x.mean(0)], dim=1))

    def predict(self, text: str) -> Tensor:
        (ids,) = self.tokenizer.encode([text])
        with torch.inference_mode():
            return self.task.activate(self(torch.from_numpy(ids).long()))[0]
