"""Several labelled tables at once: one encoder, a head for each (multi-task learning)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.random import Generators
from ulmfit_fast.pipeline import LANGUAGE_MODEL, finetune_lm
from ulmfit_fast.storage.model_folder import CHECKPOINT
from ulmfit_fast.storage.output_folder import writes_output
from ulmfit_fast.storage.several_tables import check_names, check_tables_folder
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.training.beginning import (
    Base,
    data_and_task,
    load_base,
    new_classifiers,
    settle_encoder,
    with_head_of,
)
from ulmfit_fast.training.callbacks import Callback, EpochCallback, OnEpoch
from ulmfit_fast.training.classifier import ClassifierTrainer, check_base
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig
from ulmfit_fast.training.multi_task import SAMPLING, MultiTaskTrainer
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel
from ulmfit_fast.training.trainer import RunOptions

_NAME = "finetune_multitask"  # in messages


@dataclass(frozen=True)
class LabelledTexts:
    """One of the tables that ``finetune_multitask`` trains on.

    Args:
        texts, labels, sample_weight, valid_texts, valid_labels: as ``finetune_classifier``.
        task: what is predicted; None: as the configuration says.
        metric: what chooses the table's best epoch; None: as the configuration says.
        class_weight: "balanced", or what a text of each label counts; None: as the configuration says.
    """

    texts: Iterable[str]
    labels: Iterable[Any]
    sample_weight: Any = None
    valid_texts: Iterable[str] | None = None
    valid_labels: Iterable[Any] | None = None
    task: str | None = None
    metric: str | None = None
    class_weight: str | Mapping[Label, float] | None = None


@dataclass(frozen=True)
class _Table:
    """A table, checked: what to train on, the task of it, and the configuration with what is its own."""

    data: Dataset
    task: Task
    config: ClassifierConfig


@writes_output
@own_modes()
def finetune_multitask(
    tables: Mapping[str, LabelledTexts | tuple[Iterable[str], Iterable[Any]]],
    language_model: str | Path | TrainedLanguageModel | TrainedClassifier | None = None,
    config: ClassifierConfig | None = None,
    *,
    sampling: str = "proportional",
    finetune_config: FinetuneLMConfig | None = None,
    unlabeled: Iterable[str] = (),
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, TrainedClassifier]:
    """Stage three for several tables at once: classifiers that share an encoder while they train.

    Each step takes a batch of one table. It changes the encoder and that table's head. A table with validation texts
    keeps the weights of its own best epoch, encoder included; so the results are classifiers like any other, which have
    nothing in common any more.

    Args:
        tables: by name; (texts, labels) stands for ``LabelledTexts(texts, labels)``. Tables may have different tasks.
        language_model: as ``finetune_classifier``: a language model or a classifier, which brings the encoder.
        config: of all tables; ``task``, ``metric`` and ``class_weight`` a table may have otherwise.
        sampling: which table a step takes. "proportional": each as often as it has batches, so that an epoch reads
            every text once. "square-root": by the square root of that. "uniform": all tables alike. An epoch has as
            many steps with each; of a table that is drawn less often it reads a part, another one each time.
        finetune_config: where given, the language model is first fine-tuned on the texts of all tables.
        unlabeled: more texts for that.
        output: folder with a model folder for each table, under its name; the language model that was fine-tuned goes
            into ``language_model``.
        overwrite, resume, progress, on_epoch, callbacks: as ``finetune_classifier``. A record has the figures of each
            table in ``tables``.

    Returns:
        A classifier for each name.

    Raises:
        TypeError, InputError, TrainingDivergedError: as ``finetune_classifier``; the message names the table. Fewer
            than two tables, a name that cannot be a folder's.

    Source: Caruana, Multitask Learning, 1997 (one shared layer, an output a task); Raffel et al., arXiv 1910.10683,
    section 3.5.2 (sampling by size).
    """
    config = config or ClassifierConfig()
    if sampling not in SAMPLING:
        raise InputError(f"{_NAME}: sampling must be one of {', '.join(SAMPLING)}, got {sampling!r}")
    if len(tables) < 2:
        raise InputError(f"{_NAME}: give two tables or more, got {len(tables)}; finetune_classifier trains on one")
    check_names(list(tables), (LANGUAGE_MODEL,))
    folder = None if output is None else Path(output)
    if folder is not None:
        check_tables_folder(folder, list(tables), overwrite, resume)
    base = None if language_model is None else load_base(language_model)
    check_base(config, base)
    checked = {name: _checked(name, table, config, base) for name, table in tables.items()}
    if finetune_config is not None:
        if not isinstance(base, TrainedLanguageModel):
            raise InputError(f"{_NAME}: finetune_config needs a language model to fine-tune; give language_model")
        texts = [text for table in checked.values() for text in table.data.texts]
        base = finetune_lm(
            [*texts, *as_texts(_NAME, unlabeled, "unlabeled")], base, finetune_config,
            output=None if folder is None else folder / LANGUAGE_MODEL, overwrite=overwrite, resume=resume,
            progress=progress, on_epoch=on_epoch, callbacks=callbacks,
        )  # fmt: skip
    told = [*callbacks, *([] if on_epoch is None else [OnEpoch(on_epoch)])]
    trainer = _trainer(checked, base, config, sampling, RunOptions(folder, resume, progress, told))
    if folder is not None and not resume:
        for name in tables:  # of an earlier training of that table alone
            (folder / name / CHECKPOINT).unlink(missing_ok=True)
    return trainer.trained()


def _checked(name: str, table: Any, config: ClassifierConfig, base: Base | None) -> _Table:
    """A table's data and task. Raises InputError that names the table."""
    table = table if isinstance(table, LabelledTexts) else LabelledTexts(*table)
    own = {key: value for key in ("task", "metric") if (value := getattr(table, key)) is not None}
    weights: Any = table.class_weight
    if isinstance(weights, str):
        own, weights = own | {"class_weight": weights}, None
    try:
        config = replace(config, **own)
        data, task = data_and_task(
            _NAME, table.texts, table.labels, config, weights,
            base.task if isinstance(base, TrainedClassifier) else None, weights=table.sample_weight,
            valid_texts=table.valid_texts, valid_labels=table.valid_labels,
        )  # fmt: skip
    except (InputError, TypeError) as error:
        raise type(error)(f"table {name}: {error}") from None
    return _Table(data, task, with_head_of(config, base, task))


def _trainer(
    tables: Mapping[str, _Table], base: Base | None, config: ClassifierConfig, sampling: str, options: RunOptions
) -> MultiTaskTrainer:
    generators = Generators(config.seed)
    texts = [text for table in tables.values() for text in table.data.texts]
    config = config.for_texts(len(texts))
    config, tokenizer, sizes = settle_encoder(_NAME, base, config, texts)
    shared = {name: getattr(config, name) for name in ("epochs", "direction", "encoder")}
    configs = {name: replace(table.config, **shared) for name, table in tables.items()}
    tasks = [table.task for table in tables.values()]
    models = new_classifiers(base, tasks, list(configs.values()), sizes, generators)
    expects = base.model if isinstance(base, TrainedLanguageModel) else None
    members = {
        name: ClassifierTrainer(
            model, tokenizer, table.task, table.data, configs[name],
            RunOptions(None, False, options.progress), generators, expects,
        )
        for (name, table), model in zip(tables.items(), models, strict=True)
    }  # fmt: skip
    return MultiTaskTrainer(members, config, options, generators, sampling)
