"""Several processes that train one model: who they are, what they tell each other, and how they end together.

``torchrun`` starts them, ``joined`` lets them find each other, and ``current`` says who this one is. Outside of
``joined`` a process is alone, whatever other libraries have set up.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ulmfit_fast.core.errors import InputError, ProcessLostError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells the processes that it starts
_SLOWEST = timedelta(minutes=30)  # a collective operation in which one process waits for another
_POLL_S = 0.05
_SPOKEN = "spoken"
_LOST = re.compile(
    r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|Socket|TCPStore|recvValue|timed? ?out", re.IGNORECASE
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(eq=False)
class Processes:
    """The processes of a run, as one of them sees them.

    Every method that tells the others something must be called by all of them, in the same order.

    Args:
        rank: of this process, from 0.
        size: how many there are.
        store: what they find each other by; None where there is one process.
    """

    rank: int = 0
    size: int = 1
    store: Any = None
    _turns: int = field(default=0, init=False)
    _noted: bool = field(default=False, init=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    @property
    def interrupted(self) -> bool:
        """Whether a signal has asked this process to stop (within ``noting_signals``)."""
        return self._noted

    def share(self, count: int) -> range:
        """This process's part of ``count`` things of the same size; parts differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, in place: the same bits everywhere."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, *facts: bool) -> list[bool]:
        """Which of the facts are true for some process."""
        if self.size == 1:
            return list(facts)
        counts = torch.tensor(facts, dtype=torch.int32, device="cpu")
        dist.all_reduce(counts)
        return [count > 0 for count in counts.tolist()]

    def wait_for_all(self) -> None:
        """Goes on when all processes have come here."""
        self.any(False)

    def check_interruption(self) -> None:
        """Raises KeyboardInterrupt in all processes, if a signal has asked one of them to stop."""
        if self.any(self.interrupted)[0]:
            raise KeyboardInterrupt

    def agree(self, *numbers: int) -> bool:
        """Whether all processes have the same numbers."""
        if self.size == 1:
            return True
        both = torch.tensor([*numbers, *(-number for number in numbers)], dtype=torch.int64, device="cpu")
        dist.all_reduce(both, dist.ReduceOp.MAX)
        highest, lowest = both.chunk(2)
        return bool((highest == -lowest).all())

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Each process's tensor, all of one shape, on the CPU."""
        tensor = tensor.detach().cpu().contiguous()
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor)
        return found

    def gather_rows(self, rows: Tensor, own: range, count: int) -> Tensor:
        """[count, ...] of which each process has its ``own`` rows, on the CPU."""
        rows = rows.detach().cpu()
        if self.size == 1:
            return rows
        # Sums with zeros are exact, whatever the processes' numbers of rows are.
        exact = torch.float64 if rows.dtype == torch.float64 else torch.float32
        whole = torch.zeros(count, *rows.shape[1:], dtype=exact, device="cpu")
        whole[own.start : own.stop] = rows
        dist.all_reduce(whole)
        return whole.to(rows.dtype)

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The block is run by the first process, and only then by the others, which can be hours later.

        Raises:
            ProcessLostError: in the others, where the first has raised something.
        """
        if self.size == 1:
            yield
            return
        self._turns += 1
        key = f"turn/{self._turns}"
        if self.is_first:
            try:
                yield
            except BaseException:
                self.store.set(key, "failed")
                raise
            self.store.set(key, "done")
            return
        while not self.store.check([key]):  # torch's own waiting hears no signal
            time.sleep(_POLL_S)
        if self.store.get(key) != b"done":
            raise ProcessLostError("the first process has ended with an error")
        yield

    def may_speak(self) -> bool:
        """Whether this process is the first to have an error to tell; the others' would say the same, or follow it."""
        if self.size == 1:
            return True
        try:
            return bool(self.store.add(_SPOKEN, 1) == 1)
        except RuntimeError:  # the store has gone with the process that kept it
            return True

    @contextlib.contextmanager
    def noting_signals(self) -> Iterator[None]:
        """Within the block Ctrl-C, SIGTERM and SIGHUP are noted in ``interrupted``: all are to stop at one step.

        Those without a handler stay as they are, and so does everything where there is one process. What is noted too
        late for the others to be told comes at the end of the block.
        """
        if self.size == 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        taken = [number for number in _SIGNALS if callable(before[number])]

        waiting: list[Any] = []

        def note(*arguments: Any) -> None:
            self._noted = True
            waiting.append(arguments)

        for number in taken:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])
            self._noted = False
        if waiting:
            handler: Any = before[waiting[0][0]]
            handler(*waiting[0])

    @contextlib.contextmanager
    def naming_losses(self) -> Iterator[None]:
        """Within the block torch's errors of a lost connection become ``ProcessLostError``."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
                raise
            raise ProcessLostError("another process of the run has ended, or no longer answers") from error


ALONE = Processes()
_joinings = itertools.count()  # of this process: keys of an earlier one must not count
_current: ContextVar[Processes] = ContextVar("ulmfit_fast processes", default=ALONE)


def current() -> Processes:
    """The processes that this one trains with."""
    return _current.get()


def were_started() -> bool:
    """Whether ``torchrun``, or something that says the same, has started this process as one of several."""
    return all(name in os.environ for name in NEEDED) and os.environ["WORLD_SIZE"] != "1"


@contextlib.contextmanager
def joined(backend: str | None = None) -> Iterator[Processes]:
    """Within the block the processes that ``torchrun`` started train together; alone where there are no others.

    Those of a machine with GPUs take one each. A process group that exists already is used, and kept.

    Args:
        backend: torch's; None: gloo, on GPUs with nccl.

    Raises:
        InputError: what torchrun says cannot be used.
    """
    if not were_started() or current().size > 1:
        yield current()
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    made = not dist.is_initialized()
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=_SLOWEST))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the processes that torchrun started do not find each other: {error}") from None
    # What an attempt before a restart has left in the store must not count, addresses above all.
    attempt, joining = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), next(_joinings)
    store = dist.PrefixStore(f"ulmfit_fast/{attempt}/{joining}", store)
    if made:
        chosen = backend or ("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
        dist.init_process_group(chosen, store=store, rank=rank, world_size=size, timeout=_SLOWEST)
    token = _current.set(Processes(rank, size, dist.PrefixStore("own", store)))
    try:
        yield current()
    finally:
        _current.reset(token)
        if made and dist.is_initialized():
            dist.destroy_process_group()


def share_of_sizes(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Positions of things of these sizes in so many parts, of about the same sum: the largest first, to the emptiest.

    A part keeps the order; one may be empty where there are fewer things than parts.
    """
    sums, found = [0] * parts, [[] for _ in range(parts)]  # type: ignore[var-annotated]
    for position in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        part = min(range(parts), key=lambda i: (sums[i], len(found[i]), i))
        found[part].append(position)
        sums[part] += sizes[position]
    return [sorted(part) for part in found]
