"""The commands that look at learning rates before a stage is trained: its schedule drawn, the range test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli import options
from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.pipeline import finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.text.files import iterate_texts, sample_texts
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig, TrainingConfig
from ulmfit_fast.training.lr_finder import find_lr
from ulmfit_fast.training.lr_range import draw_finding
from ulmfit_fast.training.schedule_plot import draw_curves, rate_curves
from ulmfit_fast.training.tuning import prepare_config

STAGES: dict[str, type[TrainingConfig]] = {
    "classifier": ClassifierConfig, "finetune-lm": FinetuneLMConfig, "pretrain-lm": PretrainConfig,
}  # fmt: skip
# What the curves of a schedule depend on.
_OF_A_SCHEDULE = (
    "epochs", "lr", "schedule", "cut_frac", "ratio", "end_frac", "discriminative_factor", "lr_lowest", "dis_blocks",
    "unfreezing", "frz_blocks", "unfreeze_every", "optimizer",
)  # fmt: skip
_NOT_BY_A_TEST = ("epochs", "early_stopping", "checkpoint_minutes", "lr")  # one optimizer step after another, no epochs


def _stage_options(only: Sequence[str] = (), without: Sequence[str] = ()) -> Callable[[Any], Any]:
    """``--stage``, and an option for every field of the stages' configurations.

    The command receives ``stage`` and, as ``config``, the stage's configuration. Each option's default is the stage's;
    one that the stage does not have is refused.
    """
    known: dict[str, Field[Any]] = {}
    for kind in STAGES.values():
        known |= {f.name: f for f in fields(kind) if f.name not in known}
    chosen = [f for f in known.values() if (not only or f.name in only) and f.name not in without]

    def decorate(function: Any) -> Any:
        def run(stage: str, **values: Any) -> None:
            kind = STAGES[stage]
            own = {f.name for f in fields(kind)}
            given = {f.name: values.pop(f.name) for f in chosen}
            options.refuse_given([name for name in given if name not in own], f"it is no option of stage {stage}")
            config = kind(**{name: value for name, value in given.items() if value is not None})
            function(stage=stage, config=config, **values)

        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        run.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        for f in reversed(chosen):
            name, choices = f.name.replace("_", "-"), f.metadata["choices"]
            run = click.option(
                f"--{name}/--no-{name}" if isinstance(f.default, bool) else f"--{name}", f.name, default=None,
                type=type(f.default), help=f.metadata["help"], metavar=f"[{'|'.join(choices)}]" if choices else None,
            )(run)  # fmt: skip
        return click.option(
            "--stage", default="classifier", type=click.Choice(list(STAGES)), show_default=True,
            help="of training, whose options, and their defaults, the ones below are",
        )(run)  # fmt: skip

    return decorate


_png = click.option("--output", required=True, type=Path, help="picture to write, a .png")


@click.command("schedule")
@_png
@click.option("--overwrite", is_flag=True, help="replace the picture")
@click.option("--steps", default=100, type=click.IntRange(min=1), show_default=True, help="steps of an epoch")
@click.option("--num-layers", default=3, type=click.IntRange(min=1), show_default=True, help="LSTM layers of the model")
@_stage_options(_OF_A_SCHEDULE)
def schedule_command(
    output: Path, overwrite: bool, steps: int, num_layers: int, stage: str, config: TrainingConfig
) -> None:
    """Draw the learning rate of each layer group.

    A line a group, with gaps where it is frozen, and below it the momentum, where the schedule moves it. The first,
    highest and last rates are printed. Nothing is trained.
    """
    _check_picture(output, overwrite)
    options.refuse_unused_rates(config)
    lstm = [f"LSTM {i}" for i in range(1, num_layers + 1)]
    names = ["embedding", *lstm, "head"] if stage == "classifier" else [*lstm, "embedding and softmax"]
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
@click.option(
    "--model", "language_model", type=Path,
    help="folder of the language model that the stage goes on with (classifier: or of a classifier, or none)",
)  # fmt: skip
@_png
@click.option("--overwrite", is_flag=True, help="replace the picture")
@click.option("--lr-min", default=1e-7, type=float, show_default=True, help="rate of the first step")
@click.option("--lr-max", default=10.0, type=float, show_default=True, help="rate of the last step")
@click.option("--steps", default=100, type=click.IntRange(min=2), show_default=True, help="steps of the test")
@options.reading_options()
@options.label_column
@options.max_texts
@_stage_options(without=_NOT_BY_A_TEST)
def lr_find_command(
    source: Path, language_model: Path | None, output: Path, overwrite: bool, lr_min: float, lr_max: float, steps: int,
    reading: ReadOptions, label_column: str, max_texts: int | None, stage: str, config: Any,
) -> None:  # fmt: skip
    """Find a learning rate for a stage by the range test.

    The rate rises from step to step, up to where the loss gets much worse. Two rates are suggested: where the loss
    falls fastest, and the middle of its longest fall. Layers train as in the stage's first epoch, by default a
    classifier's head alone; --unfreezing all tests them together. TEXTS are a labelled table, or texts for a language
    model. No model is changed or written.
    """
    _check_picture(output, overwrite)
    options.refuse_unused_rates(config)
    options.refuse_unused_reading(reading, source)
    test: dict[str, Any] = {"lr_min": lr_min, "lr_max": lr_max, "steps": steps}
    if stage == "classifier":
        options.refuse_given(("split",), "a classifier's texts are rows of a table")
        documents = options.read_texts(source, reading, label_column, max_texts, config.seed)
        finding = find_lr(
            finetune_classifier, documents.texts, documents.labels or [], language_model, config, **test
        )  # fmt: skip
    else:
        options.refuse_given(("label_column",), f"stage {stage} reads no labels")
        texts = (
            list(iterate_texts(source, reading)) if max_texts is None
            else sample_texts(source, max_texts, config.seed, reading)
        )  # fmt: skip
        if stage == "pretrain-lm":
            options.refuse_given(("language_model",), "stage pretrain-lm begins with no model")
            finding = find_lr(pretrain_lm, texts, config, **test)
        elif language_model is None:
            raise InputError("--model is needed for stage finetune-lm: the folder of a language model")
        else:
            finding = find_lr(finetune_lm, texts, language_model, config, **test)
    write_atomically(output, draw_finding(finding))
    say(f"{len(finding.rates)} steps, rates {finding.rates[0]:.2g} to {finding.rates[-1]:.2g}; curve in {output}")
    for name, rate in (("steepest", finding.steepest), ("valley", finding.valley)):
        say(f"{name}: " + ("none, the loss does not fall" if rate is None else f"--lr {rate:.2g}"))


def _check_picture(output: Path, overwrite: bool) -> None:
    if output.suffix.lower() != ".png":
        raise InputError(f"--output {output}: a picture is written, give a name that ends in .png")
    if output.exists() and not overwrite:
        raise InputError(f"{output}: exists; choose another file or pass --overwrite")


COMMANDS = {command.name: command for command in (schedule_command, lr_find_command)}
