"""A command that ``torchrun`` has started several times: its processes train together, and one of them speaks."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.inputs import STANDARD, can_be_read_again

if TYPE_CHECKING:
    from ulmfit_fast.core.distributed import Processes  # with torch, which some commands do without

TRAINING = ("pretrain-lm", "finetune-lm", "train")
_PATIENCE_S = 3.0
_RESTARTS = "TORCHELASTIC_RESTART_COUNT"


def under_torchrun() -> bool:
    """Whether ``torchrun`` has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def was_restarted() -> bool:
    """Whether ``torchrun`` has started it again, after a process was lost: what was begun is to go on."""
    return int(os.environ.get(_RESTARTS, "0")) > 0


class Together:
    """The processes that run a command.

    Args:
        processes: those of a training that ``torchrun`` started; else None.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        self.processes = processes

    def may_speak(self) -> bool:
        """Whether this process is to tell of its error: of several that fail together, the first to ask."""
        return self.processes is None or self.processes.may_speak()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """The command itself: all but the first process print nothing."""
        if self.processes is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.processes.naming_losses())
            if not self.processes.is_first:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            yield


@contextlib.contextmanager
def together(arguments: Sequence[str]) -> Iterator[Together]:
    """Joins the processes that ``torchrun`` started.

    Raises:
        InputError: a command that is not for several processes; what torchrun says cannot be used.
    """
    if not under_torchrun():
        yield Together()
        return
    if not arguments or arguments[0] not in TRAINING:
        if os.environ.get("RANK") != "0":  # one process says it, whom torchrun ends as soon as another has ended
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_PATIENCE_S)
            os._exit(2)
        raise InputError(f"torchrun starts {', '.join(TRAINING[:-1])} and {TRAINING[-1]}; start others without it")
    from ulmfit_fast.core.distributed import joined

    with joined() as processes:
        yield Together(processes)


def _is_there(path: Path) -> bool:
    return str(path) == STANDARD or path.exists()


def refuse_pipes(*paths: Path | None) -> None:
    """An error if several processes would read one pipe."""
    for path in paths:
        if under_torchrun() and path is not None and _is_there(path) and not can_be_read_again(path):
            raise InputError(f"{path}: several processes cannot read one pipe; write it to a file first")
