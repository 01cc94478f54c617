"""The native ops, called as torch hands them over: any shapes, strides, dtypes, values and wrong arguments.

What an op does not take it says; nothing else may end the process. Arguments that are right but lie in memory in
another way must give the same bits. With the sanitizers' build (``make fuzz-native``) reads beyond a tensor are found,
too.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.surface import Case, Surface
from tests.ops.every_op import OPS, arguments_of, call, overload, tensors_of

_DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8,
    torch.bool, torch.complex64,
)  # fmt: skip
_INTEGERS = (0, 1, -1, 2, 3, 5, 8, 64, 1000, (1 << 31) - 1, -(1 << 31), 1 << 32, (1 << 62), (1 << 63) - 1, -(1 << 63))
_FLOATS = (0.0, 1.0, -1.0, 0.5, 0.999, 1e-30, 1e30, -0.0, float("nan"), float("inf"), float("-inf"))


class Operations(Surface):
    name = "operations"
    refusals = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, MemoryError)
    memory = 3 << 30  # sizes that are told are allocated
    seconds = 60.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.set_num_threads(2)

    def case(self, random: Random) -> Case:
        op = random.choice(OPS)
        torch.manual_seed(random.getrandbits(40))
        lengths = tuple(
            sorted(
                (random.randrange(1, random.choice((3, 9, 40))) for _ in range(random.randrange(1, 7))), reverse=True
            )
        )
        dtype = random.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16))
        try:
            arguments = arguments_of(op, lengths if random.random() < 0.95 else (), dtype, random.choice((0, 3)))
        except (ValueError, TypeError, RuntimeError):  # an op without this dtype
            arguments = arguments_of(op, lengths)
        for name in tensors_of(op):
            if isinstance(arguments.get(name), Tensor):
                arguments[name] = arguments[name].detach()
        if random.random() < 0.25:
            laid = {
                name: _laid_out(random, value) if isinstance(value, Tensor) else value
                for name, value in arguments.items()
            }
            return lambda: _same(op, arguments, laid)
        for name in random.sample(list(arguments), min(len(arguments), random.choice((1, 1, 1, 2, 3)))):
            arguments[name] = _other(random, arguments[name])
        sizes = [arguments.get("rows"), arguments.get("columns")]
        if all(isinstance(size, int) for size in sizes) and 1 << 26 < sizes[0] * sizes[1] < 1 << 40:
            arguments["rows"], arguments["columns"] = 3, 1000  # such a mask is made, if there is time
        return lambda: _call(op, arguments)


def _call(op: str, arguments: dict[str, Any]) -> None:
    for result in call(op, arguments):
        assert isinstance(result, Tensor)
        if result.device.type == "cpu" and 0 < result.numel() < 1 << 22:
            result.clone()  # reads all of it


def _same(op: str, arguments: dict[str, Any], laid: dict[str, Any]) -> None:
    for name, mine, theirs in zip(
        [r.name for r in overload(op)._schema.returns], call(op, laid), call(op, arguments), strict=True
    ):
        assert mine.dtype == theirs.dtype, (op, name)
        assert mine.shape == theirs.shape, (op, name)
        as_bytes = [x.contiguous().reshape(-1).view(torch.uint8) for x in (mine, theirs)]
        same = torch.equal(*as_bytes) or torch.equal(torch.nan_to_num(mine), torch.nan_to_num(theirs))
        assert same, f"{op}: {name} depends on how its arguments lie in memory"


def _laid_out(random: Random, x: Tensor) -> Tensor:
    """The same numbers elsewhere: with gaps, turned, at an odd address, or many times the same memory."""
    match random.randrange(6):
        case 0 if x.dim() >= 2:
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        case 1 if x.dim() >= 1:
            wide = torch.full((*x.shape[:-1], x.shape[-1] * 2 + 1), 77 if x.dtype == torch.uint8 else 3, dtype=x.dtype)
            wide[..., 1::2] = x
            return wide[..., 1::2]
        case 2 if x.dim() >= 1:
            tall = torch.zeros((x.shape[0] + 3, *x.shape[1:]), dtype=x.dtype)
            tall[2:-1] = x
            return tall[2:-1]
        case 3:
            flat = torch.zeros(x.numel() + 1, dtype=x.dtype)
            flat[1:] = x.reshape(-1)
            return flat[1:].view(x.shape)
        case 4:
            return x.clone().requires_grad_(x.is_floating_point() and random.random() < 0.5).detach()
    return x


def _other(random: Random, value: Any) -> Any:
    if isinstance(value, Tensor):
        return _other_tensor(random, value)
    if isinstance(value, bool):
        return random.choice((not value, 2, None))
    if isinstance(value, int):
        return random.choice((*_INTEGERS, None, 0.5))
    if isinstance(value, float):
        return random.choice((*_FLOATS, None))
    if isinstance(value, list):
        return random.choice(
            ([], value[:-1], [*value, True], [not each for each in value], [random.random() < 0.5 for _ in value])
        )
    if isinstance(value, torch.dtype):
        return random.choice(_DTYPES)
    return random.choice((None, torch.zeros(3), 1))  # of an optional tensor


def _other_tensor(random: Random, x: Tensor) -> Any:
    match random.randrange(14):
        case 0:
            return x.to(random.choice(_DTYPES))
        case 1:
            return _filled(random, tuple(_other_size(random, size) for size in x.shape), x.dtype)
        case 2:
            return _filled(random, (*x.shape, random.randrange(4)) if random.random() < 0.5 else x.shape[:-1], x.dtype)
        case 3:
            return random.choice((None, x.to("meta"), x.to_sparse() if x.dim() else x, torch.zeros(0, dtype=x.dtype)))
        case 4:  # more than there is memory for, were it not all one number
            return x.reshape(-1)[:1].expand(random.choice((1 << 20, 1 << 33, 1 << 45))) if x.numel() else x
        case 5 if x.dim() >= 1:
            return x[: x.shape[0] // 2] if random.random() < 0.5 else torch.cat([x, x])
        case 6 if x.dim() >= 2:
            return x.transpose(0, 1)
        case 7 if x.numel():
            shape = tuple(x.shape)
            return x.reshape(-1)[:1].expand(x.numel()).as_strided(shape, (0,) * len(shape))
        case _ if x.numel():
            return _with_values(random, x)
    return x


def _other_size(random: Random, size: int) -> int:
    return max(0, random.choice((size, size, size - 1, size + 1, 0, 1, 2 * size, 7)))


def _filled(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    x = torch.zeros(shape, dtype=dtype)
    return x if random.random() < 0.3 or not x.numel() else _with_values(random, x)


def _with_values(random: Random, x: Tensor) -> Tensor:
    """Some of its numbers are others: indices beyond, sizes that do not fit, NaN."""
    x = x.clone()
    flat = x.view(-1)
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.randrange(len(flat))
        if x.dtype == torch.bool:
            flat[place] = not flat[place]
        elif x.is_floating_point() or x.is_complex():
            flat[place] = random.choice(_FLOATS)
        else:
            info = torch.iinfo(x.dtype)
            near = int(flat[place]) + random.choice((-1, 1))
            flat[place] = min(max(random.choice((near, *_INTEGERS)), info.min), info.max)
    return x
