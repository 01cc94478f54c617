"""Vectors of texts on disk, as an encoder that is not trained gives them once for all draws of labels.

What computing them took is kept beside them, so that a run that finds them reports the seconds of one that does not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]
TEXTS_IN_A_FILE = 512


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class EmbeddingCache:
    """Vectors by text, in files of some hundred texts: an interrupted run loses one file's work.

    Args:
        folder: one for each encoder; its name must say all that the vectors depend on.
        encode: texts to vectors [n, features].
    """

    def __init__(self, folder: Path, encode: Encode) -> None:
        self.folder, self.encode = folder, encode
        self.waived_seconds = (
            0.0  # what the vectors that were found, instead of computed, so far took when they were not
        )
        self._known: dict[bytes, tuple[Vectors, float]] = {}
        self._read: set[str] = set()

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """[len(texts), features] in the order of the texts."""
        self._read_files()
        names = [digest(text) for text in texts]
        missing = {name: text for name, text in zip(names, texts, strict=True) if name not in self._known}
        self.waived_seconds += sum(self._known[name][1] for name in names if name not in missing)
        # Texts of about one length share a batch, so that little of it is padding.
        ordered = sorted(missing.items(), key=lambda item: len(item[1]))
        for start in range(0, len(ordered), TEXTS_IN_A_FILE):
            self._compute(ordered[start : start + TEXTS_IN_A_FILE])
        return np.stack([self._known[name][0] for name in names])

    def _compute(self, items: list[tuple[bytes, str]]) -> None:
        start = time.perf_counter()
        vectors = self.encode([text for _, text in items]).astype(np.float32)
        seconds = np.full(len(items), (time.perf_counter() - start) / len(items))
        names = np.frombuffer(b"".join(name for name, _ in items), dtype=np.uint8).reshape(-1, 16)
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{hashlib.sha256(names.tobytes()).hexdigest()[:24]}.npz"
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, names=names, vectors=vectors, seconds=seconds)
        partial.replace(target)
        self._read_files()

    def _read_files(self) -> None:
        for path in sorted(self.folder.glob("*.npz")):
            if path.name in self._read:
                continue
            with np.load(path) as file:
                rows = zip(file["names"], file["vectors"], file["seconds"], strict=True)
                self._known |= {name.tobytes(): (vector, float(seconds)) for name, vector, seconds in rows}
            self._read.add(path.name)
