"""Every order in which the blocks of a persistent launch can take their steps, explored state by state.

The protocol is that of csrc/cuda/persistent_flags.h, with its own numbers (`Numbers`). Flags are atomic; what one block
writes of h for others is not. Memory may reorder as it likes: two accesses to a part of h, one of which writes, must be
ordered by release and acquire or by a block's own barriers (vector clocks). Of a flag the oldest value is seen that
ends a wait, from which one knows least. So whatever a reordering could show is found as an access without order.

Run as a program it explores larger launches than the tests do: `python -m tests.native.persistent_model`.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("c++") or shutil.which("g++")
_SOURCE = """
#include "csrc/cuda/persistent_flags.h"
using namespace ulmfit_fast::cuda;
extern "C" uint32_t published(uint32_t before, int64_t s) { return published_after(before, s); }
extern "C" uint32_t awaited(uint32_t before, int64_t s) { return awaited_before(before, s); }
extern "C" int written(int64_t s) { return half_written(s); }
extern "C" int read(int64_t s) { return half_read(s); }
"""


class ProtocolError(AssertionError):
    """An order of steps that the protocol allows and must not."""


@dataclass(frozen=True)
class Numbers:
    """Functions of a step: its flag's value, the one awaited before it, the half of the buffer it writes and reads."""

    published: Callable[[int, int], int]
    awaited: Callable[[int, int], int]
    written: Callable[[int], int]
    read: Callable[[int], int]


@cache
def header() -> Numbers:
    """Those that the kernel is compiled with."""
    assert COMPILER is not None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "numbers.cpp", Path(folder) / "numbers.so"
        source.write_text(_SOURCE)
        command = [COMPILER, "-std=c++20", "-shared", "-fPIC", f"-I{ROOT}", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(str(library))
    integer, epoch = ctypes.c_int64, ctypes.c_uint32
    for name in ("published", "awaited"):
        getattr(loaded, name).argtypes, getattr(loaded, name).restype = [epoch, integer], epoch
    for name in ("written", "read"):
        getattr(loaded, name).argtypes = [integer]
    return Numbers(loaded.published, loaded.awaited, loaded.written, loaded.read)


@dataclass(frozen=True)
class Launch:
    """What is explored.

    Attributes:
        blocks: of a group; each owns a slice.
        warps: of a block. Warp w reads the slices whose number is w modulo the warps, as the depth is shared.
        steps: all of them.
        before: steps of the call's launches before this one.
        flags: what the flags hold at the beginning, `before` if they are right.
        absent: a block that never becomes resident.
        patience: polls are given up "never"; when nothing else can happen ("long"); at any time ("short").
        fine: each access to h is a step of its own, not taken together with those around it.
        acquire, release, barriers: False plants a fault. barriers: that after reading, that after writing.
    """

    blocks: int
    warps: int
    steps: int
    numbers: Numbers = field(default_factory=header)
    before: int = 0
    flags: int | None = None
    absent: int | None = None
    patience: str = "long"
    fine: bool = False
    acquire: bool = True
    release: bool = True
    barriers: tuple[bool, bool] = (True, True)


class Thread(NamedTuple):
    """A warp: where it is, what it knows of each warp's clock, whether it or its block has given up."""

    place: int
    clock: tuple[int, ...]
    lost: bool


class Part(NamedTuple):
    """What one warp writes of a slice, in one half of the buffer: who wrote which step when, who has read it when."""

    writer: int
    at: int
    step: int
    readers: tuple[int, ...]


class State(NamedTuple):
    threads: tuple[Thread, ...]
    flags: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]  # values of each block's flag, with what each releases
    parts: tuple[Part, ...]
    gave_up: bool


@dataclass(frozen=True)
class Found:
    states: int
    ended: int  # of them those in which every block has ended
    gave_up: bool  # whether in one of them a wait was given up


