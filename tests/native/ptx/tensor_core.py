"""A warp's product on tensor cores: how its lanes hold the operands of PTX's mma.m16n8k16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.native.ptx import arithmetic
from tests.native.ptx.arithmetic import Bits

_ROW, _PAIR = np.divmod(np.arange(32), 4)  # of each lane: "groupID" and "threadID_in_group" of PTX's manual


def multiply_add(modifiers: tuple[str, ...], a: list[Bits], b: list[Bits], c: list[Bits]) -> list[Bits]:
    """d = a b + c: a [16, 16] in four registers a lane, b [16, 8] in two, c and d [16, 8] in four.

    Products are exact and summed in float64; a GPU adds them up in float32 in an order of its own.

    Raises:
        NotImplementedError: another shape or other types.
    """
    *shape, _, kind, of_b, _ = modifiers
    if shape != ["sync", "aligned", "m16n8k16", "row", "col"] or kind != of_b or kind not in ("bf16", "f16"):
        raise NotImplementedError(f"mma.{'.'.join(modifiers)}")
    if modifiers[5] != "f32" or modifiers[8] != "f32":
        raise NotImplementedError("mma with sums in half precision")
    left, right, sums = np.zeros((16, 16)), np.zeros((16, 8)), np.zeros((16, 8))
    for half in (0, 1):
        for register in range(4):
            rows, columns = _ROW + register % 2 * 8, 2 * _PAIR + register // 2 * 8 + half
            left[rows, columns] = _half(a[register], half, kind)
        for register in range(2):
            right[2 * _PAIR + register * 8 + half, _ROW] = _half(b[register], half, kind)
    places = [(_ROW + register // 2 * 8, 2 * _PAIR + register % 2) for register in range(4)]
    for place, value in zip(places, c, strict=True):
        sums[place] = arithmetic.floats(value, "f32")
    result = left @ right + sums
    return [arithmetic.bits_of(result[place], "f32") for place in places]


def _half(pair: Bits, which: int, kind: str) -> NDArray[np.float64]:
    bits = (pair >> np.uint64(16 * which)) & np.uint64(0xFFFF)
    return arithmetic.floats(bits, kind).astype(np.float64)
