"""The commands that look at learning rates before a stage is trained: its schedule drawn, the range test."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from ulmfit_fast.cli import options, stages
from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.console import say
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.training.config import ClassifierConfig, TrainingConfig
from ulmfit_fast.training.lr_finder import find_lr
from ulmfit_fast.training.lr_range import draw_finding
from ulmfit_fast.training.schedule_plot import draw_curves, rate_curves
from ulmfit_fast.training.schedules import NUMBERS
from ulmfit_fast.training.tuning import prepare_config

# What the curves of a schedule depend on.
_OF_A_SCHEDULE = (
    "epochs", "lr", "schedule", *NUMBERS, "discriminative_factor", "lr_lowest", "dis_blocks", "unfreezing",
    "frz_blocks", "unfreeze_every", "optimizer",
)  # fmt: skip
_NOT_OF_A_TEST = ("epochs", "early_stopping", "checkpoint_minutes", "lr")  # one step after another, no epochs


@click.command("schedule")
@stages.picture
@stages.replace_picture
@click.option("--steps", default=100, type=click.IntRange(min=1), show_default=True, help="steps of an epoch")
@click.option("--num-layers", default=3, type=click.IntRange(min=1), show_default=True, help="LSTM layers of the model")
@stages.stage_options(_OF_A_SCHEDULE)
def schedule_command(
    output: Path, overwrite: bool, steps: int, num_layers: int, stage: str, config: TrainingConfig
) -> None:
    """Draw the learning rate of each layer group.

    A line a group, with gaps where it is frozen, and below it the momentum, where the schedule moves it. The first,
    highest and last rates are printed. Nothing is trained.
    """
    stages.check_picture(output, overwrite)
    if isinstance(config, ClassifierConfig):
        config = config.for_texts(steps * config.batch_size)
    lstm = [f"LSTM {i}" for i in range(1, num_layers + 1)]
    names = ["embedding", *lstm, "head"] if stage == "classifier" else [*lstm, "embedding"]
    curves = rate_curves(partial(prepare_config, config), config.epochs, steps, len(names))
    write_atomically(output, draw_curves(curves, names, steps))
    for name, rates in zip(names, curves.rates, strict=True):
        trained = [step for step, rate in enumerate(rates) if rate > 0]
        if not trained:
            say(f"{name}: stays frozen")
            continue
        peak = max(trained, key=rates.__getitem__)
        say(
            f"{name}: {rates[trained[0]]:.3g} at step {trained[0]}, highest {rates[peak]:.3g} at step {peak}, "
            f"{rates[trained[-1]]:.3g} at step {trained[-1]}"
        )
    say(f"curves in {output}")


@click.command("lr-find")
@click.argument("source", metavar="TEXTS", type=Path)
@stages.language_model
@stages.picture
@stages.replace_picture
@click.option("--lr-min", default=1e-7, type=float, show_default=True, help="rate of the first step")
@click.option("--lr-max", default=10.0, type=float, show_default=True, help="rate of the last step")
@click.option("--steps", default=100, type=click.IntRange(min=2), show_default=True, help="steps of the test")
@options.reading_options()
@options.label_columns
@options.max_texts
@stages.stage_options(without=_NOT_OF_A_TEST)
def lr_find_command(
    source: Path, language_model: Path | None, output: Path, overwrite: bool, lr_min: float, lr_max: float, steps: int,
    reading: ReadOptions, label_columns: tuple[str, ...], max_texts: int | None, stage: str, config: TrainingConfig,
) -> None:  # fmt: skip
    """Find a learning rate for a stage by the range test.

    The rate rises from step to step, up to where the loss gets much worse. Two rates are suggested: where the loss
    falls fastest, and the middle of its longest fall. Layers train as in the stage's first epoch, by default a
    classifier's head alone; --unfreezing all tests them together. TEXTS are a labelled table, or texts for a language
    model. No model is changed or written.
    """
    stages.check_picture(output, overwrite)
    given = stages.StageInput(stage, source, language_model, reading, label_columns, max_texts)
    finding = find_lr(given.function(config), config=config, lr_min=lr_min, lr_max=lr_max, steps=steps)
    write_atomically(output, draw_finding(finding))
    say(f"{len(finding.rates)} steps, rates {finding.rates[0]:.2g} to {finding.rates[-1]:.2g}; curve in {output}")
    for name, rate in (("steepest", finding.steepest), ("valley", finding.valley)):
        say(f"{name}: " + ("none, the loss does not fall" if rate is None else f"--lr {rate:.2g}"))


COMMANDS = {command.name: command for command in (schedule_command, lr_find_command)}
