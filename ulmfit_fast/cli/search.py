"""The command that searches for a stage's options."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli import options, stages
from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.training.config import TrainingConfig
from ulmfit_fast.training.search import Trial, draw_search, parse_space, search

_SPACES = {
    "classifier": ("lr", "drop_mult=0.2:1.5", "discriminative_factor=1:3", "unfreezing=gradual,all"),
    "finetune-lm": ("lr", "drop_mult=0.2:1.5", "discriminative_factor=1:3"),
    "pretrain-lm": ("lr", "drop_mult=0.2:1.5"),
}


@click.command("search")
@click.argument("source", metavar="TEXTS", type=Path)
@stages.language_model
@click.option("--valid", type=Path, help="texts to measure on: a table for a classifier")
@click.option(
    "--valid-fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="classifier: hold this part of the table out instead, drawn by the seed from every label alike",
)  # fmt: skip
@click.option(
    "--space", multiple=True, metavar="NAME[=...]",
    help="option to search, may be given more than once: lr=1e-3:1e-1:log, frz-blocks=1:4, unfreezing=gradual,all; a "
    "name alone: all its choices, or from a tenth of its default to ten times it  [default: lr, drop-mult, "
    "discriminative-factor, unfreezing, so far as the stage has them]",
)  # fmt: skip
@click.option(
    "--trials", default=20, type=click.IntRange(min=1), show_default=True, help="trainings, with earlier ones"
)
@click.option("--study", type=Path, help="file that keeps the study (SQLite); given again, it goes on")
@click.option(
    "--measure", default="valid_loss", show_default=True,
    help="what counts, at a training's best epoch: valid_loss, perplexity, or a score of the task, such as f1_macro",
)  # fmt: skip
@stages.picture
@stages.replace_picture
@options.reading_options()
@options.label_columns
@options.max_texts
@stages.stage_options(without=("early_stopping", "checkpoint_minutes"))
def search_command(
    source: Path, language_model: Path | None, valid: Path | None, valid_fraction: float | None,
    space: tuple[str, ...], trials: int, study: Path | None, measure: str, output: Path, overwrite: bool,
    reading: ReadOptions, label_columns: tuple[str, ...], max_texts: int | None, stage: str, config: TrainingConfig,
) -> None:  # fmt: skip
    """Search for a stage's best options.

    A stage is trained again and again with other options (Optuna's tree of Parzen estimators), each time up to where it
    is behind the others. Options below that --space does not name stay as they are given. The best ones are printed as
    they go to train, finetune-lm or pretrain-lm. No model is written.
    """
    if find_spec("optuna") is None:
        raise InputError("search needs Optuna, which is not installed: pip install optuna")
    stages.check_picture(output, overwrite)
    tried = parse_space(space or _SPACES[stage], type(config))
    options.refuse_given(list(tried), "--space searches it")
    if valid is not None and valid_fraction is not None:
        raise InputError("--valid-fraction does not go with --valid")
    if stage == "classifier" and valid is None and valid_fraction is None:
        raise InputError("search measures on other texts than it trains on: give --valid or --valid-fraction")
    given = stages.StageInput(
        stage, source, language_model, reading, label_columns, max_texts, valid, valid_fraction
    )  # fmt: skip
    train = given.function(config)

    def tell(trial: Trial) -> None:
        say(f"trial {trial.number}: {_shown(trial.value)} ({trial.state}), {_as_options(trial.options)}", error=True)

    result = search(
        train, config, tried, trials, study=study, measure=measure, seed=config.seed, on_trial=tell
    )  # fmt: skip
    write_atomically(output, draw_search(result))
    say(f"best of {len(result.trials)} trials, {measure} {_shown(result.best.value)}; picture in {output}")
    say(_as_options(result.best.options))


def _shown(value: float | None) -> str:
    return "no epoch finished" if value is None else f"{value:.4f}"


def _as_options(values: dict[str, Any]) -> str:
    """The options as they are typed."""
    typed = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            typed.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            typed.append(f"--{flag} {value:.6g}" if isinstance(value, float) else f"--{flag} {value}")
    return " ".join(typed)


COMMANDS = {"search": search_command}
