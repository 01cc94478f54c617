"""The tables that a classifier is trained on and measured on, as the command line names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ulmfit_fast.cli import options
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import read_config
from ulmfit_fast.tasks.multi_label import MultiLabel
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import AUTO, Task, kind_of
from ulmfit_fast.text.files import Documents
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.training.config import ClassifierConfig


@dataclass(frozen=True)
class LabelledTables:
    """What the command line says of them.

    Args:
        source: to train on.
        reading, label_columns: of both tables.
        max_texts: of ``source``, drawn by the seed.
        valid: table to measure on.
        valid_fraction: or the share of the rows of ``source`` that is held out.
        delimiter_given: whether somebody said what stands between labels; None: as the command line shows.

    Raises:
        InputError: both ``valid`` and ``valid_fraction``.
    """

    source: Path
    reading: ReadOptions
    label_columns: tuple[str, ...]
    max_texts: int | None
    valid: Path | None = None
    valid_fraction: float | None = None
    delimiter_given: bool | None = None

    def __post_init__(self) -> None:
        if self.valid is not None and self.valid_fraction is not None:
            raise InputError("--valid-fraction does not go with --valid")

    def read(self, config: ClassifierConfig, base: Path | str | None) -> tuple[Documents, Documents | None]:
        """The texts to train on, and those to measure on.

        ``base`` is the model to go on with, whose task is the default.

        Raises:
            InputError: unreadable tables; labels that the task cannot have, or that training lacks.
        """
        given = options.is_given("label_delimiter") if self.delimiter_given is None else self.delimiter_given
        kind = _kind_of_task(config, self.label_columns, base, given)
        delimiter = _delimiter(config, kind, given)

        def table(path: Path, max_texts: int | None) -> Documents:
            return options.read_labelled(path, self.reading, self.label_columns, delimiter, max_texts, config.seed)

        documents = table(self.source, self.max_texts)
        labels = kind.read(documents.labels, str(self.source), documents.rows)
        task = kind.made_for(labels, config.task_options, str(self.source))
        if self.valid is not None:
            held_out = table(self.valid, None)
            task.encode(kind.read(held_out.labels, str(self.valid), held_out.rows), str(self.valid), held_out.rows)
            return documents, held_out
        if self.valid_fraction is None:
            return documents, None
        kept, held = kind.hold_out(labels, self.valid_fraction, config.seed, str(self.source))
        return documents.take(kept), documents.take(held)


def _kind_of_task(
    config: ClassifierConfig, label_columns: tuple[str, ...], base: Path | str | None, delimiter_given: bool
) -> type[Task]:
    """The task that is asked for, or that of the classifier to go on with, or what the options on labels mean."""
    if config.task != AUTO:
        return kind_of(config.task)
    settings = {} if base is None else read_config(find_pretrained(base))
    if "task_type" in settings:
        return kind_of(settings["task_type"])
    return MultiLabel if len(label_columns) > 1 or delimiter_given else SingleLabel


def _delimiter(config: ClassifierConfig, kind: type[Task], given: bool) -> str | None:
    """What stands between the labels of a text; None where a text has one."""
    if kind is MultiLabel:
        return config.label_delimiter
    if given:
        raise InputError(f"--label-delimiter does nothing here: with the task {kind.type} a text has one label")
    return None
