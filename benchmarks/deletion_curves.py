"""How fast a prediction falls as the words that explain it are deleted, beside words deleted at random.

    python -m benchmarks.deletion_curves MODEL TABLE [--texts 50] [--method integrated_gradients] [--words 20 2000] \
        [--seed 0]

For each text the words are deleted in the order of their weight for the predicted label, the heaviest first, and in
random order; after each step the share of words that is gone and the mean probability of the label are printed. A
method that knows the words that count has the lower curve. Source: Petsiuk, Das and Saenko, RISE, arXiv 1806.07421
(the deletion game).
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.explain import GRADIENTS, WORDS, explain
from ulmfit_fast.inference.intervals import bootstrap
from ulmfit_fast.inference.prediction import logits_of
from ulmfit_fast.text.files import iterate_texts
from ulmfit_fast.text.spans import words

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # of the words that are deleted


def curves(
    classifiers: Classifiers, texts: Sequence[str], methods: Sequence[str], seed: int = 0
) -> dict[str, np.ndarray]:
    """Of each method and of "random" the label's probabilities, [texts, len(SHARES)]; of a text always the same."""
    ((model, tokenizer, task),) = classifiers.members
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*methods, "random")}
    for text in texts:
        ids, parts = words(tokenizer, text)
        random = np.random.default_rng([seed, zlib.crc32(text.encode())])
        place = None
        for name, rows in found.items():
            order = random.permutation(len(parts))
            if name != "random":
                explanation = explain(classifiers.members, text, name)
                order = np.argsort([-part.weight for part in explanation.parts], kind="stable")
                place = task.labels.index(explanation.label)
            shorter = []
            for share in SHARES:
                gone = [token for part in order[: round(share * len(parts))] for token in parts[part].tokens]
                shorter.append(np.delete(ids, np.array(gone, dtype=np.int64)))
            rows.append(task.activate(logits_of(model, shorter)).numpy()[:, place])
    return {name: np.stack(rows) for name, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--texts", type=int, default=50)
    parser.add_argument("--method", action="append", choices=[GRADIENTS, WORDS])
    parser.add_argument("--words", type=int, nargs=2, default=(20, 2000), help="fewest and most of a text")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    classifiers = Classifiers.load([given.model], "cpu")
    fewest, most = given.words
    usable = (text for text in iterate_texts(given.table) if fewest <= len(text.split()) <= most)
    texts = list(islice(usable, given.texts))
    found = curves(classifiers, texts, given.method or [GRADIENTS], given.seed)
    print(f"probability of the predicted label, mean of {len(texts)} texts, words deleted:")
    print(f"{'':<22}" + "".join(f"{share:>8.0%}" for share in SHARES))
    for name, rows in found.items():
        print(f"{name:<22}" + "".join(f"{value:>8.3f}" for value in rows.mean(0)))
    for name, rows in found.items():
        if name != "random":
            below = np.trapezoid(found["random"] - rows, SHARES, axis=1) / SHARES[-1]
            area = bootstrap(len(texts), lambda places, below=below: {"area": float(below[places].mean())})["area"]
            print(f"{name}: {area.value:.3f} below random ({area.low:.3f} to {area.high:.3f}, 95 %)")


if __name__ == "__main__":
    main()
