"""Runs a kernel's PTX, block after block, with the threads of a block in lock step or in a random order.

Lock step: of all threads of the block that can go on, those that are furthest behind. A random schedule lets some
warps run ahead, others wait; whatever order it takes, a GPU may take it as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.native.ptx import arithmetic, tensor_core
from tests.native.ptx.flags import Flagged, Flags
from tests.native.ptx.memory import Buffer, DeviceError, Memory, OutOfBoundsError, Threads
from tests.native.ptx.program import (
    PARAMETERS_AT,
    SHARED_AT,
    Address,
    Immediate,
    Instruction,
    Operand,
    Program,
    Register,
)

WARP = 32
_RUNS, _AT_BARRIER, _AT_WARP, _ENDED = range(4)  # _AT_WARP: where the threads of a warp do something together
_VECTORS = {"v2": 2, "v4": 4}


class DivergenceError(DeviceError):
    """Threads wait at different places, or for one that has ended."""


class DeviceAssertionError(DeviceError):
    """The kernel's own assertion failed."""


class Device:
    """Buffers and launches."""

    def __init__(self, seed: int | None = None) -> None:
        """``seed`` chooses a random schedule; None: lock step."""
        self.memory = Memory()
        self._random = None if seed is None else np.random.default_rng(seed)
        self._tensors: list[Tensor] = []  # whose memory is in use

    def buffer(self, name: str, tensor: Tensor) -> int:
        """The address of a tensor's memory; a kernel's results are then in the tensor."""
        assert tensor.is_contiguous()
        self._tensors.append(tensor)
        flat = tensor.detach().reshape(-1)
        return self.memory.add(name, flat.view(torch.uint8).numpy() if len(flat) else np.empty(0, np.uint8))

    def launch(
        self, program: Program, blocks: int, threads: int, parameters: bytes,
        *, shared_bytes: int = 0, together: bool = False, absent: int | None = None,
    ) -> list[Flagged]:  # fmt: skip
        """
        Args:
            shared_bytes: of a block, beside what the kernel declares.
            together: the blocks may wait for each other: they take turns.
            absent: a block that never starts.

        Returns:
            What blocks that run together did with flags, in the order in which they did it.

        Raises:
            DeviceError: an access or a wait that a GPU would punish, now or some other day.
        """
        assert len(parameters) == program.parameter_bytes, (len(parameters), program.parameter_bytes)
        self.memory.begin_launch(blocks if together else 1)
        order = np.arange(blocks) if self._random is None else self._random.permutation(blocks)
        flags = Flags(blocks) if together else None

        def block_of(number: np.int64) -> _Block:
            return _Block(program, self.memory, parameters, int(number), blocks, threads, self._random, shared_bytes,
                          flags)  # fmt: skip

        if flags is None:
            for block in order:
                block_of(block).run()
            return []
        left = [block_of(block) for block in order if block != absent]
        while left:
            at = 0 if self._random is None else int(self._random.integers(len(left)))
            block = left.pop(at)
            if block.run_until_it_polls():
                left.append(block)
        return flags.done


