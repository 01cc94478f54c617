"""Options that name words for labels, and the sentences in which a language model may expect them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.label_words import TEMPLATES
from ulmfit_fast.tasks.labels import Label, shown


def label_words(required: bool, use: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--label LABEL=WORD,...`` and ``--template``, given as ``labels`` and ``templates``."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--template", "templates", multiple=True, default=TEMPLATES, show_default=True,
            help="a sentence with {text} and {label}; may be given more than once",
        )(command)  # fmt: skip
        return click.option(
            "--label", "labels", multiple=True, required=required, metavar="LABEL=WORD,...",
            help=f"a label and words that stand for it, such as pos=great,wonderful; given for each label{use}",
        )(command)  # fmt: skip

    return add


def parse_label_words(given: tuple[str, ...]) -> dict[Label, tuple[str, ...]]:
    """The words of each label. InputError for one without words, or twice."""
    found: dict[Label, tuple[str, ...]] = {}
    for each in given:
        label, equals, words = (part.strip() for part in each.partition("="))
        if not equals or not label or not words:
            raise InputError(f"--label {shown(each)}: give LABEL=WORD,WORD,..., such as pos=great,wonderful")
        if label in found:
            raise InputError(f"--label {shown(label)} is given twice; put its words into one, with commas")
        found[label] = tuple(word.strip() for word in words.split(","))
    return found
