"""The errors that are the input's fault or training's, not the program's: one readable line each."""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """Input that cannot be used; the message names it and says what to do."""


class InputWarning(UserWarning):
    """Input that can be used, but hardly as it was meant; the message says what to do."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted; the message says how to go on from the last step."""


class TrainingDivergedError(RuntimeError):
    """The loss, a gradient or a weight became NaN or infinite. The last good checkpoint is untouched."""


class ProcessLostError(RuntimeError):
    """Another of the processes that train together has ended, with an error of its own or killed."""


def shortened(value: Any, characters: int = 200) -> str:
    """A value or another library's message on one line, its middle left out where it is long."""
    text = " ".join(str(value).split())
    half = characters // 2
    return text if len(text) <= characters else f"{text[:half]} ... {text[-half:]}"