class _Block:
    def __init__(
        self, program: Program, memory: Memory, parameters: bytes, block: int, blocks: int, threads: int,
        random: np.random.Generator | None, shared_bytes: int, flags: Flags | None,
    ) -> None:  # fmt: skip
        self.program, self.memory, self.block, self.random, self.flags = program, memory, block, random, flags
        self.known = None if flags is None else np.zeros((threads, blocks), np.int64)
        self.polled = np.zeros(threads, bool)  # threads that have found a flag since another thread of the block ran
        self.parameters = np.frombuffer(parameters, np.uint8)
        shared = np.zeros(program.shared_bytes + shared_bytes, np.uint8)
        self.shared = Buffer("shared memory", 0, shared, np.zeros(len(shared), bool))
        self.place = np.zeros(threads, np.int64)  # of each thread the next instruction
        self.state = np.full(threads, _RUNS)
        self.epoch = 0
        self.labels = set(program.labels.values())
        self.registers: dict[str, NDArray[np.uint64]] = {
            "%tid.x": np.arange(threads, dtype=np.uint64), "%ctaid.x": np.full(threads, block, np.uint64),
            "%ntid.x": np.full(threads, threads, np.uint64), "%nctaid.x": np.full(threads, blocks, np.uint64),
            "%laneid": np.arange(threads, dtype=np.uint64) % WARP,
        }  # fmt: skip
        for axis in "yz":
            for name, value in (("%tid", 0), ("%ctaid", 0), ("%ntid", 1), ("%nctaid", 1)):
                self.registers[f"{name}.{axis}"] = np.full(threads, value, np.uint64)

    def run(self) -> None:
        while self.goes_on():
            pass

    def run_until_it_polls(self) -> bool:
        """Until whoever can run has loaded a flag; whether anyone is left."""
        self.polled[:] = False
        while self.goes_on():
            if self.polled.any() and self.polled[self.state == _RUNS].all():
                return True
        return False

    def goes_on(self) -> bool:
        running = np.flatnonzero((self.state == _RUNS) & ~self.polled)
        if not len(running):
            running = np.flatnonzero(self.state == _RUNS)
        if len(running):
            self.advance(self.chosen(running))
        elif not (self.exchanged() or self.passed_barrier()):
            if (self.state == _ENDED).all():
                return False
            raise DivergenceError(f"block {self.block} of {self.program.name}: threads wait for others for ever")
        return True

    def chosen(self, running: NDArray[np.intp]) -> NDArray[np.intp]:
        """Threads that stand at one instruction."""
        places = self.place[running]
        if self.random is None:
            return running[places == places.min()]
        together = running[places == self.random.choice(np.unique(places))]
        warps = np.unique(together // WARP)
        some = self.random.permutation(warps)[: self.random.integers(1, len(warps) + 1)]
        return together[np.isin(together // WARP, some)]

    def advance(self, lanes: NDArray[np.intp]) -> None:
        """To the end of a stretch without branches, or to where others may wait."""
        instructions, labels = self.program.instructions, self.labels
        for at in itertools.count(int(self.place[lanes[0]])):
            if at == len(instructions):
                self.state[lanes] = _ENDED
                return
            self.place[lanes] = at + 1
            try:
                leaves = self.execute(instructions[at], lanes, at)
            except DeviceError as error:
                where = f"in block {self.block} of {self.program.name}, at {instructions[at].text}"
                raise type(error)(f"{error}; {where}") from None
            if leaves or at + 1 in labels:
                return

    def execute(self, instruction: Instruction, lanes: NDArray[np.intp], at: int) -> bool:
        """Whether some of the threads may now be elsewhere, or wait."""
        if instruction.guard is not None:
            holds = (self.registers[instruction.guard][lanes] != 0) != instruction.negated
            lanes = lanes[holds]
        leaves = True
        if not len(lanes):
            return instruction.name == "bra"
        match instruction.name:
            case "bra":
                assert instruction.target is not None
                self.place[lanes] = self.program.labels[instruction.target]
            case "ret" | "exit":
                self.state[lanes] = _ENDED
            case "bar" if "warp" in instruction.modifiers:
                self.place[lanes], self.state[lanes] = at, _AT_WARP
            case "bar" | "barrier":
                self.place[lanes], self.state[lanes] = at, _AT_BARRIER
            case "shfl" | "mma":
                self.place[lanes], self.state[lanes] = at, _AT_WARP
            case "call" | "trap":
                raise DeviceAssertionError(f"assertion of threads {lanes.tolist()[:4]}")
            case "ld":
                self.load(instruction, lanes)
                leaves = False
            case "st":
                self.store(instruction, lanes)
                leaves = False
            case _:
                self.compute(instruction, lanes)
                leaves = False
        return leaves

    # Values.

    def value(self, operand: Operand, lanes: NDArray[np.intp]) -> NDArray[np.uint64]:
        if isinstance(operand, Immediate):
            return np.full(len(lanes), operand.bits, np.uint64)
        assert isinstance(operand, Register)
        return self.registers[operand.name][lanes]

    def set(self, operand: Operand, lanes: NDArray[np.intp], value: NDArray[Any]) -> None:
        assert isinstance(operand, Register)
        if operand.name not in self.registers:
            self.registers[operand.name] = np.zeros(len(self.place), np.uint64)
        self.registers[operand.name][lanes] = value

    def compute(self, instruction: Instruction, lanes: NDArray[np.intp]) -> None:
        to, *of = instruction.operands
        half = arithmetic.width(instruction.modifiers[-1]) // 2
        if isinstance(to, tuple):  # a value's parts
            (whole,) = (self.value(x, lanes) for x in of)
            for part, register in enumerate(to):
                self.set(register, lanes, arithmetic.cut(whole >> np.uint64(part * half), half))
        elif isinstance(of[0], tuple):  # a value from its parts
            low, high = (self.value(x, lanes) for x in of[0])
            self.set(to, lanes, low | (high << np.uint64(half)))
        else:
            values = [self.value(x, lanes) for x in of]
            self.set(to, lanes, arithmetic.compute(instruction.name, instruction.modifiers, values))

    # Memory.

    def access(self, address: Operand, lanes: NDArray[np.intp]) -> tuple[NDArray[np.uint64], Threads]:
        assert isinstance(address, Address)
        numbers = self.block * len(self.place) + lanes.astype(np.int64)
        at = self.value(address.base, lanes) + np.uint64(address.offset % (1 << 64))
        return at, Threads(numbers, self.block, self.epoch, None if self.known is None else self.known[lanes])

    def load(self, instruction: Instruction, lanes: NDArray[np.intp]) -> None:
        to, address = instruction.operands
        kind = instruction.modifiers[-1]
        registers = to if isinstance(to, tuple) else (to,)
        size = max(arithmetic.width(kind) // 8, 1)
        at, by = self.access(address, lanes)
        bytes_ = size * len(registers)
        if "param" in instruction.modifiers or (at >= PARAMETERS_AT).all():
            places = (at - np.uint64(PARAMETERS_AT)).astype(np.int64)[:, None] + np.arange(bytes_)
            if (places < 0).any() or (places >= len(self.parameters)).any():
                raise OutOfBoundsError(f"{bytes_} bytes beyond the parameters")
            raw = self.parameters[places]
        elif "shared" in instruction.modifiers:
            raw = self.shared.load(self.in_shared(at, bytes_), bytes_, by)
        elif "acquire" in instruction.modifiers or "relaxed" in instruction.modifiers:
            raw = self.memory.load_atomic(at, bytes_)
            self.polled[lanes] = True
            if "acquire" in instruction.modifiers:
                self.acquired(lanes, at)
        else:
            raw = self.memory.load(at, bytes_, by)
        padded = np.zeros((len(lanes), 8), np.uint8)
        for part, register in enumerate(registers):
            padded[:, :size] = raw[:, part * size : (part + 1) * size]
            value = padded.copy().view(np.uint64)[:, 0]
            self.set(register, lanes, arithmetic.whole(value, kind).view(np.uint64) if kind[0] == "s" else value)

    def store(self, instruction: Instruction, lanes: NDArray[np.intp]) -> None:
        address, of = instruction.operands
        size = max(arithmetic.width(instruction.modifiers[-1]) // 8, 1)
        parts = of if isinstance(of, tuple) else (of,)
        at, by = self.access(address, lanes)
        raw = np.concatenate(
            [np.ascontiguousarray(self.value(x, lanes)).view(np.uint8).reshape(-1, 8)[:, :size] for x in parts], axis=1
        )
        if "shared" in instruction.modifiers:
            self.shared.store(self.in_shared(at, raw.shape[1]), raw, by)
        elif "release" in instruction.modifiers or "relaxed" in instruction.modifiers:
            self.memory.store_atomic(at, raw)
            if "release" in instruction.modifiers:
                self.released(lanes, at, self.value(parts[0], lanes))
        else:
            self.memory.store(at, raw, by)

    # Order between blocks that run together. An epoch of a block is what lies between two of its barriers.

    def acquired(self, lanes: NDArray[np.intp], at: NDArray[np.uint64]) -> None:
        if self.flags is None or self.known is None:
            raise NotImplementedError("acquire, in a launch whose blocks do not run together")
        for lane, address in zip(lanes, at, strict=True):
            self.known[lane] = np.maximum(self.known[lane], self.flags.load(self.block, int(address)))

    def released(self, lanes: NDArray[np.intp], at: NDArray[np.uint64], values: NDArray[np.uint64]) -> None:
        if self.flags is None or self.known is None:
            raise NotImplementedError("release, in a launch whose blocks do not run together")
        for lane, address, value in zip(lanes, at, values, strict=True):
            known = self.known[lane].copy()
            known[self.block] = self.epoch  # what the block did before its last barrier
            self.flags.store(self.block, int(address), int(value), known)

    def learn(self, lanes: NDArray[np.intp] | slice) -> None:
        """These threads have met: each knows what any of them knew."""
        if self.known is not None:
            self.known[lanes] = self.known[lanes].max(axis=0)

    def in_shared(self, at: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
        offsets = (at - np.uint64(SHARED_AT)).astype(np.int64)
        if (offsets < 0).any() or (offsets + size > len(self.shared.data)).any():
            raise OutOfBoundsError(f"{size} bytes beyond a block's shared memory of {len(self.shared.data)}")
        return offsets

    # Waiting.

    def passed_barrier(self) -> bool:
        waits = self.state == _AT_BARRIER
        if not waits.any():
            return False
        if not waits.all() or len(np.unique(self.place)) > 1:
            raise DivergenceError(f"block {self.block} of {self.program.name}: a barrier that not every thread reaches")
        self.epoch += 1
        self.learn(slice(None))
        self.place += 1
        self.state[:] = _RUNS
        return True

    def exchanged(self) -> bool:
        """Whether some warp's shuffle or product has all the threads that it names."""
        done = False
        for first in np.unique(np.flatnonzero(self.state == _AT_WARP) // WARP) * WARP:
            lanes = np.arange(first, min(first + WARP, len(self.place)))
            waiting = lanes[self.state[lanes] == _AT_WARP]
            instruction = self.program.instructions[int(self.place[waiting[0]])]
            here = waiting[self.place[waiting] == self.place[waiting[0]]]
            what = {"mma": "tensor cores' product", "bar": "warp's barrier"}.get(instruction.name, "shuffle")
            if instruction.name == "mma":
                named = first + np.arange(WARP)
            elif instruction.name == "bar":
                members = int(self.value(instruction.operands[0], waiting[:1])[0]) & (1 << WARP) - 1
                named = first + np.flatnonzero((members >> np.arange(WARP)) & 1)
            else:
                members = int(self.value(instruction.operands[4], waiting[:1])[0])
                named = first + np.flatnonzero((members >> np.arange(WARP)) & 1)
            if not np.array_equal(np.intersect1d(named, here), named):
                raise DivergenceError(
                    f"block {self.block} of {self.program.name}: a {what} names threads that do not come to it"
                )
            match instruction.name:
                case "mma":
                    self.multiply(instruction, here)
                case "bar":
                    self.learn(here)
                case _:
                    self.shuffle(instruction, here, first)
            self.place[here] += 1
            self.state[here] = _RUNS
            done = True
        return done

    def shuffle(self, instruction: Instruction, here: NDArray[np.intp], first: int) -> None:
        to, of, by, limits, _ = instruction.operands
        values = np.zeros(len(self.place), np.uint64)
        values[here] = self.value(of, here)
        sources = _sources(instruction.modifiers, here % WARP, self.value(by, here), self.value(limits, here))
        self.set(to, here, values[first + sources])

    def multiply(self, instruction: Instruction, warp: NDArray[np.intp]) -> None:
        def registers(operand: Operand) -> list[NDArray[np.uint64]]:
            assert isinstance(operand, tuple)
            return [self.value(register, warp) for register in operand]

        to, *of = instruction.operands
        assert isinstance(to, tuple)
        results = tensor_core.multiply_add(instruction.modifiers, *(registers(operand) for operand in of))
        for register, value in zip(to, results, strict=True):
            self.set(register, warp, value)


def _sources(
    modifiers: Sequence[str], lane: NDArray[np.intp], by: NDArray[np.uint64], limits: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Of each lane the one whose value it takes, as PTX defines it."""
    lane, step, limits = (x.astype(np.int64) for x in (lane, by, limits))
    segment = (limits >> 8) & 31
    last, first = (lane & segment) | (limits & ~segment & 31), lane & segment
    if "up" in modifiers:
        other = lane - step
        inside = other >= last
    else:
        other = (
            lane ^ step if "bfly" in modifiers else lane + step if "down" in modifiers else first | (step & ~segment)
        )
        inside = other <= last
    return np.where(inside, other, lane)
