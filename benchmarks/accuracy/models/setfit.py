"""MiniLM fine-tuned as SetFit does: pairs of texts first, of one label or of two, then a logistic regression.

Source: Tunstall et al., *Efficient Few-Shot Learning Without Prompts* (arXiv 2209.11055); all in PyTorch, so that only
transformers is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.accuracy.models import Options, Probabilities
from benchmarks.accuracy.models.logistic import fit_logistic
from benchmarks.accuracy.models.minilm import MiniLM


class SetFit:
    """Settings: pairs (for each text so many with its own label, and as many with another), batch_size (pairs), lr,
    max_tokens, max_steps (0: no limit), bfloat16. SetFit's defaults but for max_steps.
    """

    def __init__(self, options: Options) -> None:
        self.settings = options.given(pairs=20, batch_size=16, lr=2e-5, max_tokens=256, max_steps=0, bfloat16=True)
        self.waived_seconds = 0.0

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        torch.manual_seed(seed)
        self.model = MiniLM(self.settings["max_tokens"])
        size, bfloat16 = self.settings["batch_size"], self.settings["bfloat16"]
        pairs = list(draw_pairs(labels, self.settings["pairs"], seed))
        steps = -(-len(pairs) // size)
        steps = min(steps, self.settings["max_steps"] or steps)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.settings["lr"], weight_decay=0.01)
        warmup = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
        )
        self.model.train()
        for step in range(steps):
            batch = pairs[step * size : (step + 1) * size]
            both = [texts[first] for first, _, _ in batch] + [texts[second] for _, second, _ in batch]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                vectors = self.model(both).float()
            first, second = vectors.split(len(batch))
            target = torch.tensor([same for _, _, same in batch], dtype=torch.float32)
            loss = F.mse_loss((first * second).sum(1), target)  # the vectors are of unit length
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        vectors_of_all = self.model.encode(list(texts), bfloat16)
        self.regression, _ = fit_logistic(vectors_of_all, labels, seed, c=1.0)
        self.classes = list(self.regression.classes_)

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        vectors = self.model.encode([texts[i] for i in order], self.settings["bfloat16"])
        found = np.empty((len(texts), len(self.classes)))
        found[order] = self.regression.predict_proba(vectors)
        return found


def draw_pairs(labels: Sequence[str], count: int, seed: int) -> Iterator[tuple[int, int, bool]]:
    """(text, text, whether of one label), shuffled: for each text ``count`` of either kind."""
    random = np.random.default_rng([31, seed])
    of_label = np.asarray(labels)
    pairs = []
    for i, label in enumerate(labels):
        same = np.flatnonzero(of_label == label)
        other = np.flatnonzero(of_label != label)
        pairs += [(i, int(j), True) for j in random.choice(same, count)]
        pairs += [(i, int(j), False) for j in random.choice(other, count)]
    for k in random.permutation(len(pairs)).tolist():
        yield pairs[k]
