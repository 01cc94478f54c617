"""What configurations are made of: fields with a description and a range, which the command line takes over."""

from __future__ import annotations

import math
from dataclasses import field, fields
from typing import Any, TypeVar

import numpy as np

from ulmfit_fast.core.errors import InputError


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A configuration field with its description, which the command line shows, and its range."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


_LARGEST = (1 << 63) - 1  # what the operations take
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def _plain(value: Any, kind: type) -> Any:
    """NumPy's numbers, and whole ones where any number goes, as Python's of that kind."""
    if isinstance(value, np.generic):
        value = value.item()
    return float(value) if kind is float and type(value) is int else value


T = TypeVar("T")


def documented(config: type[T]) -> type[T]:
    """Adds what its fields mean, and their defaults, to a configuration's docstring."""
    lines = [f"        {f.name}: {f.metadata['help']} (default {f.default!r})." for f in fields(config)]  # type: ignore[arg-type]
    config.__doc__ = "\n".join([f"{config.__doc__}\n\n    Args:", *lines, ""])
    return config


def check_settings(config: Any) -> None:
    """Raises InputError where a field of ``setting`` is of another kind than its default, or out of its range.

    Numbers become Python's.
    """
    for f in fields(config):
        value, limits = _plain(getattr(config, f.name), type(f.default)), f.metadata
        object.__setattr__(config, f.name, value)
        wrong = None
        if type(value) is not type(f.default):
            wrong = _KINDS[type(f.default)]
        elif isinstance(value, float) and not math.isfinite(value):
            wrong = "a finite number"
        elif isinstance(value, int) and abs(value) > _LARGEST:
            raise InputError(
                f"{type(config).__name__}: {f.name} must be at most {_LARGEST}, got one of {value.bit_length()} bits"
            )
        elif limits["at_least"] is not None and value < limits["at_least"]:
            wrong = f"at least {limits['at_least']}"
        elif limits["above"] is not None and value <= limits["above"]:
            wrong = f"above {limits['above']}"
        elif limits["at_most"] is not None and value > limits["at_most"]:
            wrong = f"at most {limits['at_most']}"
        elif limits["choices"] and value not in limits["choices"]:
            wrong = f"one of {', '.join(limits['choices'])}"
        if wrong:
            raise InputError(f"{type(config).__name__}: {f.name} must be {wrong}, got {value!r}")