class Model:
    def __init__(self, launch: Launch) -> None:
        self.launch, self.count = launch, launch.blocks * launch.warps
        self.programs = [list(self._program(*divmod(thread, launch.warps))) for thread in range(self.count)]

    def _program(self, block: int, warp: int) -> Iterator[tuple[Any, ...]]:
        launch, numbers = self.launch, self.launch.numbers
        for step in range(launch.steps):
            if step > 0:
                slices = range(warp, launch.blocks, launch.warps)
                for other in slices:
                    if other != block:
                        yield "await", other, numbers.awaited(launch.before, step)
                for other in slices:
                    for part in range(launch.warps):
                        yield "read", self._part(numbers.read(step), other, part), step - 1
            if launch.barriers[0]:
                yield ("meet",)
            yield "write", self._part(numbers.written(step), block, warp), step
            if launch.barriers[1]:
                yield ("meet",)
            if warp == 0:
                yield "publish", block, numbers.published(launch.before, step)
        yield ("end",)

    def _part(self, half: int, block: int, warp: int) -> int:
        return (half * self.launch.blocks + block) * self.launch.warps + warp

    def first(self) -> State:
        launch, nothing = self.launch, (0,) * self.count
        threads = []
        for thread in range(self.count):
            clock = tuple(int(other == thread) for other in range(self.count))
            absent = thread // launch.warps == launch.absent
            threads.append(Thread(len(self.programs[thread]) - 1 if absent else 0, clock, False))
        held = launch.before if launch.flags is None else launch.flags
        flags = (((held, nothing),),) * launch.blocks
        return self._run_on(State(tuple(threads), flags, (Part(-1, 0, -1, nothing),) * (2 * self.count), False))

    def explore(self) -> Found:
        """
        Raises:
            ProtocolError: with the steps that lead there.
        """
        first = self.first()
        came_from: dict[State, tuple[State, str] | None] = {first: None}
        left, ended, gave_up = [first], 0, False
        while left:
            state = left.pop()
            try:
                following = list(self._following(state))
            except ProtocolError as error:
                raise ProtocolError(f"{error}; after {self._path(came_from, state)}") from None
            if not following:
                if not all(self._instruction(state, thread)[0] == "end" for thread in range(self.count)):
                    raise ProtocolError(f"nobody can go on; after {self._path(came_from, state)}")
                ended += 1
                gave_up |= state.gave_up
            for what, new in following:
                if new not in came_from:
                    came_from[new] = state, what
                    left.append(new)
        return Found(len(came_from), ended, gave_up)

    @staticmethod
    def _path(came_from: dict[State, tuple[State, str] | None], state: State) -> str:
        steps = []
        at = came_from[state]
        while at is not None:
            steps.append(at[1])
            at = came_from[at[0]]
        return ", ".join(reversed(steps)) or "nothing"

    def _instruction(self, state: State, thread: int) -> tuple[Any, ...]:
        return self.programs[thread][state.threads[thread].place]

    def _following(self, state: State) -> list[tuple[str, State]]:
        launch, found = self.launch, []
        waits = []
        for thread in range(self.count):
            name, *of = self._instruction(state, thread)
            who = f"{thread // launch.warps}.{thread % launch.warps}"
            if name == "await":
                seen = [message for message in state.flags[of[0]] if message[0] >= of[1]]
                if seen:  # the oldest, from which it knows least: what is right then is right with the later ones
                    found.append((f"{who} sees {seen[0][0]} of {of[0]}", self._awaited(state, thread, seen[0][1])))
                waits.append((f"{who} gives up", thread))
            elif name == "publish":
                found.append((f"{who} publishes {of[1]}", self._published(state, thread, *of)))
            elif name in ("read", "write"):  # where they are steps of their own
                found.append((f"{who} {name}s", self._run_on(state, thread)))
            elif name == "meet" and thread % launch.warps == 0:
                block = range(thread, thread + launch.warps)
                if all(self._instruction(state, other)[0] == "meet" for other in block):
                    found.append((f"{who.split('.')[0]} meets", self._met(state, block)))
        if launch.patience == "short" or (launch.patience == "long" and not found):
            found += [(what, self._given_up(state, thread)) for what, thread in waits]
        return found

    # What a step makes of a state.

    def _awaited(self, state: State, thread: int, released: tuple[int, ...]) -> State:
        of = state.threads[thread]
        clock = tuple(map(max, of.clock, released)) if self.launch.acquire else of.clock
        return self._run_on(self._with(state, thread, of._replace(place=of.place + 1, clock=clock)))

    def _published(self, state: State, thread: int, block: int, epoch: int) -> State:
        of = state.threads[thread]
        released = of.clock if self.launch.release else (0,) * self.count
        flags = list(state.flags)
        flags[block] = (*flags[block], (epoch, released))
        later = self._with(state._replace(flags=tuple(flags)), thread, self._ticked(of, thread))
        return self._run_on(later)

    def _met(self, state: State, block: range) -> State:
        clock = tuple(map(max, *(state.threads[other].clock for other in block), (0,) * self.count))
        lost = any(state.threads[other].lost for other in block)
        for other in block:
            of = self._ticked(state.threads[other]._replace(clock=clock), other)
            if lost:  # all of the block see it, and leave
                of = of._replace(place=len(self.programs[other]) - 1)
            state = self._with(state, other, of)
        return self._run_on(state)

    def _given_up(self, state: State, thread: int) -> State:
        of = state.threads[thread]
        later = self._with(state._replace(gave_up=True), thread, of._replace(place=of.place + 1, lost=True))
        return self._run_on(later)

    @staticmethod
    def _ticked(of: Thread, thread: int) -> Thread:
        clock = tuple(time + (other == thread) for other, time in enumerate(of.clock))
        return of._replace(place=of.place + 1, clock=clock)

    @staticmethod
    def _with(state: State, thread: int, of: Thread) -> State:
        return state._replace(threads=(*state.threads[:thread], of, *state.threads[thread + 1 :]))

    def _run_on(self, state: State, one: int | None = None) -> State:
        """Accesses to h up to where others matter: no order among them is lost, as each is compared with all before."""
        for thread in range(self.count) if one is None else (one,):
            while self._instruction(state, thread)[0] in ("read", "write"):
                if self.launch.fine and one is None:
                    break
                name, *of = self._instruction(state, thread)
                state = self._read(state, thread, *of) if name == "read" else self._write(state, thread, *of)
                at = state.threads[thread]
                state = self._with(state, thread, at._replace(place=at.place + 1))
                if self.launch.fine:
                    break
        return state

    def _read(self, state: State, thread: int, number: int, step: int) -> State:
        of, part = state.threads[thread], state.parts[number]
        if of.lost:  # nobody uses what it reads
            return state
        if part.writer >= 0 and of.clock[part.writer] < part.at:
            raise ProtocolError(f"warp {thread} reads what warp {part.writer} writes of step {part.step}: a race")
        if part.step != step:
            raise ProtocolError(f"warp {thread} reads step {part.step} for {step}")
        readers = tuple(of.clock[thread] if other == thread else at for other, at in enumerate(part.readers))
        return self._with_part(state, number, part._replace(readers=readers))

    def _write(self, state: State, thread: int, number: int, step: int) -> State:
        of, part = state.threads[thread], state.parts[number]
        if part.writer >= 0 and of.clock[part.writer] < part.at:
            raise ProtocolError(f"warp {thread} overwrites what warp {part.writer} writes: a race")
        for other, at in enumerate(part.readers):
            if of.clock[other] < at:
                raise ProtocolError(f"warp {thread} overwrites step {part.step}, which warp {other} reads: a race")
        return self._with_part(state, number, Part(thread, of.clock[thread], step, (0,) * self.count))

    @staticmethod
    def _with_part(state: State, number: int, part: Part) -> State:
        return state._replace(parts=(*state.parts[:number], part, *state.parts[number + 1 :]))


def explore(blocks: int, warps: int, steps: int, **options: Any) -> Found:
    return Model(Launch(blocks, warps, steps, **options)).explore()


def main() -> None:
    largest: list[tuple[int, int, int, dict[str, Any]]] = [
        (2, 1, 50, {}), (2, 4, 5, {}), (3, 1, 12, {}), (3, 2, 5, {}), (4, 1, 4, {}), (5, 1, 3, {}),
        (2, 2, 5, {"fine": True}), (3, 1, 4, {"fine": True}), (4, 1, 4, {"absent": 3}),
        (3, 1, 3, {"patience": "short"}),
    ]  # fmt: skip
    for blocks, warps, steps, options in largest:
        began = time.perf_counter()
        found = explore(blocks, warps, steps, **options)
        sys.stdout.write(
            f"{blocks} blocks of {warps} warps, {steps} steps {options or ''}: {found.states} states, "
            f"{time.perf_counter() - began:.1f} s\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
