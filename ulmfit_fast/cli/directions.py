"""``--direction both``: a training command twice, and one folder of the two models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from ulmfit_fast.core.console import say
from ulmfit_fast.core.distributed import current
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.storage.both_directions import has_both, join
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.output_folder import output_folder
from ulmfit_fast.text.tokenizer import DIRECTIONS

BOTH = "both"
_OF_A_BASE = ("language_model", "pretrained")  # parameters of the commands, that name a model to go on with


def in_both_directions(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a training command ``--direction both``, which is implied where its base is of both directions.

    To stand above the options of the configuration that has the direction.
    """

    def run(**values: Any) -> None:
        bases = {name: find_pretrained(values[name]) for name in _OF_A_BASE if values.get(name) is not None}
        asked = values.get("direction") == BOTH
        if not asked and not any(map(has_both, bases.values())):
            command(**values)
            return
        for base in bases.values():
            if not has_both(base):
                raise InputError(f"--direction both: {base} has one; make one of both by pretrain-lm --direction both")
        if asked and bases:  # which settle it; it is no contradiction
            click.get_current_context().set_parameter_source("direction", ParameterSource.DEFAULT)
        output = values["output"]
        with output_folder(output, values["overwrite"], values["resume"]):
            is_first = current().is_first
            if is_first and has_both(output):  # none any more, until both are there again
                (output / "config.json").unlink()
            for direction in DIRECTIONS:
                say(f"{direction}:", error=True)
                changed: dict[str, Any] = {name: base / direction for name, base in bases.items()}
                if asked:
                    changed["direction"] = DIRECTIONS[0] if bases else direction
                command(**values | changed | {"output": output / direction})
            if is_first:
                join(output)
        say(f"both directions in {output}")

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    run.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    for option in run.__click_params__:  # type: ignore[attr-defined]
        if option.name == "direction":
            option.metavar = f"[{'|'.join((*DIRECTIONS, BOTH))}]"
            option.help = f"{option.help}; both: two models in one folder, whose probabilities are averaged"
    return run
