"""Memory of the machine that runs PTX: every access is within one buffer, aligned, and in no race with another.

Two accesses to a byte by different threads, one of which writes, are a race unless a barrier of their block stands
between them. Nothing orders threads of different blocks within a launch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

EPOCHS = 1 << 32  # barriers of a block, at most
_NOBODY, _SEVERAL_THREADS, _SEVERAL_BLOCKS = -1, -2, -3


class DeviceError(Exception):
    """What a GPU would answer with an error, or not notice at all."""


class OutOfBoundsError(DeviceError): ...


class MisalignedError(DeviceError): ...


class UninitialisedError(DeviceError): ...


class RaceError(DeviceError): ...


@dataclass(frozen=True)
class Threads:
    """Who accesses: numbers within the launch, and the place of each between its block's barriers."""

    number: NDArray[np.int64]
    block: int
    epoch: int

    @property
    def stamp(self) -> int:
        return self.block * EPOCHS + self.epoch


@dataclass
class Buffer:
    name: str
    begin: int
    data: NDArray[np.uint8]
    written: NDArray[np.bool_] | None = None  # where reading what nobody wrote is a fault
    writer: NDArray[np.int64] = field(init=False)  # of each byte the last one in this launch
    writer_stamp: NDArray[np.int64] = field(init=False)
    reader: NDArray[np.int64] = field(init=False)
    reader_stamp: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A launch begins: whatever came before it is over."""
        self.writer, self.reader = (np.full(len(self.data), _NOBODY, np.int64) for _ in range(2))
        self.writer_stamp, self.reader_stamp = (np.zeros(len(self.data), np.int64) for _ in range(2))

    def load(self, offsets: NDArray[np.int64], size: int, by: Threads) -> NDArray[np.uint8]:
        """[lanes, size] bytes."""
        places = offsets[:, None] + np.arange(size)
        if self.written is not None and not self.written[places].all():
            raise UninitialisedError(f"{self.name} is read where nobody has written")
        self._check(places, by, self.writer, self.writer_stamp, "written")
        readers = np.broadcast_to(by.number[:, None], places.shape)
        last, stamp = self.reader[places], self.reader_stamp[places]
        elsewhere = (last != _NOBODY) & (stamp // EPOCHS != by.block)
        together = (last != _NOBODY) & (stamp == by.stamp) & (last != readers)
        new = np.where(together, _SEVERAL_THREADS, readers)
        new = np.where(elsewhere | (last == _SEVERAL_BLOCKS), _SEVERAL_BLOCKS, new)
        order = np.argsort(places, axis=None, kind="stable")
        flat, who = places.ravel()[order], new.ravel()[order]
        shared = np.zeros(len(flat), bool)  # bytes that several of these lanes read
        shared[1:] |= flat[1:] == flat[:-1]
        shared[:-1] |= flat[1:] == flat[:-1]
        self.reader[flat] = np.where(shared & (who >= 0), _SEVERAL_THREADS, who)
        self.reader_stamp[places] = by.stamp
        return self.data[places]

    def store(self, offsets: NDArray[np.int64], values: NDArray[np.uint8], by: Threads) -> None:
        """``values``: [lanes, size] bytes."""
        places = offsets[:, None] + np.arange(values.shape[1])
        if len(np.unique(places)) < places.size:
            raise RaceError(f"{self.name}: two threads write one byte at once")
        self._check(places, by, self.writer, self.writer_stamp, "written")
        self._check(places, by, self.reader, self.reader_stamp, "read")
        self.data[places] = values
        self.writer[places] = by.number[:, None]
        self.writer_stamp[places] = by.stamp
        if self.written is not None:
            self.written[places] = True

    def _check(
        self, places: NDArray[np.int64], by: Threads, who: NDArray[np.int64], when: NDArray[np.int64], what: str
    ) -> None:
        last, stamp = who[places], when[places]
        unordered = (stamp == by.stamp) | (stamp // EPOCHS != by.block)
        race = (last != _NOBODY) & (last != by.number[:, None]) & (unordered | (last == _SEVERAL_BLOCKS))
        if race.any():
            lane, byte = np.argwhere(race)[0]
            raise RaceError(
                f"{self.name}: thread {by.number[lane]} accesses byte {places[lane, byte]}, {what} by thread "
                f"{last[lane, byte]} with no barrier between"
            )


class Memory:
    """The device's memory. Between buffers are gaps, so that whatever leaves one is found."""

    _FIRST, _ALIGN = 1 << 20, 256

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._begins: list[int] = []

    def add(self, name: str, data: NDArray[np.uint8]) -> int:
        """Address of a buffer over ``data``, which is written in place."""
        last = self._buffers[-1] if self._buffers else None
        end = self._FIRST if last is None else last.begin + len(last.data)
        begin = -(-end // self._ALIGN) * self._ALIGN + 16 * self._ALIGN
        self._buffers.append(Buffer(name, begin, data))
        self._begins.append(begin)
        return begin

    def begin_launch(self) -> None:
        for buffer in self._buffers:
            buffer.forget()

    def load(self, addresses: NDArray[np.uint64], size: int, by: Threads) -> NDArray[np.uint8]:
        result = np.empty((len(addresses), size), np.uint8)
        for buffer, lanes, offsets in self._found(addresses, size):
            result[lanes] = buffer.load(offsets, size, Threads(by.number[lanes], by.block, by.epoch))
        return result

    def store(self, addresses: NDArray[np.uint64], values: NDArray[np.uint8], by: Threads) -> None:
        for buffer, lanes, offsets in self._found(addresses, values.shape[1]):
            buffer.store(offsets, values[lanes], Threads(by.number[lanes], by.block, by.epoch))

    def _found(
        self, addresses: NDArray[np.uint64], size: int
    ) -> list[tuple[Buffer, NDArray[np.intp], NDArray[np.int64]]]:
        at = addresses.astype(np.int64)
        if (at % size).any():
            raise MisalignedError(f"{size} bytes at {int(at[at % size != 0][0]):#x}")
        index = np.searchsorted(np.array(self._begins), at, side="right") - 1
        found = []
        for number in np.unique(index):
            lanes = np.flatnonzero(index == number)
            buffer = self._buffers[max(number, 0)]
            offsets = at[lanes] - buffer.begin
            outside = (offsets < 0) | (offsets + size > len(buffer.data))
            if outside.any():
                raise OutOfBoundsError(
                    f"{size} bytes at {int(offsets[outside][0])} of {buffer.name}, which has {len(buffer.data)}"
                )
            found.append((buffer, lanes, offsets))
        return found
