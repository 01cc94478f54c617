"""The flags of the persistent LSTM kernel: every order of the blocks' steps, and that what is planted is found."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.native.persistent_model import COMPILER, Numbers, ProtocolError, explore, header

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, for the kernel's own header")


def changed(**functions: Any) -> Numbers:
    return dataclasses.replace(header(), **functions)


@pytest.mark.parametrize(
    ("blocks", "warps", "steps", "options"),
    [
        (2, 1, 4, {}), (3, 1, 3, {}), (2, 2, 3, {}), (2, 1, 3, {"fine": True}), (2, 2, 2, {"fine": True}),
        (2, 1, 3, {"before": 1000}),  # a launch that goes on where another has ended
    ],
)  # fmt: skip
def test_every_order_is_right(blocks: int, warps: int, steps: int, options: dict[str, Any]) -> None:
    """Each part of h is read as the step before wrote it, nothing is overwritten that is still read, and all end."""
    found = explore(blocks, warps, steps, **options)
    assert found.states > 40
    assert found.ended >= 1
    assert not found.gave_up  # nobody waits for ever


@pytest.mark.parametrize("absent", [0, 2])
def test_a_block_that_is_not_resident_is_an_error_and_not_for_ever(absent: int) -> None:
    found = explore(3, 1, 3, absent=absent)
    assert found.ended >= 1
    assert found.gave_up


def test_waits_given_up_too_early_are_an_error_and_not_for_ever() -> None:
    """At any poll: whoever is left ends as well, and nobody takes what a block reads that gives up."""
    found = explore(2, 2, 2, patience="short")
    assert found.ended > 1
    assert found.gave_up


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("no acquire", {"acquire": False}, "a race"),
    ("no release", {"release": False}, "a race"),
    ("a single half", {"numbers": {"written": lambda s: 0, "read": lambda s: 0}}, "a race|reads step"),
    ("the epoch before", {"numbers": {"awaited": lambda before, s: before + s - 1}}, "a race|reads step"),
    ("an epoch too late", {"numbers": {"awaited": lambda before, s: before + s + 1}}, "nobody can go on"),
    ("flags that nobody cleared", {"flags": 100}, "a race|reads step"),
    ("numbers that begin anew", {"before": 0, "flags": 3}, "a race|reads step"),
    ("no barrier after reading", {"barriers": (False, True)}, "a race"),
    ("no barrier after writing", {"barriers": (True, False)}, "a race"),
    ("no limit to polls", {"absent": 1}, "nobody can go on"),
]


@pytest.mark.parametrize(("options", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_what_is_planted_is_found(options: dict[str, Any], message: str) -> None:
    options = dict(options)
    if "numbers" in options:
        options["numbers"] = changed(**options["numbers"])
    with pytest.raises(ProtocolError, match=message):
        explore(2, 2, 4, **options, patience="never")
