"""Memory of the machine that runs PTX: every access is within one buffer, aligned, and in no race with another.

Two accesses to a byte by different threads, one of which writes, are a race unless a barrier of their block stands
between them. Nothing orders threads of different blocks within a launch, but for launches whose blocks run together:
there what a thread stored with release has ordered, as far as the other has loaded it with acquire.
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
    known: NDArray[np.int64] | None = None  # [lanes, blocks] of blocks that run together: epochs before it are over

    @property
    def stamp(self) -> int:
        return self.block * EPOCHS + self.epoch

    def some(self, lanes: NDArray[np.intp]) -> Threads:
        known = None if self.known is None else self.known[lanes]
        return Threads(self.number[lanes], self.block, self.epoch, known)

    def after(self, stamp: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of each lane and byte whether an access of another block is ordered before this one."""
        if self.known is None:
            return np.zeros(stamp.shape, bool)
        return np.take_along_axis(self.known, stamp // EPOCHS, axis=1) > stamp % EPOCHS


@dataclass
class Buffer:
    name: str
    begin: int
    data: NDArray[np.uint8]
    written: NDArray[np.bool_] | None = None  # where reading what nobody wrote is a fault
    writer: NDArray[np.int64] = field(init=False)  # of each byte the last one in this launch
    writer_stamp: NDArray[np.int64] = field(init=False)
    reader: NDArray[np.int64] = field(init=False)  # [1, bytes], or of each of the blocks that run together
    reader_stamp: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self, together: int = 1) -> None:
        """A launch begins: whatever came before it is over. ``together``: its blocks, if they run together."""
        self.writer, self.writer_stamp = np.full(len(self.data), _NOBODY, np.int64), np.zeros(len(self.data), np.int64)
        self.reader = np.full((together, len(self.data)), _NOBODY, np.int64)
        self.reader_stamp = np.zeros_like(self.reader)

    def load(self, offsets: NDArray[np.int64], size: int, by: Threads) -> NDArray[np.uint8]:
        """[lanes, size] bytes."""
        places = offsets[:, None] + np.arange(size)
        if self.written is not None and not self.written[places].all():
            raise UninitialisedError(f"{self.name} is read where nobody has written")
        self._check(places, by, self.writer, self.writer_stamp, "written")
        readers = np.broadcast_to(by.number[:, None], places.shape)
        reader, reader_stamp = self._readers(by)
        last, stamp = reader[places], reader_stamp[places]
        elsewhere = (last != _NOBODY) & (stamp // EPOCHS != by.block)
        together = (last != _NOBODY) & (stamp == by.stamp) & (last != readers)
        new = np.where(together, _SEVERAL_THREADS, readers)
        new = np.where(elsewhere | (last == _SEVERAL_BLOCKS), _SEVERAL_BLOCKS, new)
        order = np.argsort(places, axis=None, kind="stable")
        flat, who = places.ravel()[order], new.ravel()[order]
        shared = np.zeros(len(flat), bool)  # bytes that several of these lanes read
        shared[1:] |= flat[1:] == flat[:-1]
        shared[:-1] |= flat[1:] == flat[:-1]
        reader[flat] = np.where(shared & (who >= 0), _SEVERAL_THREADS, who)
        reader_stamp[places] = by.stamp
        return self.data[places]

    def _readers(self, by: Threads) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        of = by.block if len(self.reader) > 1 else 0
        return self.reader[of], self.reader_stamp[of]

    def store(self, offsets: NDArray[np.int64], values: NDArray[np.uint8], by: Threads) -> None:
        """``values``: [lanes, size] bytes."""
        places = offsets[:, None] + np.arange(values.shape[1])
        if len(np.unique(places)) < places.size:
            raise RaceError(f"{self.name}: two threads write one byte at once")
        self._check(places, by, self.writer, self.writer_stamp, "written")
        for reader, reader_stamp in zip(self.reader, self.reader_stamp, strict=True):
            self._check(places, by, reader, reader_stamp, "read")
        self.data[places] = values
        self.writer[places] = by.number[:, None]
        self.writer_stamp[places] = by.stamp
        if self.written is not None:
            self.written[places] = True

    def _check(
        self, places: NDArray[np.int64], by: Threads, who: NDArray[np.int64], when: NDArray[np.int64], what: str
    ) -> None:
        last, stamp = who[places], when[places]
        unordered = (stamp == by.stamp) | ((stamp // EPOCHS != by.block) & ~by.after(stamp))
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

    def begin_launch(self, together: int = 1) -> None:
        for buffer in self._buffers:
            buffer.forget(together)

    def load(self, addresses: NDArray[np.uint64], size: int, by: Threads) -> NDArray[np.uint8]:
        result = np.empty((len(addresses), size), np.uint8)
        for buffer, lanes, offsets in self._found(addresses, size):
            result[lanes] = buffer.load(offsets, size, by.some(lanes))
        return result

    def store(self, addresses: NDArray[np.uint64], values: NDArray[np.uint8], by: Threads) -> None:
        for buffer, lanes, offsets in self._found(addresses, values.shape[1]):
            buffer.store(offsets, values[lanes], by.some(lanes))

    def load_atomic(self, addresses: NDArray[np.uint64], size: int) -> NDArray[np.uint8]:
        """What no access can be in a race with, but one that is not atomic."""
        result = np.empty((len(addresses), size), np.uint8)
        for buffer, lanes, offsets in self._found(addresses, size):
            result[lanes] = buffer.data[offsets[:, None] + np.arange(size)]
        return result

    def store_atomic(self, addresses: NDArray[np.uint64], values: NDArray[np.uint8]) -> None:
        for buffer, lanes, offsets in self._found(addresses, values.shape[1]):
            buffer.data[offsets[:, None] + np.arange(values.shape[1])] = values[lanes]

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
