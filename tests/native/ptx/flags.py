"""What blocks of one launch tell each other by stores with release and loads with acquire."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Flagged(NamedTuple):
    """A block stored a value with release, or (None) loaded one with acquire."""

    block: int
    address: int
    value: int | None


class Flags:
    """Of each address what its last store has released: of each block the epochs that are over before it."""

    def __init__(self, blocks: int) -> None:
        self.done: list[Flagged] = []
        self._nothing = np.zeros(blocks, np.int64)
        self._released: dict[int, NDArray[np.int64]] = {}

    def load(self, block: int, address: int) -> NDArray[np.int64]:
        self.done.append(Flagged(block, address, None))
        return self._released.get(address, self._nothing)

    def store(self, block: int, address: int, value: int, known: NDArray[np.int64]) -> None:
        self.done.append(Flagged(block, address, value))
        self._released[address] = known
