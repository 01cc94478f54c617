"""The errors that are the input's fault or training's, not the program's: one readable line each."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used; the message names it and says what to do."""


class InputWarning(UserWarning):
    """Input that can be used, but hardly as it was meant; the message says what to do."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted; the message says how to go on from the last step."""


class TrainingDivergedError(RuntimeError):
    """The loss, a gradient or a weight became NaN or infinite. The last good checkpoint is untouched."""
