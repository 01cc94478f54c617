"""Whether a checkpoint has the form of the run that is to go on from it.

Its checksums say that it is as somebody wrote it, not that this package did. What is taken over unseen would fail in
the middle of the training, with words that nobody can follow.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.tasks.metrics import METRICS

_LARGEST = 1 << 62
_LARGEST_FLOAT = 1e30  # no float32 that is multiplied by it is one
_WRITTEN_SINCE_0_1 = ("begun_from", "torch_random_of_others")  # which earlier checkpoints lack
_COUNTS = ("batches", "tokens", "window_tokens")  # of an epoch's progress
_OF_ANY_LENGTH = ("arguments", "environment", "records", "points", "carried", "torch_random_of_others")
_REMEDY = "it is damaged, or was altered by hand; start again without --resume"


@contextlib.contextmanager
def refused_if_odd(folder: Path | None) -> Iterator[None]:
    """Within the block a checkpoint's contents are taken over; whatever fails there is its fault."""
    try:
        yield
    except InputError:
        raise
    except (
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, MemoryError, AssertionError,
    ) as error:  # fmt: skip
        raise InputError(f"{folder}: its checkpoint cannot be taken over ({shortened(error)}): {_REMEDY}") from None


def check_heads(state: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint does not say what it was made with."""
    for name in ("arguments", "environment"):
        if not isinstance(state[name], dict):
            raise ValueError(f"{name} is no mapping")
    if not isinstance(state["records"], list):
        raise ValueError("records is no list of epochs")


def check_form(state: Mapping[str, Any], like: Mapping[str, Any], carried: list[Any]) -> None:
    """Raise ValueError where a checkpoint's entries are not of the form that the run itself would write.

    Args:
        state: of the checkpoint, whose heads have been checked.
        like: what the run would write before its first step.
        carried: the form of what it carries from batch to batch.
    """
    if missing := [name for name in like if name not in state and name not in _WRITTEN_SINCE_0_1]:
        raise ValueError(f"it lacks {missing[0]}")
    optimizer = {name: value for name, value in like["optimizer"].items() if name != "state"}
    for name, value in {**like, "optimizer": optimizer}.items():
        if name in state and name not in _OF_ANY_LENGTH:
            _check(state[name], value, name)
    for mine, theirs in zip(state["optimizer"]["param_groups"], optimizer["param_groups"], strict=True):
        set_once = {name: flag for name, flag in theirs.items() if flag is None or isinstance(flag, bool)}
        if flags := [name for name, flag in set_once.items() if mine.get(name) is not flag]:
            raise ValueError(f"the optimizer's {flags[0]} is another")
        numbers = {name: value for name, value in mine.items() if isinstance(value, int | float)}
        if odd := [name for name, value in numbers.items() if not abs(value) < _LARGEST]:
            raise ValueError(f"the optimizer's {shortened(odd[0], 40)} is {shortened(repr(mine[odd[0]]), 40)}")
    for where, value in (("epoch", state["epoch"]), *((f"done.{name}", state["done"][name]) for name in _COUNTS)):
        if value < 0:  # an epoch before the first would be trained, too
            raise ValueError(f"{where} is {shortened(repr(value), 40)}")
    if state["carried"]:
        _check(state["carried"], carried, "carried")
        _check_dtypes(state["carried"], carried, like["arguments"].get("precision") == "bfloat16")
    _check_parts(state["done"].get("parts", {}))
    _check_history(state["records"], state["points"])


def check_optimizer(optimizer: Optimizer) -> None:
    """Raise ValueError where what an optimizer has taken over does not go with its parameters."""
    for group in optimizer.param_groups:  # which torch fills up with what it has brought since
        if missing := optimizer.defaults.keys() - group.keys():
            raise ValueError(f"the optimizer lacks {sorted(missing)[0]}")
    needed = ("step", "exp_avg", "exp_avg_sq") if isinstance(optimizer, Adam) else ()
    for parameter, kept in optimizer.state.items():
        for name, value in {**dict.fromkeys(needed, False), **kept}.items():
            shape = torch.Size() if name == "step" else parameter.shape
            if value is not None or name in needed:
                fits = isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()
                if not fits or (name == "step" and not 0 <= float(value) < _LARGEST):
                    raise ValueError(f"the optimizer's {shortened(name, 40)} does not go with its parameter")


def _check(value: Any, like: Any, where: str) -> None:
    if like is None:
        return  # who reads it then reads none
    if isinstance(like, Tensor):
        if not isinstance(value, Tensor) or value.shape != like.shape:
            raise ValueError(f"{where} is no tensor of the shape {list(like.shape)}")
        if value.is_floating_point() != like.is_floating_point() or value.is_complex():
            raise ValueError(f"{where} has the dtype {value.dtype}")
    elif isinstance(like, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is no mapping")
        for key in like.keys() & value.keys():
            _check(value[key], like[key], f"{where}.{key}")
    elif isinstance(like, list | tuple) and not like:  # of losses, which come
        if not isinstance(value, list | tuple) or not all(map(_is_figure, value)):
            raise ValueError(f"{where} is no list of numbers")
    elif isinstance(like, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(like):
            raise ValueError(f"{where} is no list of {len(like)}")
        for place, (mine, theirs) in enumerate(zip(value, like, strict=True)):
            _check(mine, theirs, f"{where}[{place}]")
    elif isinstance(like, bool) or isinstance(value, bool):
        if type(value) is not type(like):
            raise ValueError(f"{where} is {shortened(repr(value), 40)}")
    elif isinstance(like, int | float):
        whole = not isinstance(like, int) or isinstance(value, int)
        if not isinstance(value, int | float) or not whole or _is_too_large(value):
            raise ValueError(f"{where} is {shortened(repr(value), 40)}")
    elif isinstance(like, str) and not isinstance(value, str):
        raise ValueError(f"{where} is {shortened(repr(value), 40)}")


def _check_dtypes(carried: Any, like: Any, is_bfloat16: bool) -> None:
    """Of states, whose shapes have been checked."""
    for mine, theirs in zip(carried, like, strict=True):
        for value, own in zip(mine, theirs, strict=True):
            if value.dtype != own.dtype and not (is_bfloat16 and value.dtype == torch.bfloat16):
                raise ValueError(f"carried has the dtype {value.dtype}")


def _check_parts(parts: Any) -> None:
    """Tokens and summed loss of each part of the training, by its name."""
    if not isinstance(parts, dict):
        raise ValueError("done.parts is no mapping")
    for name, figures in parts.items():
        if not isinstance(figures, list) or len(figures) != 2 or not all(map(_is_figure, figures)) or figures[0] <= 0:
            raise ValueError(f"done.parts of {shortened(repr(name), 40)} is {shortened(repr(figures), 40)}")


def _check_history(records: Any, points: Any) -> None:
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("records is no list of epochs")
    for record in records:
        if not all(isinstance(name, str) for name in record):
            raise ValueError("an epoch's figure has no name")
        json.dumps(record)
        for name in ("loss", "valid_loss", *METRICS):
            if name in record and not _is_figure(record[name]):
                raise ValueError(f"an epoch's {name} is {shortened(repr(record[name]), 40)}")
    if not isinstance(points, list):
        raise ValueError("points is no list")
    for point in points:
        if not isinstance(point, list | tuple) or len(point) != 2 or not all(map(_is_figure, point)):
            raise ValueError(f"a point of the loss curve is {shortened(repr(point), 40)}")


def _is_too_large(value: float) -> bool:
    """An infinite one is not: no epoch has been the best yet."""
    return abs(value) > _LARGEST * 4 if isinstance(value, int) else _LARGEST_FLOAT <= abs(value) < math.inf


def _is_figure(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (abs(value) < _LARGEST_FLOAT or math.isnan(value))
    )
