"""Predictions in a loop while a classifier is trained beside them: ``python -m tools.soak [--minutes M]``.

Threads predict random batches with one model, its int8 copy and streams, and compare each result with what was
computed before the loop, bit for bit. Another thread trains a classifier again and again, whose predictions must be the
same each time; its folder is written, loaded and removed. Once in a while the process's memory is noted. It ends with
status 1 where a result differed or memory grew.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.tiny import make_task
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.training.config import ClassifierConfig, PretrainConfig

_GROWTH = 48 << 20  # bytes that the second half may need beyond the first; the allocator's own
_SIZES = {"embedding_size": 100, "hidden_size": 300, "num_layers": 2, "min_frequency": 1}


@dataclass
class Soak:
    """What happens, as far as it has happened."""

    wrong: list[str] = field(default_factory=list)
    predictions: int = 0
    trainings: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)  # (seconds, bytes resident)
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, predictions: int = 0, trainings: int = 0) -> None:
        with self.lock:
            self.predictions += predictions
            self.trainings += trainings

    def fail(self, what: str) -> None:
        self.wrong.append(what)
        self.ended.set()


def fitted(seed: int) -> ULMFiTClassifier:
    texts, labels = make_task(60, seed)
    config = ClassifierConfig(**_SIZES, epochs=1, batch_size=16, bptt=20, seed=seed)  # type: ignore[arg-type]
    language_model = PretrainConfig(**_SIZES, epochs=1, batch_size=8, bptt=20, seed=seed)  # type: ignore[arg-type]
    return ULMFiTClassifier(pretrain_config=language_model, classifier_config=config, progress=False).fit(texts, labels)


def predict(soak: Soak, clf: ULMFiTClassifier, texts: list[str], expected: np.ndarray, seed: int) -> None:
    random = np.random.default_rng(seed)
    while not soak.ended.is_set():
        chosen = random.permutation(len(texts))[: int(random.integers(1, 40))]
        if not np.array_equal(clf.predict_proba([texts[i] for i in chosen]), expected[chosen]):
            soak.fail(f"thread {seed}: a batch of {len(chosen)} has other probabilities")
        soak.count(len(chosen))


def stream(soak: Soak, clf: ULMFiTClassifier, texts: list[str], expected: np.ndarray) -> None:
    random = np.random.default_rng(0)
    while not soak.ended.is_set():
        i, reader = int(random.integers(len(texts))), clf.stream()
        for word in texts[i].split(" "):
            reader.feed(word + " ")
        if not np.array_equal(reader.predict_proba(), expected[i]):
            soak.fail(f"text {i}, read word by word, has other probabilities")
        soak.count(1)


def train(soak: Soak) -> None:
    first: np.ndarray | None = None
    texts, _ = make_task(20, seed=9)
    while not soak.ended.is_set():
        with tempfile.TemporaryDirectory() as folder:
            fitted(1).save(Path(folder) / "clf")
            found = ULMFiTClassifier.load(Path(folder) / "clf").predict_proba(texts)
        if first is not None and not np.array_equal(first, found):
            soak.fail("a training with the same seed has other probabilities")
        first = found
        soak.count(trainings=1)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def watch(soak: Soak, minutes: float) -> None:
    begun = time.monotonic()
    step = min(60.0, 60 * minutes / 20)
    while not soak.ended.wait(step):
        gc.collect()
        soak.memory.append((time.monotonic() - begun, resident()))
        seconds, now = soak.memory[-1]
        print(
            f"{seconds:6.0f} s: {soak.predictions:,} predictions, {soak.trainings:,} trainings, {now >> 20} MiB",
            flush=True,
        )
        if seconds >= 60 * minutes:
            soak.ended.set()


def growth(memory: list[tuple[float, int]]) -> int:
    """By how much the most of the second half is above the most of the first, the beginning left out."""
    sizes = [size for _, size in memory[len(memory) // 10 :]]
    half = len(sizes) // 2
    return max(sizes[half:]) - max(sizes[:half]) if half else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=3, help="that predict with the float32 model")
    given = parser.parse_args()
    texts, _ = make_task(200, seed=5)
    clf = fitted(0)
    int8 = clf.quantize()
    expected, expected_int8 = clf.predict_proba(texts), int8.predict_proba(texts)
    words = [" ".join(text.split()) + " " for text in texts]
    soak = Soak()
    work = [threading.Thread(target=predict, args=(soak, clf, texts, expected, i)) for i in range(given.threads)]
    work += [
        threading.Thread(target=predict, args=(soak, int8, texts, expected_int8, 100)),
        threading.Thread(target=stream, args=(soak, clf, words, clf.predict_proba(words))),
        threading.Thread(target=train, args=(soak,)),
    ]
    threading.excepthook = lambda failure: soak.fail(f"{failure.exc_type.__name__}: {failure.exc_value}")
    for thread in work:
        thread.start()
    try:
        watch(soak, given.minutes)
    finally:
        soak.ended.set()
        for thread in work:
            thread.join()
    grown = growth(soak.memory)
    for wrong in soak.wrong:
        print(f"WRONG: {wrong}")
    print(f"{soak.predictions:,} predictions, {soak.trainings:,} trainings, memory grew by {grown / (1 << 20):.1f} MiB")
    return 1 if soak.wrong or grown > _GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
