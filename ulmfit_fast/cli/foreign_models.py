"""Files of fastai as MODEL of a command: what tells of them what they do not say themselves."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli import options
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.storage.model_folder import save_model
from ulmfit_fast.tasks.task import TASKS
from ulmfit_fast.text.tokenizer import DIRECTIONS

OF_A_FILE = ("vocabulary", "labels", "task", "tokenizer", "direction")
_OPTIONS = (
    click.option("--vocabulary", type=Path, help="of a file of fastai: its tokens in order, a .pkl, a .json, or lines"),
    click.option(
        "--labels", type=Path, help="of a classifier's file: its labels in order, a .json list or a label a line"
    ),
    click.option(
        "--task", type=click.Choice(list(TASKS)), help="of a classifier's file: its task  [default: single_label]"
    ),
    click.option(
        "--tokenizer", type=click.Choice(["word", "whitespace", "spacy"]),
        help="of a file of fastai: spacy splits texts exactly as fastai does (extra spacy), word as this package  "
        "[default: spacy of a classifier, word of a language model]",
    ),
    click.option(
        "--direction", type=click.Choice(DIRECTIONS), help="in which the file's model reads texts  [default: forward]"
    ),
)  # fmt: skip


def of_a_file(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options ``OF_A_FILE`` for a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def as_folder(
    path: Path, vocabulary: Path | None, labels: Path | None, task: str | None, tokenizer: str | None,
    direction: str | None,
) -> Iterator[Path]:  # fmt: skip
    """A model folder of a file of fastai; within the block."""
    from ulmfit_fast.interop.fastai import holds_classifier, import_classifier, import_language_model
    from ulmfit_fast.interop.foreign_files import read_plain, read_weights

    if vocabulary is None:
        raise InputError(f"{path}: is a file of weights; --vocabulary is needed, its tokens in order")
    source: dict[str, Any] = {"stage": "import", "weights": path.name, "vocabulary": vocabulary.name}
    kinds: dict[str, Any] = {"direction": direction or "forward"}
    with tempfile.TemporaryDirectory() as folder:
        if holds_classifier(read_weights(path)):
            known = None if labels is None else read_plain(labels)
            if known is not None and not isinstance(known, list):
                raise InputError(f"{labels}: is not a list of labels")
            kinds |= {"task": task or "single_label", "tokenizer": tokenizer or "spacy"}
            classifier = import_classifier(path, vocabulary, known, **kinds)
            save_model(folder, classifier.model, classifier.tokenizer, classifier.task, source)
        else:
            options.refuse_given(("labels", "task"), f"{path} holds a language model")
            kinds["tokenizer"] = tokenizer or "word"
            language_model = import_language_model(path, vocabulary, **kinds)
            save_model(folder, language_model.model, language_model.tokenizer, training_args=source)
        yield Path(folder)
