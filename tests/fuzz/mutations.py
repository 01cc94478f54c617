"""Damage: to bytes, to JSON, to texts. Everything is drawn from a ``random.Random``, so a seed repeats a case."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

_INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\n",
    b"\r",
    b'"',
    b"{",
    b"[",
    b"\\u0000",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
)
NUMBERS = (
    0, 1, -1, 2, 7, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 32) - 1, 1 << 32, (1 << 53) + 1,
    (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64, 10**40, 0.0, -0.0, 0.5, 1.5, -1e308, 1e308, 5e-324, float("nan"),
    float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = (
    "", " ", "a", "0", "true", "null", "\x00", "\n", "\ud800", "é", "中" * 9, "👩‍👩‍👧", "xxbos", "xxpad", "xxunk",
    "x" * 300,
    "../../etc/passwd", "/dev/zero", "float32", "int8", "O", "<f8", "__class__", "ulmfit_fast", "%s%n", "{0}", "<b>",
    "\u202e", "a\tb", '"', "\\",
)  # fmt: skip


def damaged(random: Random, data: bytes) -> bytes:
    """A few random edits: bits, bytes, numbers, pieces that go, come twice or change places; an end that is cut off."""
    edited = bytearray(data)
    for _ in range(_few(random)):
        random.choice(_EDITS)(random, edited)
    return bytes(edited)


def _few(random: Random) -> int:
    return min(1 + int(random.expovariate(0.7)), 12)


def _span(random: Random, data: bytearray) -> tuple[int, int]:
    first = random.randrange(len(data) + 1)
    return first, min(len(data), first + 1 + int(random.expovariate(0.1)))


def _flip(random: Random, data: bytearray) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(random: Random, data: bytearray) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def _insert(random: Random, data: bytearray) -> None:
    place = random.randrange(len(data) + 1)
    data[place:place] = random.choice((*_INTERESTING, random.randbytes(random.randrange(9))))


def _number(random: Random, data: bytearray) -> None:
    size = random.choice((1, 2, 4, 8))
    if len(data) >= size:
        place = random.randrange(len(data) - size + 1)
        value = random.choice((0, 1, -1, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1, random.getrandbits(8 * size)))
        data[place : place + size] = (value % (1 << 8 * size)).to_bytes(size, random.choice(("little", "big")))


def _remove(random: Random, data: bytearray) -> None:
    first, after = _span(random, data)
    del data[first:after]


def _repeat(random: Random, data: bytearray) -> None:
    first, after = _span(random, data)
    data[after:after] = data[first:after] * random.choice((1, 1, 2, 50))


def _move(random: Random, data: bytearray) -> None:
    first, after = _span(random, data)
    piece = data[first:after]
    del data[first:after]
    place = random.randrange(len(data) + 1)
    data[place:place] = piece


def _cut(random: Random, data: bytearray) -> None:
    del data[random.randrange(len(data) + 1) :]


_EDITS: tuple[Callable[[Random, bytearray], None], ...] = (
    _flip, _flip, _set, _set, _insert, _insert, _number, _number, _remove, _repeat, _move, _cut,
)  # fmt: skip


def damaged_json(random: Random, value: Any) -> Any:
    """A copy of a JSON value in which a few places hold another value, other keys, or nothing."""
    edited = [copy.deepcopy(value)]
    for _ in range(_few(random)):
        places = list(_places(edited))
        holder, key = random.choice(places)
        _edit(random, holder, key)
        if not edited:
            edited = [None]
    return edited[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a value: what holds it, and its key there. Of long lists and dicts the first few and the last."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    for key in keys if len(keys) < 40 else [*keys[:20], *keys[-20:]]:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _edit(random: Random, holder: Any, key: Any) -> None:
    match random.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder.pop(key)
        case 2:
            other, place = random.choice(list(_places(holder)))
            holder[key] = copy.deepcopy(other[place])
        case 3 if isinstance(holder, list):
            holder[key:key] = [copy.deepcopy(holder[key])] * random.choice((1, 2, 30))
        case 4 if isinstance(holder[key], int | float):
            holder[key] = holder[key] + random.choice((-1, 1, 0.5)) if abs(holder[key]) < 1e9 else -holder[key]
        case _:
            holder[key] = any_json(random)


def any_json(random: Random, depth: int = 2) -> Any:
    """Any JSON value, the unusual ones as often as the usual."""
    match random.randrange(7 if depth else 5):
        case 0:
            return random.choice((None, True, False))
        case 1 | 2:
            return random.choice(NUMBERS)
        case 3 | 4:
            return any_text(random)
        case 5:
            return [any_json(random, depth - 1) for _ in range(random.randrange(4))]
    return {any_text(random): any_json(random, depth - 1) for _ in range(random.randrange(4))}


def any_text(random: Random) -> str:
    if random.random() < 0.6:
        return random.choice(TEXTS)
    return "".join(
        chr(random.choice((random.randrange(32, 127), random.randrange(0xD800)))) for _ in range(random.randrange(20))
    )
