"""Random numbers of a run: it draws from generators of its own, which nobody else draws from or sets.

What draws (dropout masks, DropConnect's seeds, chunk lengths) asks ``current_generator``. Outside of a run that is
None, which torch takes for its own generator, the one that ``torch.manual_seed`` governs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor


class Generators:
    """One generator for each kind of device, made when it is first asked for, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = self._first_seed = seed
        self._of: dict[str, torch.Generator] = {}

    def of(self, device: torch.device | str) -> torch.Generator:
        device = torch.device(device)
        if device.type not in self._of:
            self._of[device.type] = torch.Generator(device).manual_seed(self.seed)
        return self._of[device.type]

    def begin_again(self, *numbers: int) -> None:
        """From a seed that is made of the first one and these numbers, of which the last must not be 0."""
        mixed = np.random.SeedSequence([self._first_seed, *numbers]).generate_state(1, np.uint64)
        self.seed = int(mixed[0] >> np.uint64(1))
        for generator in self._of.values():
            generator.manual_seed(self.seed)

    def state(self) -> dict[str, Tensor]:
        """By kind of device; for ``set_state``."""
        return {kind: generator.get_state() for kind, generator in self._of.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Those of kinds that the state lacks begin again, from the seed."""
        for kind in self._of.keys() - state.keys():
            del self._of[kind]
        for kind, value in state.items():
            if kind == "cpu" or torch.cuda.is_available():
                self.of(kind).set_state(value)


_current: ContextVar[Generators | None] = ContextVar("ulmfit_fast generators", default=None)


@contextlib.contextmanager
def drawing_from(generators: Generators) -> Iterator[None]:
    """Within it, in this thread, everything of this package draws from these generators."""
    token = _current.set(generators)
    try:
        yield
    finally:
        _current.reset(token)


def current_generator(device: torch.device | str) -> torch.Generator | None:
    """The run's generator for ``device``; None outside of a run."""
    generators = _current.get()
    return None if generators is None else generators.of(device)
