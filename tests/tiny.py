"""A task and models small enough for a test: texts whose label is plain to see."""

from __future__ import annotations

import numpy as np

from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig

SIZES = {"embedding_size": 12, "hidden_size": 16, "num_layers": 2, "min_frequency": 1}
PRETRAIN = PretrainConfig(**SIZES, batch_size=4, bptt=10, lr=0.02)
FINETUNE = FinetuneLMConfig(batch_size=4, bptt=10, min_frequency=1)
CLASSIFY = ClassifierConfig(
    **SIZES, epochs=8, batch_size=16, bptt=10, lr=0.03, drop_mult=0.1, unfreezing="all",
    discriminative_factor=1.0,
)  # fmt: skip

_WORDS = {"good": ["great", "fine", "lovely", "superb"], "bad": ["poor", "awful", "dull", "weak"]}
_FILLER = ["the", "film", "was", "really", "and", "its", "story", "too"]


def make_task(count: int = 80, seed: int = 0) -> tuple[list[str], list[str]]:
    """(texts, labels): each text has a few words of its label among filler."""
    random = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(count):
        label = ("good", "bad")[i % 2]
        length = int(random.integers(4, 30))
        words = [str(random.choice(_WORDS[label] if random.random() < 0.4 else _FILLER)) for _ in range(length)]
        texts.append(" ".join([*words, str(random.choice(_WORDS[label]))]))
        labels.append(label)
    return texts, labels
