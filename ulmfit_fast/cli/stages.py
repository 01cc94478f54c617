"""What the commands share that look at a stage without training it for good: its options, its texts, a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli import options
from ulmfit_fast.cli.labelled_tables import LabelledTables
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.pipeline import finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.files import iterate_texts, sample_texts
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.remote_corpus import is_corpus
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig, TrainingConfig

STAGES: dict[str, type[TrainingConfig]] = {
    "classifier": ClassifierConfig, "finetune-lm": FinetuneLMConfig, "pretrain-lm": PretrainConfig,
}  # fmt: skip


def stage_options(only: Sequence[str] = (), without: Sequence[str] = ()) -> Callable[[Any], Any]:
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
            options.refuse_unused_rates(config)
            function(stage=stage, config=config, **values)

        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        run.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        for f in reversed(chosen):
            run = options.field_option(f)(run)
        return click.option(
            "--stage", default="classifier", type=click.Choice(list(STAGES)), show_default=True,
            help="of training, whose options, and their defaults, the ones below are",
        )(run)  # fmt: skip

    return decorate


language_model = click.option(
    "--model", "language_model", type=Path,
    help="folder of the language model that the stage goes on with (classifier: or of a classifier, or none)",
)  # fmt: skip
picture = click.option("--output", required=True, type=Path, help="picture to write, a .png")
replace_picture = click.option("--overwrite", is_flag=True, help="replace the picture")


def check_picture(output: Path, overwrite: bool) -> None:
    """Raises InputError where no picture can be written."""
    if output.suffix.lower() != ".png":
        raise InputError(f"--output {output}: a picture is written, give a name that ends in .png")
    if not output.absolute().parent.is_dir():
        raise InputError(f"{output}: the folder {output.absolute().parent} does not exist")
    if output.exists() and not overwrite:
        raise InputError(f"{output}: exists; choose another file or pass --overwrite")


@dataclass(frozen=True)
class StageInput:
    """What the command line says of a stage's texts.

    Args:
        stage: one of ``STAGES``.
        source: a table; or texts of a language model, or a corpus folder that tokenize wrote.
        language_model: that the stage goes on with.
        reading, label_columns: of both files.
        max_texts: of ``source``.
        valid: texts to measure on.
        valid_fraction: or the share of a table's rows that is held out.
    """

    stage: str
    source: Path
    language_model: Path | None
    reading: ReadOptions
    label_columns: tuple[str, ...]
    max_texts: int | None
    valid: Path | None = None
    valid_fraction: float | None = None

    def function(self, config: TrainingConfig) -> Callable[..., Any]:
        """The stage's function with its texts; takes ``config`` and ``callbacks``.

        Of ``config`` its seed counts and what it says of labels.

        Raises:
            InputError: an option that does nothing for this stage, no model where one is needed, unreadable texts.
        """
        if isinstance(config, ClassifierConfig):
            options.refuse_unused_reading(self.reading, self.source, self.valid)
            return self._classifier(config)
        options.refuse_given(("label_columns", "valid_fraction"), f"stage {self.stage} reads no labels")
        texts, valid = self._texts(config.seed)
        if self.stage == "pretrain-lm":
            options.refuse_given(("language_model",), "stage pretrain-lm begins with no model")
            return partial(pretrain_lm, texts, valid_texts=valid)
        if self.language_model is None:
            raise InputError("--model is needed for stage finetune-lm: the folder of a language model")
        return partial(finetune_lm, texts, self.language_model, valid_texts=valid)

    def _texts(self, seed: int) -> tuple[list[str] | Corpus, list[str] | None]:
        """To train a language model on, and to measure it on."""
        if is_corpus(self.source):
            settled = f"{self.source} is a corpus folder, tokenized before; give it to ulmfit-fast tokenize"
            options.refuse_given(("valid", "max_texts", *options.OF_READING), settled)
            return Corpus.load(self.source), None
        options.refuse_unused_reading(self.reading, self.source, self.valid)
        valid = None if self.valid is None else list(iterate_texts(self.valid, self.reading))
        if self.max_texts is None:
            return list(iterate_texts(self.source, self.reading)), valid
        return sample_texts(self.source, self.max_texts, seed, self.reading), valid

    def _classifier(self, config: ClassifierConfig) -> Callable[..., Any]:
        options.refuse_given(("split",), "a classifier's texts are rows of a table")
        documents, held_out = LabelledTables(
            self.source, self.reading, self.label_columns, self.max_texts, self.valid, self.valid_fraction
        ).read(config, self.language_model)
        return partial(
            finetune_classifier, documents.texts, documents.labels or [], self.language_model,
            valid_texts=None if held_out is None else held_out.texts,
            valid_labels=None if held_out is None else held_out.labels,
        )  # fmt: skip
