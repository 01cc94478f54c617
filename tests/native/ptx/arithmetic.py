"""What PTX's arithmetic instructions compute, for the lanes of one instruction at a time.

A register's value is its bits, in the upper part zero: uint64 for each lane. Approximate instructions are computed
better than a GPU does it, within what tests allow for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
_FLOATS = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
_COMPARE = {"eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
_LOGIC: dict[str, Callable[..., Any]] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def width(kind: str) -> int:
    """Bits of a type."""
    return 1 if kind == "pred" else int(kind.lstrip("usbf"))


def floats(bits: Bits, kind: str) -> NDArray[Any]:
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.astype(f"u{width(kind) // 8}").view(_FLOATS[kind])


def bits_of(values: NDArray[Any], kind: str) -> Bits:
    if kind == "bf16":
        wide = values.astype(np.float32)
        raw = wide.view(np.uint32)
        rounded = (raw + np.uint32(0x7FFF) + ((raw >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.where(np.isnan(wide), np.uint32(0x7FFF), rounded).astype(np.uint64)
    return values.astype(_FLOATS[kind]).view(f"u{width(kind) // 8}").astype(np.uint64)


def whole(bits: Bits, kind: str) -> NDArray[Any]:
    """As int64 or uint64."""
    n = width(kind)
    if kind[0] != "s":
        return bits & np.uint64((1 << n) - 1)
    shift = np.int64(64 - n)
    return (bits.view(np.int64) << shift) >> shift


def cut(values: NDArray[Any], bits: int) -> Bits:
    return values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).view(np.uint64) & np.uint64(
        (1 << bits) - 1
    )


def compute(name: str, modifiers: tuple[str, ...], values: list[Bits]) -> Bits:
    """The result of an instruction that touches no memory and waits for nobody.

    Raises:
        NotImplementedError: one that no kernel has used so far.
    """
    kind = modifiers[-1]
    if name in ("mov", "cvta"):
        return cut(values[0], width(kind))
    if name == "selp":
        return cut(np.where(values[2] != 0, values[0], values[1]), width(kind))
    if name == "setp":
        return _compared(modifiers, values, kind)
    if name == "cvt":
        return _converted(modifiers, values[0])
    if kind in (*_FLOATS, "bf16"):
        with np.errstate(all="ignore"):
            return bits_of(_floating(name, modifiers, [floats(x, kind) for x in values], kind), kind)
    return _integer(name, modifiers, values, kind)


def _compared(modifiers: tuple[str, ...], values: list[Bits], kind: str) -> Bits:
    how = modifiers[0]
    if kind[0] == "f":
        a, b = (floats(x, kind) for x in values[:2])
        unordered = np.isnan(a) | np.isnan(b)
        if how in ("nan", "num"):
            result = unordered == (how == "nan")
        elif how == "ne":
            result = (a != b) & ~unordered
        elif how == "neu":
            result = (a != b) | unordered
        elif how in _COMPARE:
            result = _COMPARE[how](a, b) & ~unordered
        else:
            result = _COMPARE[how.removesuffix("u")](a, b) | unordered
    else:
        a, b = (whole(x, kind) for x in values[:2])
        result = (
            a != b if how == "ne" else _COMPARE[{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(how, how)](a, b)
        )
    if len(values) > 2:  # combined with another predicate
        result = _LOGIC[modifiers[1]](result, values[2] != 0)
    return result.astype(np.uint64)


def _converted(modifiers: tuple[str, ...], value: Bits) -> Bits:
    to, of = modifiers[-2:]
    if of[0] == "f" or of == "bf16":
        x = floats(value, of).astype(np.float64)
        if to[0] in "su":
            x = np.trunc(x) if "rzi" in modifiers else np.rint(x) if "rni" in modifiers else np.floor(x)
            return cut(x.astype(np.int64), width(to))
        if "rni" in modifiers:
            x = np.rint(x)
        elif "rzi" in modifiers:
            x = np.trunc(x)
        elif "rmi" in modifiers:
            x = np.floor(x)
        if "sat" in modifiers:
            x = np.where(np.isnan(x), 0.0, np.clip(x, 0.0, 1.0))
        with np.errstate(over="ignore", invalid="ignore"):
            return bits_of(x.astype(np.float32) if to in ("bf16", "f16") else x, to)
    if to[0] == "f":
        return bits_of(whole(value, of).astype(np.float64), to)
    return cut(whole(value, of), width(to))


def _floating(name: str, modifiers: tuple[str, ...], x: list[NDArray[Any]], kind: str) -> NDArray[Any]:
    match name:
        case "add":
            return x[0] + x[1]
        case "sub":
            return x[0] - x[1]
        case "mul":
            return x[0] * x[1]
        case "div":
            return x[0] / x[1]
        case "fma":
            return _fused(modifiers, *x)
        case "rcp":
            result = 1 / x[0]
            if kind == "f64" and "approx" in modifiers:  # the upper half alone
                result = (result.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
            return result
        case "ex2":
            return np.exp2(x[0].astype(np.float64))
        case "lg2":
            return np.log2(x[0].astype(np.float64))
        case "sqrt":
            return np.sqrt(x[0])
        case "tanh":
            return np.tanh(x[0].astype(np.float64))
        case "neg":
            return -x[0]
        case "abs":
            return np.abs(x[0])
        case "copysign":
            return np.copysign(x[1], x[0])
        case "max":
            return np.fmax(x[0], x[1])
        case "min":
            return np.fmin(x[0], x[1])
    raise NotImplementedError(f"{name}.{'.'.join(modifiers)}")


def _fused(modifiers: tuple[str, ...], a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    wide = np.longdouble if a.dtype == np.float64 else np.float64  # holds a product exactly, or nearly
    exact = a.astype(wide) * b.astype(wide) + c.astype(wide)
    result = exact.astype(a.dtype)
    if "rm" in modifiers:
        result = np.where(result.astype(wide) > exact, np.nextafter(result, a.dtype.type(-np.inf)), result)
    return result


def _integer(name: str, modifiers: tuple[str, ...], values: list[Bits], kind: str) -> Bits:
    bits = width(kind)
    if name in _LOGIC:
        return cut(_LOGIC[name](values[0], values[1]), bits)
    if name == "not":
        return cut(~values[0], bits)
    if name == "shl":
        by = np.minimum(whole(values[1], "u32"), np.uint64(63))
        return np.where(whole(values[1], "u32") >= bits, np.uint64(0), cut(values[0] << by, bits))
    if name == "shr":
        by = np.minimum(whole(values[1], "u32"), np.uint64(63))
        x = whole(values[0], kind)
        return cut(x >> by.astype(x.dtype), bits)
    x = [whole(value, kind) for value in values]
    with np.errstate(over="ignore"):
        match name:
            case "bfi":  # so many low bits of the first into the second, from a place on
                part = (np.uint64(1) << x[3] & np.uint64(0xFF)) - np.uint64(1) << x[2]
                return cut((x[0] << x[2] & part) | (x[1] & ~part), bits)
            case "prmt":  # bytes of both, each chosen by four bits of the third; the highest of them repeats its sign
                both, result = x[0] | x[1] << np.uint64(32), np.zeros_like(x[0])
                for place in range(4):
                    chosen = x[2] >> np.uint64(4 * place)
                    byte = both >> (np.uint64(8) * (chosen & np.uint64(7))) & np.uint64(0xFF)
                    sign = np.where(byte >= 0x80, np.uint64(0xFF), np.uint64(0))
                    result |= np.where(chosen & np.uint64(8) != 0, sign, byte) << np.uint64(8 * place)
                return result
            case "add":
                return cut(x[0] + x[1], bits)
            case "sub":
                return cut(x[0] - x[1], bits)
            case "neg":
                return cut(-x[0], bits)
            case "max":
                return cut(np.maximum(x[0], x[1]), bits)
            case "min":
                return cut(np.minimum(x[0], x[1]), bits)
            case "mul" | "mad":
                return _product(modifiers, x, values, bits)
            case "div" | "rem":
                quotient = np.abs(x[0]) // np.abs(x[1])
                if kind[0] == "s":
                    quotient = np.where((x[0] < 0) != (x[1] < 0), -quotient, quotient)
                return cut(quotient if name == "div" else x[0] - quotient * x[1], bits)
    raise NotImplementedError(f"{name}.{'.'.join(modifiers)}")


def _product(modifiers: tuple[str, ...], x: list[NDArray[Any]], values: list[Bits], bits: int) -> Bits:
    if "hi" in modifiers:
        if bits == 64:
            exact = [(int(a) * int(b)) >> 64 for a, b in zip(x[0], x[1], strict=True)]
            high = np.array([value & (2**64 - 1) for value in exact], np.uint64)
        else:
            high = cut((x[0] * x[1]) >> x[0].dtype.type(bits), bits)
        return cut(high + values[2], bits) if len(x) > 2 else high
    wide = 2 * bits if "wide" in modifiers else bits
    product = cut(x[0] * x[1], min(wide, 64))
    return cut(product + values[2], min(wide, 64)) if len(x) > 2 else product
