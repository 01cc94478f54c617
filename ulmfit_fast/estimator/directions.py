"""Which language models an estimator begins with: one, or one of each direction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.estimator.configured import NAME
from ulmfit_fast.storage.both_directions import has_both
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.text.tokenizer import DIRECTIONS

BOTH = "both"
Pretrained = str | Path | Sequence[str | Path] | None


class Beginning(NamedTuple):
    """Of one of the estimator's models: its language model's folder, and the direction that is asked for."""

    folder: Path | None  # None: it is made
    direction: str | None  # None: the folder's, or the configuration's


def beginnings(pretrained: Pretrained, direction: str | None) -> list[Beginning]:
    """What the estimator's arguments mean: one model, or two, forward and backward.

    Raises:
        InputError: an unknown direction, a direction that ``pretrained`` lacks, or not one folder of each direction.
    """
    if direction not in (None, *DIRECTIONS, BOTH):
        raise InputError(f"{NAME}: direction must be None, {', '.join((*DIRECTIONS, BOTH))}, got {direction!r}")
    if pretrained is None:
        return [Beginning(None, each) for each in (DIRECTIONS if direction == BOTH else (direction,))]
    if not isinstance(pretrained, str | Path):
        if len(pretrained) != len(DIRECTIONS):
            raise InputError(f"{NAME}: pretrained takes one model, or (forward, backward); got {len(pretrained)}")
        if direction not in (None, BOTH):
            raise InputError(f"{NAME}: direction={direction!r} does not go with two models; give that one alone")
        return [Beginning(find_pretrained(each), name) for each, name in zip(pretrained, DIRECTIONS, strict=True)]
    folder = find_pretrained(pretrained)
    if has_both(folder):
        wanted = DIRECTIONS if direction in (None, BOTH) else (direction,)
        return [Beginning(folder / str(each), each) for each in wanted]
    if direction == BOTH:
        raise InputError(
            f"{NAME}: direction is 'both', but {pretrained} has one; give pretrained=(forward, backward), or a folder "
            "of both made by pretrain-lm --direction both"
        )
    return [Beginning(folder, direction)]
